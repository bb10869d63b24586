"""The page in a real browser: an image is dropped, its boxes are redrawn, and its annotation is downloaded."""

from __future__ import annotations

import base64
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.browser import DESKTOP, watched_page
from tests.export.examples import read_annotations
from tests.server.conftest import LIMITS, MARKUP, Served
from tests.server.hostile import BROKEN, encoded
from tokenloc.data.annotations import Annotation
from tokenloc.inference import Localizer, PredictionOptions

REFUSED = "Failed to load resource: the server responded with a status of "
WIDTH = "image => image.decode().then(() => image.naturalWidth)"
FILES = """async ([content, name]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([Uint8Array.from(atob(content), (one) => one.charCodeAt(0))], name));
    return transfer;
}"""
CORNERS = """rects => rects.map(rect => {
    const [x, y, width, height] = ["x", "y", "width", "height"].map((name) => Number(rect.getAttribute(name)));
    return [90 * x, 60 * y, 90 * (x + width), 60 * (y + height)];
})"""
expect.set_options(timeout=60_000)


@pytest.fixture
def opened(page: Page, served: Served) -> Page:
    page.goto(served.url)
    expect(page.locator(".hint")).to_be_visible()
    return page


def expect_boxes(page: Page, localizer: Localizer, photo: Path, threshold: float, **options: object) -> np.ndarray:
    """Wait for a threshold; compare the boxes on the image of 90 x 60 pixels with those of a Localizer."""
    expect(page.locator("figcaption").nth(1)).to_have_text(f"map, threshold {threshold:.2f}")
    assert page.locator(".slider output").inner_text() == f"{threshold:.2f}"
    drawn = page.locator("#results figure").first.locator("rect.predicted").evaluate_all(CORNERS)
    boxes = Localizer(localizer.model, localizer.metadata, threshold, **options)(photo).boxes
    np.testing.assert_allclose(np.array(drawn).reshape(-1, 4), boxes, atol=0.011)
    return boxes


def downloaded(page: Page, form: str, folder: Path) -> Annotation:
    page.get_by_label("Annotation format").select_option(form)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download annotation").click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    if path.suffix == ".zip":
        ZipFile(path).extractall(folder)
    (annotation,) = read_annotations(form, folder)
    return annotation


def test_a_dropped_image_is_localized_and_its_annotation_downloaded(
    opened: Page, localizer: Localizer, photo: Path, tmp_path: Path
) -> None:
    expect(opened.get_by_role("button", name="Download annotation")).to_be_disabled()
    content = base64.b64encode(photo.read_bytes()).decode()
    files = opened.evaluate_handle(FILES, [content, photo.name])
    opened.locator("#drop").dispatch_event("drop", {"dataTransfer": files})
    result = localizer(photo)
    expect(opened.locator("#results h3")).to_have_text(f"{result.label} {result.score:.0%}")
    expect_boxes(opened, localizer, photo, 0.4)
    sizes = [image.evaluate(WIDTH) for image in opened.locator("#results img").all()]
    assert sizes == [90, 90, result.map.shape[1]]  # the image twice, and the map
    annotation = downloaded(opened, "coco", tmp_path)
    assert annotation.file_name == photo.name
    assert [label for label, _ in annotation.objects] == [result.label]
    np.testing.assert_allclose([box for _, box in annotation.objects], result.boxes, atol=1e-4)


