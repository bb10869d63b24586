"""The page in a real browser: an image is dropped, its boxes are redrawn, and its annotation is downloaded."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.browser import DESKTOP, watched_page
from tests.export.examples import read_annotations
from tests.server.conftest import LIMITS, MARKUP, Served
from tests.server.hostile import BROKEN, encoded
from tokenloc.data.annotations import Annotation
from tokenloc.inference import Localizer, PredictionOptions
from tokenloc.inference.localization import Objects
from tokenloc.server.app import create_app

REFUSED = "Failed to load resource: the server responded with a status of "
WIDTH = "image => image.decode().then(() => image.naturalWidth)"


@pytest.fixture
def opened(page: Page, served: Served) -> Page:
    page.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    page.goto(served.url)
    expect(page.locator(".hint")).to_be_visible()
    return page


def drop(page: Page, path: Path) -> None:
    files = page.evaluate_handle(
        """async ([content, name]) => {
            const transfer = new DataTransfer();
            const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
            transfer.items.add(new File([bytes], name));
            return transfer;
        }""",
        [base64.b64encode(path.read_bytes()).decode(), path.name],
    )
    page.locator("#drop").dispatch_event("drop", {"dataTransfer": files})


def boxes(page: Page) -> np.ndarray:
    """The boxes on the image of 90 x 60 pixels: x0, y0, x1, y1."""
    drawn = (
        page.locator("#results figure")
        .first.locator("rect.predicted")
        .evaluate_all(
            "rects => rects.map(rect => ['x', 'y', 'width', 'height'].map(name => Number(rect.getAttribute(name))))"
        )
    )
    corners = np.array(drawn).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    return corners * [90, 60, 90, 60]


def expected(localizer: Localizer, photo: Path, threshold: float, objects: Objects = "largest") -> np.ndarray:
    return Localizer(localizer.model, localizer.metadata, threshold, objects)(photo).boxes


def expect_threshold(page: Page, threshold: float) -> None:
    expect(page.locator("figcaption").nth(1)).to_have_text(f"map, threshold {threshold:.2f}")
    assert page.locator(".slider output").inner_text() == f"{threshold:.2f}"


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
    drop(opened, photo)
    result = localizer(photo)
    expect(opened.locator("#results h3")).to_have_text(f"{result.label} {result.score:.0%}")
    np.testing.assert_allclose(boxes(opened), result.boxes, atol=0.011)
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
    expect_threshold(opened, 0.4)
    monkeypatch.setattr(Localizer, "top", None)
    slider = opened.get_by_label("Threshold")
    for threshold in (0.8, 0.05):
        slider.fill(str(threshold))
        expect_threshold(opened, threshold)
        np.testing.assert_allclose(boxes(opened), expected(localizer, photo, threshold), atol=0.011)
    slider.press("ArrowRight")
    expect_threshold(opened, 0.06)
    high = next(step / 100 for step in range(99, 0, -1) if len(expected(localizer, photo, step / 100, "all")) > 1)
    slider.fill(str(high))
    expect_threshold(opened, high)
    opened.get_by_label("Boxes").select_option("all")
    every = expected(localizer, photo, high, "all")
    expect(opened.locator("figcaption").first).to_have_text(f"{len(every)} boxes")
    np.testing.assert_allclose(boxes(opened), every, atol=0.011)
    annotation = downloaded(opened, "yolo", tmp_path)
    np.testing.assert_allclose([box for _, box in annotation.objects], every, atol=1e-4)
    opened.get_by_role("button", name="Reset").click()
    expect_threshold(opened, 0.4)


def test_another_model_has_its_own_threshold_and_its_markup_is_escaped(
    opened: Page, localizer: Localizer, photo: Path
) -> None:
    opened.set_input_files("#file", photo)
    expect_threshold(opened, 0.4)
    opened.get_by_label("Model").select_option("marked")
    expect(opened.locator("#results h3")).to_contain_text(MARKUP)
    assert opened.locator("#results h3 img, #results script").count() == 0
    expect_threshold(opened, 0.7)
    np.testing.assert_allclose(boxes(opened), expected(localizer, photo, 0.7), atol=0.011)


def test_several_classes_refinement_and_clearing(opened: Page, localizer: Localizer, photo: Path) -> None:
    opened.set_input_files("#file", photo)
    expect(opened.locator("#results section")).to_have_count(1)
    opened.get_by_label("Classes").select_option("3")
    expect(opened.locator("#results section")).to_have_count(3)
    map_ = opened.locator("#results .heatmap").first
    before = map_.get_attribute("src")
    opened.get_by_label("Refinement").select_option("affinity")
    expect(map_).not_to_have_attribute("src", str(before))
    refined = Localizer(localizer.model, localizer.metadata, 0.4, options=PredictionOptions(refine=("affinity",)))
    np.testing.assert_allclose(boxes(opened), refined(photo).boxes, atol=0.011)
    opened.get_by_role("button", name="Clear").click()
    expect(opened.locator(".hint")).to_be_visible()
    expect(opened.locator("#results section")).to_have_count(0)


def test_an_expired_result_is_predicted_again(browser: Browser, served: Served, photo: Path, tmp_path: Path) -> None:
    with watched_page(browser, DESKTOP, REFUSED + "404") as page:
        page.goto(served.url)
        page.set_input_files("#file", photo)
        expect_threshold(page, 0.4)
        served.app.state.service._kept.clear()
        page.get_by_label("Threshold").fill("0.8")
        expect_threshold(page, 0.8)
        assert downloaded(page, "csv", tmp_path).size == (90, 60)


def test_broken_images_are_reported(browser: Browser, served: Served) -> None:
    with watched_page(browser, DESKTOP, REFUSED + "422") as page:
        page.goto(served.url)
        for name, (content, message) in BROKEN.items():
            page.set_input_files("#file", {"name": name, "mimeType": "image/jpeg", "buffer": content})
            expect(page.get_by_role("alert")).to_contain_text(message, timeout=60_000)
            assert page.get_by_role("alert").locator("b").count() == 0
            assert page.locator("#results section").count() == 0
        assert page.title() == "tokenloc"
        large = bytes(LIMITS.max_bytes + 1)
        page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": large})
        expect(page.get_by_role("alert")).to_have_text("a.png has 0.3 MB; the limit is 0.3 MB")
        good = encoded(Image.new("RGB", (40, 30), "red"), "TIFF")  # which browsers cannot show
        page.set_input_files("#file", {"name": "good.tiff", "mimeType": "image/tiff", "buffer": good})
        expect(page.locator("#results section")).to_be_visible()
        assert (
            page.locator("#results img").first.evaluate("image => image.decode().then(() => image.naturalWidth)") == 40
        )


def test_nothing_is_cut_off_on_a_phone(phone_page: Page, served: Served, photo: Path) -> None:
    phone_page.goto(served.url)
    phone_page.set_input_files("#file", photo)
    expect(phone_page.locator("#results section")).to_be_visible(timeout=60_000)
    assert phone_page.evaluate("document.documentElement.scrollWidth") <= 390
    parts = [phone_page.locator(name).bounding_box() for name in ("#upload", "#results", "#controls")]
    tops = [part["y"] for part in parts if part]
    assert len(tops) == 3
    assert tops == sorted(tops)


def test_the_page_loads_nothing_and_escapes_names(localizer: Localizer, client: TestClient) -> None:
    assert not re.search(r"(src|href)=.?https?:", client.get("/").text)
    assert client.get("/favicon.ico").status_code == 204
    hostile = TestClient(create_app({MARKUP: localizer}, LIMITS)).get("/").text
    assert "<img src=x" not in hostile
    assert "<script>alert" not in hostile
