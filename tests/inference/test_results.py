"""Results in notebooks and other libraries: drawings, and conversions read back by the libraries themselves."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ObjectDetectionOutputElement
from PIL import Image

from tests.export.examples import localization
from tokenloc.data import create_dataset
from tokenloc.export import FORMATS, to_pandas
from tokenloc.inference import Localizer
from tokenloc.inference.localization import Objects
from tokenloc.models.checkpoint import load_checkpoint

BOXES = ((10.25, 5.5, 60.0, 30.125), (0.0, 0.0, 8.0, 4.0))
RED, GREY = (255, 64, 64), (128, 128, 128)


@pytest.fixture(scope="module")
def localizer(run: Path) -> Localizer:
    return Localizer.from_checkpoint(run, device="cpu", threshold=0.4)


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return create_dataset("scenes", None, "test", size=(90, 61), length=3).image(1)


def grey() -> Image.Image:
    return Image.new("RGB", (80, 40), GREY)


def test_plot_shows_the_image_with_its_box(tmp_path: Path) -> None:
    grey().save(tmp_path / "a.png")
    for result in (localization(str(tmp_path / "a.png")), replace(localization("memory"), image=grey())):
        drawn = result.plot()
        assert drawn.size == (2 * 80 + 4, 40)
        assert drawn.getpixel((10, 20)) == RED  # the left edge of the box
        assert drawn.getpixel((75, 35)) == GREY
        assert result.plot(heatmap=False).size == (80, 40)


def test_plot_without_the_image_says_what_to_do(tmp_path: Path) -> None:
    result = localization(str(tmp_path / "gone.jpg"))
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg: no such file, .*plot\(image\)"):
        result.plot()
    assert result._repr_png_() is None
    assert result.plot(grey()).getpixel((10, 20)) == RED
    assert "gone.jpg" in repr(result)
    assert "map" not in repr(result)


def test_a_result_is_saved_and_displayed_by_notebooks(localizer: Localizer, image: Image.Image, tmp_path: Path) -> None:
    result = localizer(np.asarray(image))
    result.save(tmp_path / "out.png")
    displayed = result._repr_png_()
    assert displayed is not None
    for shown in (Image.open(tmp_path / "out.png"), Image.open(io.BytesIO(displayed))):
        assert np.array_equal(shown, result.plot())
    assert [np.array_equal(one.plot(), two) for one, two in zip(localizer([image]), [result.plot()], strict=True)]


def test_show_opens_the_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Image.Image] = []
    monkeypatch.setattr(Image.Image, "show", lambda image: shown.append(image))
    replace(localization("memory"), image=grey()).show()
    assert [one.size for one in shown] == [(164, 40)]


def test_results_of_a_stream_do_not_keep_images(localizer: Localizer, image: Image.Image) -> None:
    (result,) = localizer(iter([image]))
    assert result.image is None
    assert result.plot(image).size == (184, 61)
    assert localizer(image).image is image
    assert localizer.top(image, 2)[1].image is image


def test_a_known_class_is_localized(localizer: Localizer, image: Image.Image, run: Path) -> None:
    model, metadata = load_checkpoint(run)
    tensor, _ = localizer.predictor.transform(image)
    with torch.no_grad():
        logits, maps = model.localize(tensor[None], torch.arange(6)[None])
    assert localizer.classes == metadata.classes
    for index, label in enumerate(metadata.classes):
        result = localizer(image, label=label)
        assert (result.label, result.class_index) == (label, index)
        assert result.score == pytest.approx(logits.softmax(1)[0, index].item(), abs=1e-6)
        expected = localizer.predictor.boxes(maps[0, index].numpy(), result.score, result.frame, 0.4, 1)[1]
        np.testing.assert_allclose(result.boxes, expected.boxes, atol=1e-4)
    labels = metadata.classes[::-1]
    assert [one.label for one in localizer([image] * 6, label=labels)] == list(labels)
    assert [one.label for one in localizer(iter([image] * 2), label="leaf")] == ["leaf", "leaf"]
    predicted = list(localizer.predict([image] * 6, batch_size=4, labels=iter(labels)))
    assert [one.results[0].label for one in predicted] == list(labels)


def test_wrong_labels_are_refused(localizer: Localizer, image: Image.Image) -> None:
    with pytest.raises(ValueError, match="unknown class 'leav'; did you mean 'leaf'"):
        localizer(image, label="leav")
    with pytest.raises(ValueError, match="2 labels for 3 images; give one label, or one for each image"):
        localizer([image] * 3, label=["leaf", "leaf"])
    with pytest.raises(ValueError, match="each image has one class; got top_k 2"):
        localizer.predict([image], top_k=2, labels=["leaf"])


@pytest.mark.parametrize(("threshold", "objects"), [(0.2, None), (0.7, "all"), (None, "all")])
def test_options_of_a_call(
    run: Path, localizer: Localizer, image: Image.Image, threshold: float | None, objects: Objects | None
) -> None:
    expected = Localizer.from_checkpoint(run, "cpu", threshold or 0.4, objects or "largest")(image)
    found = localizer(image, threshold=threshold, objects=objects)
    assert (found.threshold, found.boxes.tolist()) == (expected.threshold, expected.boxes.tolist())
    assert (localizer.threshold, localizer.objects) == (0.4, "largest")


def test_invalid_options_of_a_call_are_refused(localizer: Localizer, image: Image.Image) -> None:
    with pytest.raises(ValueError, match="unknown objects 'some'"):
        localizer(image, objects="some")
    with pytest.raises(ValueError, match=r"threshold must be in \[0, 1\], got 1.5"):
        localizer(image, threshold=1.5)


def test_the_form_of_hugging_face() -> None:
    values = localization("a.jpg", BOXES).to_huggingface()
    assert values[0] == {"score": 0.75, "label": "bird", "box": {"xmin": 10, "ymin": 6, "xmax": 60, "ymax": 30}}
    parsed = ObjectDetectionOutputElement.parse_obj_as_list(values)
    assert [(one.label, one.box.xmax, one.box.ymax) for one in parsed] == [("bird", 60, 30), ("bird", 8, 4)]
    assert localization("a.jpg", []).to_huggingface() == []


def test_supervision_reads_and_draws_detections() -> None:
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    detections = localization("a.jpg", BOXES).to_supervision()
    assert detections.xyxy.tolist() == [list(box) for box in BOXES]
    assert detections.confidence.tolist() == pytest.approx([0.375, 0.25])
    assert detections.class_id.tolist() == [0, 0]
    drawn = supervision.BoxAnnotator(thickness=2).annotate(np.asarray(grey()).copy(), detections)
    assert (drawn != 128).any()
    kept = supervision.Detections.merge([detections, localization("b.jpg", [], 1).to_supervision()])
    assert kept[kept.confidence > 0.3]["class_name"].tolist() == ["bird"]


def test_pandas_has_the_table_of_the_csv_file(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    results = [localization("a.jpg", BOXES), localization("b.jpg", [], 3)]
    table = to_pandas(results)
    (path,) = FORMATS["csv"].write(results, ["bird", "cat", "dog", "null"], tmp_path)
    read = pandas.read_csv(path, dtype={"label": "string", "file": "string"}, keep_default_na=False, na_values=[""])
    pandas.testing.assert_frame_equal(table, read, check_dtype=False)
    assert table["x0"].isna().tolist() == [False, False, True]
    pandas.testing.assert_frame_equal(results[0].to_pandas(), table[:2])
    assert to_pandas([]).dtypes.astype(str).to_dict() == table.dtypes.astype(str).to_dict()
