"""The page in a real browser: an image is dropped, looked at, and its annotation downloaded."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from tests.export.examples import read_annotations
from tests.server.conftest import GRADIO_WARNS, MARKUP, Served
from tokenloc.data.annotations import Annotation
from tokenloc.export import FORMATS
from tokenloc.inference import Localizer
from tokenloc.inference.localizer import Objects

pytestmark = GRADIO_WARNS

SLOW = 60_000  # milliseconds


@pytest.fixture
def opened(page: Page, served: Served) -> Page:
    page.goto(served.address)
    expect(page.locator("#found .hint")).to_be_visible(timeout=SLOW)
    return page


def drop(page: Page, path: Path) -> None:
    """Drop a file as a person does; Gradio's area takes the event."""
    content = base64.b64encode(path.read_bytes()).decode()
    files = page.evaluate_handle(
        """async ([content, name]) => {
            const transfer = new DataTransfer();
            const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
            transfer.items.add(new File([bytes], name));
            return transfer;
        }""",
        [content, path.name],
    )
    page.locator("#drop button").first.dispatch_event("drop", {"dataTransfer": files})


def choose(page: Page, label: str, option: str) -> None:
    page.get_by_label(label, exact=True).click()
    page.get_by_role("option", name=option, exact=True).click()


def boxes(page: Page) -> list[list[float]]:
    """The boxes that are drawn on the image: x0, y0, x1, y1."""
    rects = page.locator("#found figure").first.locator("rect").all()
    drawn = [[float(str(rect.get_attribute(key))) for key in ("x", "y", "width", "height")] for rect in rects]
    return [[x, y, x + width, y + height] for x, y, width, height in drawn]


def expected(served: Served, photo: Path, threshold: float, objects: Objects = "largest") -> np.ndarray:
    own = served.localizer
    return Localizer(own.model, own.metadata, threshold, objects)(photo).boxes


def downloaded(page: Page, form: str, folder: Path) -> Annotation:
    expected = {f"{form}.zip", FORMATS[form].outputs[0]}
    for _ in range(60):  # nothing in the page tells when the button has its new file
        with page.expect_download() as download:
            page.get_by_role("button", name="Download annotation").click()
        if download.value.suggested_filename in expected:
            break
        page.wait_for_timeout(500)
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    if path.suffix == ".zip":
        ZipFile(path).extractall(folder)
        path = folder / FORMATS[form].outputs[0]
    (annotation,) = read_annotations(form, path.parent)
    return annotation


def test_a_image_is_dropped_looked_at_and_its_annotation_downloaded(
    opened: Page, served: Served, photo: Path, tmp_path: Path
) -> None:
    drop(opened, photo)
    expect(opened.locator(".found h3")).to_have_text(re.compile(r"^\S+ \d+%$"), timeout=SLOW)
    result = served.localizer(photo)
    assert opened.locator(".found h3").inner_text().startswith(result.label)
    np.testing.assert_allclose(boxes(opened), expected(served, photo, 0.4), atol=0.011)
    annotation = downloaded(opened, "coco", tmp_path)
    assert annotation.file_name == photo.name
    assert [label for label, _ in annotation.objects] == [result.label]
    np.testing.assert_allclose([box for _, box in annotation.objects], result.boxes, atol=1e-4)


def test_the_threshold_draws_anew_without_asking_the_network(
    opened: Page, served: Served, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened.set_input_files("#drop input[type=file]", photo)
    expect(opened.locator(".found")).to_be_visible(timeout=SLOW)

    def asked(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(Localizer, "top", asked)
    slider = opened.locator("#threshold input[type=range]")
    for threshold in (0.8, 0.05):
        slider.fill(str(threshold))
        expect(opened.locator("figcaption").nth(1)).to_have_text(f"map, cut at {threshold:.2f}", timeout=SLOW)
        np.testing.assert_allclose(boxes(opened), expected(served, photo, threshold), atol=0.011)
    slider.focus()
    slider.press("ArrowRight")
    expect(opened.locator("figcaption").nth(1)).to_have_text("map, cut at 0.06", timeout=SLOW)
    high = next(step / 100 for step in range(99, 0, -1) if len(expected(served, photo, step / 100, "all")) > 1)
    slider.fill(str(high))
    expect(opened.locator("figcaption").nth(1)).to_have_text(f"map, cut at {high:.2f}", timeout=SLOW)
    opened.get_by_label("all", exact=True).check()
    every = expected(served, photo, high, "all")
    expect(opened.locator("figcaption").first).to_have_text(f"{len(every)} boxes", timeout=SLOW)
    np.testing.assert_allclose(boxes(opened), every, atol=0.011)
    choose(opened, "Annotation format", "yolo")
    annotation = downloaded(opened, "yolo", tmp_path)
    np.testing.assert_allclose([box for _, box in annotation.objects], every, atol=1e-4)


def test_another_model_brings_its_own_threshold_and_its_markup_stays_text(
    opened: Page, served: Served, photo: Path
) -> None:
    opened.set_input_files("#drop input[type=file]", photo)
    expect(opened.locator(".found")).to_be_visible(timeout=SLOW)
    choose(opened, "Model", "marked")
    expect(opened.locator(".found h3")).to_contain_text("<img src=x onerror=alert(1)>", timeout=SLOW)
    assert MARKUP in opened.locator(".found h3").inner_text()
    assert opened.locator(".found h3 img, .found script").count() == 0
    expect(opened.locator("figcaption").nth(1)).to_have_text("map, cut at 0.70")
    assert opened.locator("#threshold input[type=number]").input_value() == "0.7"
    np.testing.assert_allclose(boxes(opened), expected(served, photo, 0.7), atol=0.011)


def test_several_classes_refinement_and_a_cleared_image(opened: Page, photo: Path) -> None:
    opened.set_input_files("#drop input[type=file]", photo)
    expect(opened.locator(".found")).to_have_count(1, timeout=SLOW)
    opened.locator("#classes input[type=range]").fill("3")
    expect(opened.locator(".found")).to_have_count(3, timeout=SLOW)
    before = opened.locator(".found img").nth(1).get_attribute("src")
    choose(opened, "Refinement", "affinity")
    expect(opened.locator(".found img").nth(1)).not_to_have_attribute("src", str(before), timeout=SLOW)
    opened.get_by_label("Clear").click()
    expect(opened.locator("#found .hint")).to_be_visible(timeout=SLOW)


def test_on_a_phone_nothing_is_cut_off(phone_page: Page, served: Served, photo: Path) -> None:
    phone_page.goto(served.address)
    expect(phone_page.locator("#found .hint")).to_be_visible(timeout=SLOW)
    phone_page.set_input_files("#drop input[type=file]", photo)
    expect(phone_page.locator(".found")).to_be_visible(timeout=SLOW)
    assert phone_page.evaluate("document.documentElement.scrollWidth") <= 390
    places = [phone_page.locator(name).bounding_box() for name in ("#drop", "#found", "#controls")]
    tops = [place["y"] for place in places if place]
    assert tops == sorted(tops)
    assert len(tops) == 3