def test_the_threshold_redraws_boxes_without_the_network(
    opened: Page, localizer: Localizer, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened.set_input_files("#file", photo)
    expect_boxes(opened, localizer, photo, 0.4)
    result = localizer(photo)
    high = next(step / 100 for step in range(99, 0, -1) if len(result.at_threshold(step / 100, "all").boxes) > 1)
    monkeypatch.setattr(Localizer, "top", None)
    slider = opened.get_by_label("Threshold")
    for threshold in (0.8, high, 0.05):
        slider.fill(str(threshold))
        expect_boxes(opened, localizer, photo, threshold)
    slider.press("ArrowRight")
    expect_boxes(opened, localizer, photo, 0.06)
    opened.get_by_label("Boxes").select_option("all")
    slider.fill(str(high))
    every = expect_boxes(opened, localizer, photo, high, objects="all")
    expect(opened.locator("figcaption").first).to_have_text(f"{len(every)} boxes")
    annotation = downloaded(opened, "yolo", tmp_path)
    np.testing.assert_allclose([box for _, box in annotation.objects], every, atol=1e-4)
    opened.get_by_role("button", name="Reset").click()
    expect_boxes(opened, localizer, photo, 0.4, objects="all")


def test_another_model_has_its_own_threshold_and_its_markup_is_escaped(
    opened: Page, localizer: Localizer, photo: Path
) -> None:
    opened.set_input_files("#file", photo)
    expect_boxes(opened, localizer, photo, 0.4)
    opened.get_by_label("Model").select_option(MARKUP)
    expect(opened.locator("#results h3")).to_contain_text(MARKUP)
    assert opened.locator("h3 img, select img, #results script").count() == 0
    expect_boxes(opened, localizer, photo, 0.7)


def test_several_classes_refinement_and_clearing(opened: Page, localizer: Localizer, photo: Path) -> None:
    opened.set_input_files("#file", photo)
    expect(opened.locator("#results section")).to_have_count(1)
    opened.get_by_label("Classes").select_option("3")
    expect(opened.locator("#results section")).to_have_count(3)
    map_ = opened.locator(".heatmap").first
    before = map_.get_attribute("src")
    opened.get_by_label("Refinement").select_option("affinity")
    expect(map_).not_to_have_attribute("src", str(before))
    expect_boxes(opened, localizer, photo, 0.4, options=PredictionOptions(refine=("affinity",)))
    opened.get_by_role("button", name="Clear").click()
    expect(opened.locator(".hint")).to_be_visible()
    expect(opened.locator("#results section")).to_have_count(0)


def test_an_expired_result_is_predicted_again(
    browser: Browser, served: Served, localizer: Localizer, photo: Path, tmp_path: Path
) -> None:
    with watched_page(browser, DESKTOP, REFUSED + "404") as page:
        page.goto(served.url)
        page.set_input_files("#file", photo)
        expect_boxes(page, localizer, photo, 0.4)
        served.app.state.service._kept.clear()
        page.get_by_label("Threshold").fill("0.8")
        expect_boxes(page, localizer, photo, 0.8)
        served.app.state.service._kept.clear()
        assert downloaded(page, "csv", tmp_path).size == (90, 60)


def test_errors_are_reported(browser: Browser, served: Served) -> None:
    files = {name: BROKEN[name] for name in ("cut.png", "script.png", "<b>markup.jpg")}
    files["a.png"] = bytes(LIMITS.max_bytes + 1), "a.png has 0.3 MB; the limit is 0.3 MB"
    with watched_page(browser, DESKTOP, REFUSED + "422") as page:
        page.goto(served.url)
        for name, (content, message) in files.items():
            page.set_input_files("#file", {"name": name, "mimeType": "image/jpeg", "buffer": content})
            expect(page.get_by_role("alert")).to_contain_text(message)
            assert page.locator("#results section, #results b").count() == 0
        good = encoded(Image.new("RGB", (40, 30), "red"), "TIFF")  # Chromium cannot decode it
        page.set_input_files("#file", {"name": "good.tiff", "mimeType": "image/tiff", "buffer": good})
        expect(page.locator("#results section")).to_be_visible()
        assert page.locator("#results img").first.evaluate(WIDTH) == 40
        assert page.title() == "tokenloc"


def test_nothing_is_cut_off_on_a_phone(phone_page: Page, served: Served, photo: Path) -> None:
    phone_page.goto(served.url)
    phone_page.set_input_files("#file", photo)
    expect(phone_page.locator("#results section")).to_be_visible()
    assert phone_page.evaluate("document.documentElement.scrollWidth") <= 390
    parts = [phone_page.locator(name).bounding_box() for name in ("#upload", ".slider", "#results", ".fields")]
    tops = [part["y"] for part in parts if part]
    assert len(tops) == 4
    assert tops == sorted(tops)
    phone_page.locator("#results .pair figure").last.scroll_into_view_if_needed()
    expect(phone_page.get_by_label("Threshold")).to_be_in_viewport()  # boxes move under one's eyes
