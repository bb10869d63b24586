"""TriLite against a slow version of its equations, image by image and patch by patch."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from tests.methods.small import IMAGES, SMALL, small_model
from tokenloc.methods.trilite import absence
from tokenloc.models import create_model

LABELS = torch.tensor([3, 0])


def regions(patches: np.ndarray, model: Any, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return the regions of patches [h, w, D] under these statistics of the three channels, [3, h, w]."""
    kernel, scale, shift = (double(each) for each in model.regions.parameters())
    normalised = (convolved(patches, kernel) - mean) / np.sqrt(variance + 1e-5) * scale + shift
    exponential = np.exp(normalised)
    return np.asarray(exponential / exponential.sum(2, keepdims=True)).transpose(2, 0, 1)


def convolved(patches: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Return the 3 x 3 convolution of patches [h, w, D] with zeros around them, [h, w, 3]."""
    rows, columns, _ = patches.shape
    found = np.zeros((rows, columns, 3))
    for y, x, dy, dx in itertools.product(range(rows), range(columns), (-1, 0, 1), (-1, 0, 1)):
        if 0 <= y + dy < rows and 0 <= x + dx < columns:
            found[y, x] += kernel[:, :, dy + 1, dx + 1] @ patches[y + dy, x + dx]
    return found


def probability(layer: torch.nn.Linear, feature: np.ndarray, label: int) -> float:
    scores = np.exp(double(layer.weight) @ feature + double(layer.bias))
    return float(scores[label] / scores.sum())


def double(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def trained() -> tuple[Any, np.ndarray, np.ndarray]:
    """Return a small model whose regions differ, its patches [B, h, w, D] and class tokens [B, D]."""
    torch.manual_seed(0)
    model = small_model("trilite", kernel_size=3)
    model.regions[1].weight.data = torch.tensor([1.0, -2.0, 0.5])
    model.regions[1].bias.data = torch.tensor([0.1, 0.0, -0.3])
    features = model.backbone(IMAGES)
    return model, double(features.patches.unflatten(1, features.grid)), double(features.class_token)


def test_regions_and_loss_are_those_of_the_equations() -> None:
    model, patches, tokens = trained()
    output = model.train()(IMAGES)
    every = np.concatenate([convolved(each, double(model.regions[0].weight)).reshape(-1, 3) for each in patches])
    terms = {"classification": 0.0, "foreground": 0.0, "background": 0.0}
    for image, label in enumerate(LABELS.tolist()):
        expected = regions(patches[image], model, every.mean(0), every.var(0))
        np.testing.assert_allclose(double(output.auxiliary["regions"][image]), expected, rtol=1e-4)
        _, foreground, background = ((m[..., None] * patches[image]).sum((0, 1)) / m.sum() for m in expected)
        terms["classification"] -= np.log(probability(model.head, tokens[image], label)) / 2
        terms["foreground"] -= np.log(probability(model.region_head, foreground, label)) / 2
        terms["background"] -= np.log(1 - probability(model.region_head, background, label)) / 2
    found = {name: term.item() for name, term in model.loss(output, LABELS).items()}
    assert found == pytest.approx({**terms, "total": sum(terms.values())}, rel=1e-4)


@pytest.mark.parametrize("map_", ["relative", "foreground"])
def test_the_map_under_the_statistics_of_training(map_: str) -> None:
    model, patches, tokens = trained()
    model.map = map_
    model.train()(IMAGES)
    logits, maps = model.eval().localize(IMAGES, torch.tensor([[1, 2], [0, 4]]))
    intermediate = model.intermediate_maps(IMAGES, LABELS)
    statistics = double(model.regions[1].running_mean), double(model.regions[1].running_var)
    for image in range(2):
        expected = regions(patches[image], model, *statistics)
        for name, region in zip(("ambiguous", "foreground", "background"), expected, strict=True):
            np.testing.assert_allclose(double(intermediate[name][image]), region, rtol=1e-4)
        wanted = expected[1] if map_ == "foreground" else expected[1] / (expected[1] + expected[2])
        np.testing.assert_allclose(double(maps[image]), [wanted] * 2, rtol=1e-4)
    np.testing.assert_allclose(double(logits), double(model.head(torch.tensor(tokens).float())), rtol=1e-4)


def test_the_regions_start_equal() -> None:
    regions_ = small_model("trilite").train()(IMAGES).auxiliary["regions"]
    torch.testing.assert_close(regions_, torch.full((2, 3, 4, 3), 1 / 3))


def test_the_background_term_is_finite_where_the_probability_rounds_to_one() -> None:
    logits = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    loss = absence(logits, torch.tensor([0]))
    loss.backward()
    assert loss.item() == pytest.approx(200 - np.log(2))
    assert logits.grad is not None
    assert logits.grad.tolist() == [pytest.approx([1, -0.5, -0.5])]


def test_fewer_than_800_000_weights_are_trained_for_1000_classes_as_in_the_paper() -> None:
    model = create_model("trilite", "vit_small_patch14_dinov2", 1000, False, 224, {"depth": 1})
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 2 * 385_000 + 3 * 384 + 6 < 800_000


@pytest.mark.parametrize(
    ("classes", "options", "message"),
    [
        (5, {"kernel_size": 2}, "kernel_size must be odd and positive; got 2"),
        (5, {"kernel_size": -1}, "kernel_size must be odd and positive; got -1"),
        (5, {"map": "background"}, "unknown map 'background'"),
        (1, {}, "needs 2; got 1"),
    ],
)
def test_invalid_settings_are_refused(classes: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model("trilite", "vit_tiny_patch16_224", classes, False, 64, SMALL, **options)
