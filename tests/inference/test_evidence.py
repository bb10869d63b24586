"""Evidence: what a model recognises inside and outside of boxes, and the threshold that it chooses."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.runs import prediction_options
from tokenloc.backbones import create_backbone
from tokenloc.boxes import box_iou, get_protocol
from tokenloc.cli import main
from tokenloc.data import ImageDataset, Preprocessing, Sample
from tokenloc.inference import Localizer, Predictor
from tokenloc.inference.calibration import WITHOUT_EVIDENCE, calibrate_without_boxes
from tokenloc.inference.evaluation import evaluate_model
from tokenloc.inference.evidence import blurred, box_mask, only_visible
from tokenloc.methods.base import ClassMaps, Method, Output, shared_map
from tokenloc.metrics import Scorer
from tokenloc.models.checkpoint import read_metadata

SIDE = 64  # pixels
OBJECTS = ((16, 12, 48, 44), (20, 24, 52, 56), (8, 8, 40, 40))  # textured squares on grey
STANDARD = get_protocol("standard")


class Stripes(ImageDataset):
    """Images whose object is a square of stripes, with its box or without."""

    def __init__(self, boxes: bool) -> None:
        truth = [np.array([box], dtype=np.float64) if boxes else np.zeros((0, 4)) for box in OBJECTS]
        samples = [Sample(f"{index}.png", None, 0, box) for index, box in enumerate(truth)]
        super().__init__("train", ("striped", "plain"), samples)

    def image(self, index: int, min_size: Any = None) -> Image.Image:
        del min_size
        x0, y0, x1, y1 = OBJECTS[index]
        pixels = np.full((SIDE, SIDE, 3), 128, np.uint8)
        pixels[y0:y1, x0:x1:2], pixels[y0:y1, x0 + 1 : x1 : 2] = 90, 166
        return Image.fromarray(pixels)


class StripeDetector(Method):
    """Recognises three quarters of the stripes; its map falls off around the object, past its border."""

    def __init__(self) -> None:
        backbone, _ = create_backbone("vit_tiny_patch16_224", False, (SIDE, SIDE), depth=1, embed_dim=24, num_heads=2)
        super().__init__(backbone, 2)
        self.calls = 0

    def forward(self, images: Tensor) -> Output:
        return Output(self.class_maps(images)[0])

    def class_maps(self, images: Tensor) -> tuple[Tensor, ClassMaps]:
        self.calls += 1
        edges = (images[:, 0, :, 1:] - images[:, 0, :, :-1]).abs()
        visible = edges.sum((1, 2)) / (32 * 31 * 2 * 76 / 255)
        logits = torch.stack([20 * (visible - 0.75), torch.zeros(len(images))], dim=1)
        rows, columns = (edges > 0.3).any(2).float(), (edges > 0.3).any(1).float()
        y, x = (first_and_last(line) for line in (rows, columns))
        axis = torch.arange(SIDE) + 0.5
        away = [(axis - line.mean(1, keepdim=True)).abs() for line in (y, x)]
        return logits, shared_map(1 - torch.maximum(away[0][:, :, None], away[1][:, None, :]) / 32)


def first_and_last(line: Tensor) -> Tensor:
    return torch.stack([line.argmax(1), line.shape[1] - line.flip(1).argmax(1)], dim=1).float()


@pytest.fixture
def checkpoint(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run/checkpoints/best.ckpt"


@pytest.fixture
def preprocessing() -> Preprocessing:
    return Preprocessing((SIDE, SIDE), (SIDE, SIDE), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_blurring_keeps_colours_and_removes_shapes() -> None:
    flat = torch.rand(2, 3, 1, 1).expand(2, 3, 48, 80)
    torch.testing.assert_close(blurred(flat), flat)
    checks = (torch.arange(64)[:, None] + torch.arange(96)) % 2 * 2.0 - 1
    soft = blurred(checks.expand(1, 3, 64, 96))
    assert soft.shape == (1, 3, 64, 96)
    assert soft.abs().max() < 0.2


def test_mask_of_boxes() -> None:
    mask = box_mask([[1.2, 0, 3.4, 2], [-5, 3, 1, 9]], (5, 4))
    assert mask.int().tolist() == [[[0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]]]
    assert not box_mask([], (5, 4)).any()


def test_only_the_mask_is_visible() -> None:
    images, masks = torch.rand(2, 3, 32, 32), torch.rand(2, 1, 32, 32) > 0.5
    inside, outside = only_visible(images, masks), only_visible(images, ~masks)
    torch.testing.assert_close(inside + outside, images + blurred(images))
    assert inside.where(masks, 0.0).equal(images.where(masks, 0.0))


def test_evidence_of_right_and_wrong_boxes(preprocessing: Preprocessing) -> None:
    model, data = StripeDetector().eval(), Stripes(False)
    predictor = Predictor(model, preprocessing)
    image = predictor.transform(data.image(0))[0].expand(3, -1, -1, -1)
    masks = torch.stack([box_mask([box], (SIDE, SIDE)) for box in (OBJECTS[0], (0, 0, SIDE, SIDE), (0, 44, 64, 64))])
    striped, plain = (torch.full((3,), label) for label in (0, 1))
    inside, outside = (predictor.recognised(image, shown, striped) for shown in (masks, ~masks))
    assert model.calls == 2
    assert inside.round(decimals=1).tolist() == [1, 1, 0]
    assert outside.round(decimals=1).tolist() == [0, 0, 1]
    torch.testing.assert_close(predictor.recognised(image, masks, plain), 1 - inside)


def test_evidence_at_a_larger_scale_sees_the_default_input(preprocessing: Preprocessing) -> None:
    model = StripeDetector().eval()
    predictor = Predictor(model, preprocessing, prediction_options(scales=(2 * SIDE,)))
    image, mask = predictor.transform(Stripes(False).image(0))[0][None], box_mask([OBJECTS[0]], (SIDE, SIDE))[None]
    found = predictor.recognised(image, mask, torch.tensor([0]))
    small = torch.nn.functional.interpolate(image, (SIDE, SIDE), mode="bilinear", antialias=True)
    torch.testing.assert_close(found, model.class_maps(only_visible(small, mask))[0].softmax(dim=1)[:, 0])


@pytest.mark.parametrize("boxes", [False, True])
def test_the_threshold_without_boxes(preprocessing: Preprocessing, boxes: bool) -> None:
    model, data = StripeDetector(), Stripes(boxes)
    chosen = calibrate_without_boxes(model, data, preprocessing, STANDARD, batch_size=2)
    predictor = Predictor(model, preprocessing)
    for index, truth in enumerate(OBJECTS):
        image, frame = predictor.transform(data.image(index))
        map_ = predictor.class_maps(image[None]).maps[0, 0].numpy()
        _, found = predictor.boxes(map_, 1.0, frame, chosen.value, 1)
        assert box_iou(found.boxes, np.array([truth]))[0, 0] > 0.7
    assert chosen.source == "chosen without boxes, by evidence on train of images (3 images), protocol standard"
    assert chosen.images == ""  # no oracle, on whichever images
    assert model.training


class CornerDetector(StripeDetector):
    """Recognises the stripes, but lights a corner only."""

    def class_maps(self, images: Tensor) -> tuple[Tensor, ClassMaps]:
        map_ = torch.zeros(len(images), SIDE, SIDE)
        map_[:, -6:, :6] = 1
        return super().class_maps(images)[0], shared_map(map_)


@pytest.mark.parametrize(("model", "reported"), [(StripeDetector, False), (CornerDetector, True)])
def test_boxes_without_evidence_are_reported(
    preprocessing: Preprocessing, model: type[StripeDetector], reported: bool
) -> None:
    chosen = calibrate_without_boxes(model(), Stripes(False), preprocessing, STANDARD)
    assert (WITHOUT_EVIDENCE in chosen.source) == reported


def test_calibrate_without_boxes_on_the_command_line(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", str(checkpoint), "--without-boxes", "--device", "cpu"]) == 0
    threshold = read_metadata(checkpoint).threshold
    assert threshold is not None
    assert threshold.source.startswith("chosen without boxes, by evidence on train of scenes (24 images)")
    assert f"map threshold {threshold.value:g}, chosen without boxes" in "".join(capsys.readouterr())


def test_evidence_is_a_factor_of_the_confidence(run: Path) -> None:
    images = [Stripes(False).image(index) for index in range(2)]
    plain, evident = (
        Localizer.from_checkpoint(run / "checkpoints/best.ckpt", "cpu", options=prediction_options(evidence=wanted))
        for wanted in (False, True)
    )
    for image, before, after in zip(images, plain(images), evident(images), strict=True):
        assert after.boxes.tolist() == before.boxes.tolist()
        tensor, frame = plain.predictor.transform(image)
        x0, y0, x1, y1 = frame.to_input(before.boxes)[0].round().astype(int)
        inside = blurred(tensor[None])
        inside[..., y0:y1, x0:x1] = tensor[:, y0:y1, x0:x1]
        logits, _ = plain.model.class_maps(inside)
        seen = logits.softmax(1)[0, before.class_index].item()
        assert after.confidence == pytest.approx(before.confidence * min(1, seen / before.score), abs=1e-4)
        assert plain.top(image, 2)[0].confidence.tolist() == before.confidence.tolist()
        assert evident.top(image, 2)[0].confidence == pytest.approx(after.confidence, abs=1e-4)


def test_evaluation_with_evidence(preprocessing: Preprocessing) -> None:
    model, scorer = StripeDetector(), Scorer(STANDARD, 0.5)
    plain, evident = (
        evaluate_model(model, Stripes(True), preprocessing, scorer, options=prediction_options(evidence=wanted))
        for wanted in (False, True)
    )
    assert [row.largest for row in evident.images] == [row.largest for row in plain.images]
    for before, after in zip(plain.images, evident.images, strict=True):
        assert after.confidence == pytest.approx(before.confidence, rel=0.01)  # the boxes are right
