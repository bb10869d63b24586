"""``tokenloc.refine``: shapes, ranges, steps and errors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tokenloc.refinement import STEPS, AffinityRefinement, Reprediction, find_steps, list_steps, refine

QUICK = [AffinityRefinement(iterations=2), Reprediction(max_steps=2)]


def inputs(batch: int = 2, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, classes, 4, 6, generator=generator), torch.rand(batch, 3, 32, 48, generator=generator)


def test_without_steps_maps_are_resized_and_scaled() -> None:
    maps, images = inputs()
    refined = refine(maps, images, steps=[])
    assert refined.shape == (2, 3, 32, 48)
    for image in range(2):
        for index in range(3):
            large = F.interpolate(maps[image, index][None, None], size=(32, 48), mode="bilinear")[0, 0]
            torch.testing.assert_close(refined[image, index], (large - large.min()) / (large.max() - large.min()))


@pytest.mark.parametrize("name", list_steps())
def test_every_step_keeps_shape_and_range(name: str) -> None:
    maps, images = inputs()
    refined = refine(maps, images, [name])
    assert (refined.shape, refined.dtype, refined.requires_grad) == ((2, 3, 32, 48), torch.float32, False)
    assert 0 <= refined.min() <= refined.max() <= 1
    assert torch.equal(refined[:, 1], refine(maps[:, 1], images, name))  # [B, h, w], and a single name


def test_steps_are_applied_in_order() -> None:
    maps, images = inputs()
    first, second = QUICK
    scaled = refine(maps, images, [])
    assert torch.equal(refine(maps, images, QUICK), second(first(scaled, images), images))
    assert torch.equal(refine(maps, images, iter(QUICK)), refine(maps, images, QUICK))


def test_it_works_in_inference_mode_and_under_autocast() -> None:
    maps, images = inputs()
    expected = refine(maps, images, QUICK)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        refined = refine(maps * 1, images * 1, QUICK)
        assert torch.is_inference_mode_enabled()
    assert torch.equal(refined, expected)


def test_cudnn_is_deterministic_and_not_switched_off() -> None:
    cudnn, maps_and_images = torch.backends.cudnn, inputs()
    seen: list[tuple[bool, bool, bool]] = []

    def step(maps: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        seen.append((cudnn.enabled, cudnn.deterministic, cudnn.allow_tf32))
        return maps

    before = cudnn.enabled, cudnn.deterministic, cudnn.allow_tf32
    refine(*maps_and_images, [step])
    assert seen == [(before[0], True, False)]
    assert (cudnn.enabled, cudnn.deterministic, cudnn.allow_tf32) == before


def test_inputs_are_not_modified() -> None:
    maps, images = inputs()
    copies = maps.clone(), images.clone()
    refine(maps.requires_grad_(), images, QUICK)
    assert torch.equal(maps, copies[0])
    assert torch.equal(images, copies[1])


def test_half_precision_maps_are_refined_in_float32() -> None:
    maps, images = inputs()
    assert torch.equal(refine(maps.half(), images, QUICK), refine(maps.half().float(), images, QUICK))


def test_a_constant_map_becomes_zero() -> None:
    maps, images = inputs()
    expected = refine(maps, images, QUICK)
    maps[0, 1] = 7.0
    refined = refine(maps, images, QUICK)
    assert refined[0, 1].eq(0).all()
    assert (refined[1] != expected[1]).float().mean() < 0.01


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_empty_batches(shape: tuple[int, int]) -> None:
    refined = refine(torch.rand(*shape, 4, 6), torch.rand(shape[0], 3, 32, 48), QUICK)
    assert refined.shape[:2] == shape


def test_small_excesses_beyond_0_and_1_are_clipped() -> None:
    images, maps = torch.rand(1, 3, 16, 16), torch.rand(1, 1, 4, 4)
    images[0, :, 0, 0], images[0, :, 0, 1] = 1.0, 0.0
    beyond = images.clone()
    beyond[0, :, 0, 0], beyond[0, :, 0, 1] = 1.0002, -0.0002
    assert torch.equal(refine(maps, beyond, QUICK), refine(maps, images, QUICK))


def test_an_unknown_step_lists_the_valid_ones() -> None:
    expected = "unknown refinement step 'afinity'; did you mean 'affinity'. Valid: affinity, affinity_wide, repred"
    with pytest.raises(ValueError, match=expected):
        refine(*inputs(), ["reprediction", "afinity"])


def test_reprediction_at_a_threshold() -> None:
    assert find_steps(["affinity", "reprediction@0.1"]) == [STEPS["affinity"], Reprediction.at(0.1)]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("affinity@0.1", "'affinity' takes no threshold; remove '@0.1'"),
        ("reprediction@", "invalid refinement step 'reprediction@'; expected one like 'reprediction@0.1'"),
        ("reprediction@0.9", r"needs a threshold in \[0, 0.8\]; got 0.9"),
        ("repredicton@0.1", "unknown refinement step 'repredicton'; did you mean 'reprediction'"),
    ],
)
def test_invalid_thresholds_are_refused(step: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_steps([step])


def test_maps_that_are_not_finite_are_refused() -> None:
    maps, images = inputs(4)
    maps[1, 0, 2, 2], maps[3, 2, 0, 0] = torch.nan, torch.inf
    with pytest.raises(ValueError, match=r"maps of images \[1, 3\] of the batch \(of 4\).*not finite.*half precision"):
        refine(maps, images, QUICK)


@pytest.mark.parametrize("change", [lambda x: 2 * x - 1, lambda x: 255 * x, lambda x: x * torch.nan])
def test_images_outside_the_range_are_refused(change: object) -> None:
    maps, images = inputs()
    expected = r"RGB in \[0, 1\]; got values from .* Undo the normalisation .* divide bytes by"
    with pytest.raises(ValueError, match=expected):
        refine(maps, change(images), QUICK)


IMAGES = torch.rand(2, 3, 8, 8)
MAPS = torch.rand(2, 4, 4)


@pytest.mark.parametrize(
    ("maps", "images", "message"),
    [
        (MAPS, torch.zeros(2, 1, 8, 8), r"images must be \[B, 3, H, W\] float, RGB in \[0, 1\]; got \["),
        (MAPS, torch.zeros(3, 8, 8), r"images must be"),
        (MAPS, torch.zeros(2, 3, 8, 8).byte(), r"images must be"),
        (torch.rand(3, 4, 4), IMAGES, r"maps must be \[B, K, h, w\] or \[B, h, w\] float with B = 2 images; got \["),
        (torch.rand(4, 4), IMAGES, r"maps must be"),
        (torch.ones(2, 4, 4).long(), IMAGES, r"maps must be"),
        (MAPS.to("meta"), IMAGES, "maps are on meta, images on cpu; move them to one device"),
    ],
)
def test_another_shape_or_device_is_refused(maps: Tensor, images: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refine(maps, images)
