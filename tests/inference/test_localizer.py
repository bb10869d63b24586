"""From a checkpoint and images in any form to boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tokenloc
from tokenloc.boxes import best_iou, box_confidence, get_protocol, largest_boxes, prepare_map, truth_boxes
from tokenloc.data import Unreadable, create_dataset, transforms
from tokenloc.inference import Localization, Localizer, choose_device
from tokenloc.inference.evaluation import evaluate_model
from tokenloc.metrics import Scorer
from tokenloc.models.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def localizer(run: Path) -> Localizer:
    return tokenloc.Localizer.from_checkpoint(run / "checkpoints/best.ckpt", device="cpu", threshold=0.4)


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return create_dataset("scenes", None, "test", size=(90, 61), length=3).image(1)


def same(first: Localization, second: Localization) -> bool:
    return first.boxes.tolist() == second.boxes.tolist() and np.array_equal(first.map, second.map)


def test_a_call_equals_its_steps(localizer: Localizer, image: Image.Image, run: Path) -> None:
    result = localizer(image)
    model, metadata = load_checkpoint(run / "checkpoints/best.ckpt")
    tensor, frame = transforms.evaluation_transform(metadata.preprocessing, "resize")(image)
    with torch.no_grad():
        logits, maps = model.localize(tensor[None])
    protocol = get_protocol("standard")
    prepared = prepare_map(maps[0, 0].numpy(), (32, 32), protocol)
    box = largest_boxes(prepared, [0.4], protocol)
    np.testing.assert_allclose(result.boxes, frame.to_original(box), atol=1e-9)
    assert result.score == pytest.approx(logits.softmax(1).max().item(), abs=1e-6)
    assert result.label == metadata.classes[int(logits.argmax())]
    assert result.confidence == pytest.approx(box_confidence(result.score, prepared, box, 0.4, protocol), abs=1.01e-4)
    assert result.size == (90, 61)


def test_every_form_of_an_image_gives_the_same_result(localizer: Localizer, image: Image.Image, tmp_path: Path) -> None:
    image.save(tmp_path / "x.png")
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    expected = localizer(image)
    file = (tmp_path / "x.png").read_bytes()
    for form in (tmp_path / "x.png", str(tmp_path / "x.png"), file, array, tensor, tensor.float() / 255):
        assert same(localizer(form), expected)


def test_boxes_of_a_reduced_decoding_are_in_original_pixels(run: Path, tmp_path: Path) -> None:
    large = create_dataset("scenes", None, "test", size=(900, 610), length=3).image(1)
    large.save(tmp_path / "x.jpg")
    checkpoint, options = run / "checkpoints/best.ckpt", tokenloc.PredictionOptions(fast=True)
    localizer = Localizer.from_checkpoint(checkpoint, "cpu", 0.4, options=options)
    found = localizer((tmp_path / "x.jpg").read_bytes())
    assert found.size == (900, 610)
    assert same(found, localizer(tmp_path / "x.jpg"))


def test_a_list_gives_a_list_in_order(localizer: Localizer, image: Image.Image) -> None:
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    results = localizer([image, mirrored])
    assert [type(result) for result in results] == [Localization, Localization]
    # A batch may round differently than one image alone.
    np.testing.assert_allclose(results[1].map, localizer(mirrored).map, atol=1e-5)
    assert localizer([]) == []


def test_all_objects_include_the_largest(run: Path, image: Image.Image) -> None:
    checkpoint = run / "checkpoints/best.ckpt"
    largest = Localizer.from_checkpoint(checkpoint, "cpu", threshold=0.5)(image)
    every = Localizer.from_checkpoint(checkpoint, "cpu", threshold=0.5, objects="all")(image)
    assert every.boxes[0].tolist() == largest.boxes[0].tolist()
    assert len(every.boxes) >= len(largest.boxes) == 1
    assert every.mask.sum() == (every.map > 0.5).sum()


def test_the_calibrated_threshold_is_the_default(run: Path) -> None:
    _, metadata = load_checkpoint(run / "checkpoints/best.ckpt")
    assert metadata.threshold is not None
    assert Localizer.from_checkpoint(run / "checkpoints/best.ckpt").threshold == metadata.threshold.value


def test_a_stream_reports_unreadable_images_and_continues(
    localizer: Localizer, image: Image.Image, tmp_path: Path
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    images = [image, tmp_path / "broken.jpg", tmp_path / "gone.jpg", image]
    results = list(localizer.stream(iter(images), batch_size=3))
    assert [type(result) for result in results] == [Localization, Unreadable, Unreadable, Localization]
    assert "broken.jpg" in results[1].reason
    assert "gone.jpg" in results[2].reason


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (np.zeros((5, 5), np.uint8), r"expected an RGB array \[height, width, 3\] uint8 .*got uint8 of shape \(5, 5\)"),
        (np.zeros((5, 5, 3)), r"got float64 of shape \(5, 5, 3\)"),
        (None, r"expected a path, bytes, a PIL image, an array or a tensor, or a list of these; got NoneType"),
        ({"a.jpg"}, r"a list of these; got set"),
        (torch.zeros(1, 5, 5), r"expected a tensor \[3, height, width\], got \[1, 5, 5\]"),
        (torch.full((3, 5, 5), 2.5), r"must hold RGB in \[0, 1\], not normalised; got values 2.5 to 2.5"),
        (torch.full((3, 5, 5), float("nan")), r"must hold RGB in \[0, 1\]"),
    ],
)
def test_invalid_inputs_are_refused(localizer: Localizer, form: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        localizer(form)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.5}, r"threshold must be in \[0, 1\], got 1.5"),
        ({"objects": "some"}, "unknown objects 'some'.*Valid: all, largest"),
        ({"device": "tpu"}, "device 'tpu' is not available here; use auto or one of cpu"),
    ],
)
def test_invalid_options_are_refused(run: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Localizer.from_checkpoint(run / "checkpoints/best.ckpt", **options)


def test_auto_chooses_an_available_device() -> None:
    device = choose_device("auto")
    assert torch.zeros(1, device=device).device.type == device.type


def test_a_constant_map_draws_no_box(localizer: Localizer, image: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    flat = torch.ones(1, 1, 4, 4)
    monkeypatch.setattr(localizer.model, "class_maps", lambda images: (torch.zeros(len(images), 6), lambda _: flat))
    result = localizer(image)
    assert result.boxes.shape == (0, 4)
    assert not result.mask.any()


def test_a_map_with_nan_is_an_error(localizer: Localizer, image: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = torch.full((1, 1, 4, 4), float("nan"))
    monkeypatch.setattr(localizer.model, "class_maps", lambda images: (torch.zeros(len(images), 6), lambda _: broken))
    with pytest.raises(ValueError, match="16 of 16 values that are not finite"):
        localizer(image)


@pytest.mark.parametrize("name", ["standard", "sat", "wsol-eval", "ts-cam"])
def test_the_localizer_draws_the_evaluated_box(run: Path, name: str) -> None:
    """Under every protocol the box has the IoU of its row in the evaluation."""
    model, metadata = load_checkpoint(run / "checkpoints/best.ckpt")
    test, judged = create_dataset("scenes", None, "test", metadata.classes, size=40, length=24), get_protocol(name)
    rows = evaluate_model(model, test, metadata.preprocessing, Scorer(judged, 0.6)).images
    localizer = Localizer(model, metadata, 0.6, protocol=judged)
    right = [index for index, row in enumerate(rows) if row.top1_cls]
    assert right
    for index in right:
        found = localizer(test.image(index))
        assert found.map.max() <= 1
        boxes = found.boxes[:1] if judged.truth_frame == "original" else found.frame.to_input(found.boxes[:1])
        boxes = np.minimum(boxes.round(6), 31 if judged.box_end == "inside" else 40)
        truth = truth_boxes(test[index].boxes, found.frame, judged)
        assert best_iou(boxes, truth, judged)[0] == pytest.approx(rows[index].largest, abs=1e-6)
        assert found.first_confidence == pytest.approx(rows[index].confidence, abs=1.01e-4)
        assert found.score == pytest.approx(rows[index].score, abs=1e-6)
