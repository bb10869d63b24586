"""The student: its loss against a slow computation, its grid, and learning."""

from __future__ import annotations

from math import exp, log

import pytest
import torch

from tests.methods.small import IMAGES, SMALL, small_model
from tokenloc.methods import Output
from tokenloc.models import create_model


def test_the_loss_of_maps_on_the_grid_of_the_targets() -> None:
    model = small_model("student", teacher_threshold=0.3, temperature=0.2)
    logits, targets = torch.randn(2, 4, 3), torch.rand(2, 4, 3)
    targets[0, :2] = -1  # half of an image has no target, and
    expected, known = [0.0, 0.0], [6, 12]
    for image in range(2):
        for z, target in zip(logits[image].flatten().tolist(), targets[image].flatten().tolist(), strict=True):
            if target >= 0:
                soft, p = 1 / (1 + exp((0.3 - target) / 0.2)), 1 / (1 + exp(-z))
                expected[image] -= (soft * log(p) + (1 - soft) * log(1 - p)) / known[image]
    output = Output(torch.zeros(2, 5), {"map": logits, "semantic": torch.zeros(2, 5, 4, 3), "target": targets})
    terms = model.loss(output, torch.tensor([0, 1]))
    assert terms["map"].item() == pytest.approx(sum(expected) / 2, rel=1e-5)
    assert terms["total"].item() == pytest.approx(log(5) + sum(expected) / 2, rel=1e-5)
    targets[0] = -1  # now none, so that only the other image counts
    assert model.loss(output, torch.tensor([0, 1]))["map"].item() == pytest.approx(expected[1] / 2, rel=1e-5)


def test_without_targets_it_learns_the_class_map_of_the_label() -> None:
    model = small_model("student")
    semantic = torch.rand(2, 5, 4, 3)
    semantic[1, 3] = torch.linspace(0, 1, 12).view(4, 3)
    logits = torch.randn(2, 4, 3)
    output = Output(torch.zeros(2, 5), {"map": logits, "semantic": semantic})
    low, high = semantic[0, 2].min(), semantic[0, 2].max()
    targets = torch.stack([(semantic[0, 2] - low) / (high - low), semantic[1, 3]])
    given = Output(output.logits, {**output.auxiliary, "target": targets})
    labels = torch.tensor([2, 3])
    torch.testing.assert_close(model.loss(output, labels), model.loss(given, labels))


@pytest.mark.parametrize(("backbone", "patch"), [("vit_tiny_patch16_224", 16), ("vit_small_patch14_dinov2", 14)])
def test_a_map_has_sixteen_cells_for_each_patch(backbone: str, patch: int) -> None:
    model = create_model("student", backbone, 5, False, backbone_options=SMALL).eval()
    _, maps = model.localize(torch.randn(1, 3, 4 * patch, 3 * patch))
    assert maps.shape == (1, 1, 16, 12)


def test_a_map_finer_than_a_patch_is_learned() -> None:
    model = small_model("student", width=16, temperature=0.05).train()
    target = torch.zeros(2, 64, 48)
    target[0, 20:44, 8:24] = target[1, 4:36, 20:44] = 1  # edges inside of patches
    images = torch.cat([IMAGES + 2 * target[:, None], target[:, None]], dim=1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimiser.zero_grad()
        model.loss(model(images), torch.tensor([0, 1]))["total"].backward()
        optimiser.step()
    maps = model.eval().localize(images[:, :3])[1]
    found = torch.nn.functional.interpolate(maps, (64, 48), mode="bilinear")[:, 0] > 0.5
    overlap, union = (found & (target > 0.5)).sum((1, 2)), (found | (target > 0.5)).sum((1, 2))
    assert (overlap / union).min() > 0.85


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher_threshold": 1.5}, r"maps in \[0, 1\]; got 1.5"),
        ({"temperature": 0.0}, "temperature must be positive, and width at least 1; got 0.0 and 48"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_model("student", **options)
