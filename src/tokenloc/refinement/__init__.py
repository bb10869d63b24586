"""Refinement: steps that align the maps of any method with the pixels of their images."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenloc.methods._scaling import min_max
from tokenloc.refinement.affinity import AffinityRefinement
from tokenloc.refinement.reprediction import Reprediction
from tokenloc.refinement.steps import STEPS, Step, StepChoice, describe_steps, find_steps, list_steps

__all__ = [
    "STEPS",
    "AffinityRefinement",
    "Reprediction",
    "Step",
    "StepChoice",
    "describe_steps",
    "find_steps",
    "list_steps",
    "refine",
]

TOLERANCE = 1e-3  # by which resized images may exceed [0, 1]


def refine(
    maps: Tensor, images: Tensor, steps: Iterable[StepChoice | Step] | StepChoice = ("affinity", "reprediction")
) -> Tensor:
    """Refine localization maps with the pixels of their images (LCAR, Tables 1 and 2).

    The maps are resized to the images (bilinear, half-pixel centres), min-max scaled one by one, and passed through the
    steps. The result of a map depends only on its own image, and is deterministic.

    Args:
        maps: [B, K, h, w] or [B, h, w] float, of any range: larger means more object; of any method.
        images: [B, 3, H, W] float, RGB in [0, 1], *not* normalised by mean and standard deviation.
        steps: names from ``list_steps()``, ``reprediction@0.1`` with the maps' box threshold, ``{name: settings}``,
            such as ``{"reprediction": {"stride": 1}}``, or objects, such as ``Reprediction(object_level=0.5)``. Without
            steps, maps are only resized and scaled.

    Returns:
        [B, K, H, W] or [B, H, W] float32 in [0, 1], without gradient. A constant map becomes 0.

    Raises:
        ValueError: an unknown step or setting; maps or images of another shape, range or device; maps that are not
            finite.

    >>> maps, images = torch.rand(2, 5, 14, 14), torch.rand(2, 3, 64, 48)
    >>> list(refine(maps, images, steps=["affinity"]).shape)
    [2, 5, 64, 48]
    """
    chosen = find_steps(steps)
    _check_images(images)
    _check_maps(maps, images)
    # Steps may train networks, so this leaves inference mode; float32 and deterministic kernels make it repeatable.
    cudnn = torch.backends.cudnn.flags(torch.backends.cudnn.enabled, deterministic=True, allow_tf32=False)
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(images.device.type, enabled=False), cudnn:
        images, coarse = images.float().clamp(0, 1), maps.clone().float()
        refined = coarse[:, None] if maps.ndim == 3 else coarse
        if refined.numel():
            # The first scaling sets constant maps to 0, whose rounding errors the second would otherwise amplify.
            large = F.interpolate(min_max(refined), images.shape[-2:], mode="bilinear", align_corners=False)
            refined = min_max(large)
            for step in chosen:
                refined = step(refined, images)
    return refined[:, 0] if maps.ndim == 3 else refined


def _check_images(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        form = f"{list(images.shape)} {images.dtype}"
        raise ValueError(f"images must be [B, 3, H, W] float, RGB in [0, 1]; got {form}")
    if images.numel() and not (float(images.min()) >= -TOLERANCE and float(images.max()) <= 1 + TOLERANCE):
        raise ValueError(
            f"images must be RGB in [0, 1]; got values from {float(images.min()):.4g} to {float(images.max()):.4g}. "
            "Undo the normalisation (images * std + mean), or divide bytes by 255"
        )


def _check_maps(maps: Tensor, images: Tensor) -> None:
    if maps.ndim not in (3, 4) or len(maps) != len(images) or not maps.is_floating_point():
        form = f"{list(maps.shape)} {maps.dtype}"
        raise ValueError(f"maps must be [B, K, h, w] or [B, h, w] float with B = {len(images)} images; got {form}")
    if maps.device != images.device:
        raise ValueError(f"maps are on {maps.device}, images on {images.device}; move them to one device")
    bad = (~maps.isfinite()).flatten(1).any(dim=1)
    if bad.any():
        raise ValueError(
            f"the maps of images {bad.nonzero()[:, 0].tolist()} of the batch (of {len(maps)}) have values that are not "
            "finite; check the network for an overflow (half precision, a diverged training)"
        )
