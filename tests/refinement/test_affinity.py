"""Affinity refinement against Eqs. 7 to 9, computed pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor

from tokenloc.refinement import AffinityRefinement
from tokenloc.refinement.affinity import affinity

NEXT = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]


def make_image(height: int = 6, width: int = 5, seed: int = 0) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def slow_refined(
    map_: NDArray[np.float64],
    image: NDArray[np.float64],
    offsets: list[tuple[int, int]],
    *,
    iterations: int,
    keep: float = 0.1,
    position_weight: float = 0.01,
    spread: float = 1.0,
) -> NDArray[np.float64]:
    """Refine one map literally by the equations, with a replicated border."""
    height, width = map_.shape

    def at(array: NDArray[np.float64], row: int, column: int) -> NDArray[np.float64]:
        return array[..., min(max(row, 0), height - 1), min(max(column, 0), width - 1)]

    far = [math.hypot(*offset) for offset in offsets]
    by_position = softmax([-((d / (spread * np.std(far, ddof=1) + 1e-8)) ** 2) for d in far])
    map_ = map_ - 0.5
    for _ in range(iterations):
        new = np.empty_like(map_)
        for i in range(height):
            for j in range(width):
                around = np.array([at(image, i + down, j + right) for down, right in offsets])
                deviation = spread * around.std(axis=0, ddof=1) + 1e-8
                kernels = [-float((((image[:, i, j] - other) / deviation) ** 2).mean()) for other in around]
                weights = softmax(kernels) + position_weight * by_position
                taken = sum(w * at(map_, i + o[0], j + o[1]) for w, o in zip(weights, offsets, strict=True))
                new[i, j] = keep * map_[i, j] + (1 - keep) * taken
        map_ = new
    return (map_ - map_.min()) / (map_.max() - map_.min())


@pytest.mark.parametrize(
    ("step", "offsets"),
    [
        (AffinityRefinement(iterations=7), NEXT),
        (AffinityRefinement(iterations=3, keep=0.4, position_weight=0.5), NEXT),
        (
            AffinityRefinement(iterations=2, distances=(1, 3), spread=0.3),
            NEXT + [(3 * down, 3 * right) for down, right in NEXT],
        ),
    ],
)
def test_it_equals_the_equations(step: AffinityRefinement, offsets: list[tuple[int, int]]) -> None:
    maps, images = torch.rand(2, 3, 6, 5), torch.stack([make_image(seed=1), make_image(seed=2)])
    refined = step(maps, images)
    settings = {name: getattr(step, name) for name in ("iterations", "keep", "position_weight", "spread")}
    exact_maps, exact_images = maps.double().numpy(), images.double().numpy()
    for image in range(2):
        for index in range(3):
            expected = slow_refined(exact_maps[image, index], exact_images[image], offsets, **settings)
            np.testing.assert_allclose(refined[image, index].numpy(), expected, atol=1e-4)


def test_the_sum_of_the_weights() -> None:
    weights = affinity(make_image()[None], (1, 2), 0.01)
    assert weights.shape == (1, 16, 6, 5)
    torch.testing.assert_close(weights.sum(dim=1), torch.full((1, 6, 5), 1.01))


def test_map_edges_follow_image_edges() -> None:
    image = torch.zeros(1, 3, 20, 20)
    image[..., 10:] = 1.0
    noisy = image + 0.01 * torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    ramp = torch.linspace(0, 1, 20).expand(1, 1, 20, 20)
    refined = AffinityRefinement()(ramp, noisy.clamp(0, 1))[0, 0]
    across, within = (refined[:, 10] - refined[:, 9]).mean(), (refined[:, 9] - refined[:, 8]).mean()
    assert across > 10 * within


def test_the_negated_map_gives_the_negated_result() -> None:
    maps, images = torch.rand(1, 2, 9, 8), torch.rand(1, 3, 9, 8)
    step = AffinityRefinement(iterations=5)
    torch.testing.assert_close(step(1 - maps, images), 1 - step(maps, images))


def test_the_batch_size_does_not_change_the_result() -> None:
    maps, images = torch.rand(5, 2, 9, 8), torch.rand(5, 3, 9, 8)
    together, apart = (AffinityRefinement(iterations=5, batch_size=n)(maps, images) for n in (5, 2))
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-6)


def test_a_uniform_image_and_a_constant_map() -> None:
    maps, images = torch.rand(2, 1, 9, 8), torch.rand(2, 3, 9, 8)
    maps[1], images[0] = 0.7, 0.5
    refined = AffinityRefinement(iterations=3)(maps, images)
    assert refined.isfinite().all()
    assert refined[0].amax() == 1
    assert refined[1].eq(0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distances": ()}, r"distances must be at least one, each at least 1 pixel; got \(\)"),
        ({"distances": (1, 0)}, r"distances must be .* got \(1, 0\)"),
        ({"keep": 1.5}, r"keep must lie in \[0, 1\]; got 1.5"),
        ({"iterations": -1}, "iterations and position_weight must be at least 0.*got -1, 0.01, 1.0, 8"),
        ({"spread": 0.0}, "spread above 0"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AffinityRefinement(**settings)
