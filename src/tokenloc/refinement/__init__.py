"""Refinement: steps that bring the map of any method to the pixels of its image."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenloc._names import Registry
from tokenloc.methods._scaling import min_max
from tokenloc.refinement.affinity import AffinityRefinement
from tokenloc.refinement.reprediction import Reprediction

__all__ = ["STEPS", "AffinityRefinement", "Reprediction", "Step", "find_steps", "list_steps", "refine"]

SLACK = 1e-3  # by which resizing may leave [0, 1]
Step = Callable[[Tensor, Tensor], Tensor]
"""From maps [B, K, H, W] in [0, 1] and images [B, 3, H, W] (RGB in [0, 1]), float32, to maps of the same form."""

STEPS: Registry[Step] = Registry("refinement step")
"""The steps by name; another is added by ``STEPS.add(name, step)``."""

STEPS.add("affinity", AffinityRefinement())
STEPS.add("affinity_wide", AffinityRefinement.wide())
STEPS.add("reprediction", Reprediction())


def list_steps(pattern: str | None = None) -> list[str]:
    """Return the names of the refinement steps, sorted; ``pattern`` is a shell wildcard.

    >>> list_steps("aff*")
    ['affinity', 'affinity_wide']
    """
    return STEPS.names(pattern)


def find_steps(steps: Iterable[str | Step]) -> list[Step]:
    """Return the steps themselves where some are given by name.

    ``reprediction@0.1`` is ``Reprediction.at(0.1)``: for maps that are known to give good boxes at the threshold 0.1.

    Raises:
        ValueError: an unknown name, or what follows the @ is no threshold.
    """
    return [_named(step) if isinstance(step, str) else step for step in steps]


def _named(name: str) -> Step:
    step, at, threshold = name.partition("@")
    if not at:
        return STEPS[step]
    if not isinstance(STEPS[step], Reprediction):
        raise ValueError(f"the step {step!r} takes no threshold; leave {at + threshold!r} out")
    try:
        return Reprediction.at(float(threshold))
    except ValueError as error:
        raise ValueError(f"the step {name!r} is not to be understood, such as 'reprediction@0.1' is: {error}") from None


def refine(maps: Tensor, images: Tensor, steps: Iterable[str | Step] = ("affinity", "reprediction")) -> Tensor:
    """Refine localization maps by their images (LCAR, Tables 1 and 2).

    The maps are brought to the size of the images (bilinear, half-pixel centres), scaled to [0, 1] each by its own
    range, and go through the steps. A map's result depends on its own image alone, and is the same on every call.

    Args:
        maps: [B, K, h, w] or [B, h, w] float, larger is more object, in any range; of any method.
        images: [B, 3, H, W] float, RGB in [0, 1], *not* normalised: what the network saw, before mean and standard
            deviation were taken out. On the device of the maps.
        steps: names of ``list_steps()``; ``reprediction@0.1`` with the threshold that suits the maps; or steps with
            settings of their own, such as ``Reprediction(object_level=0.5)``; none gives the scaled maps.

    Returns:
        [B, K, H, W] or [B, H, W] float32 in [0, 1], without gradient. A constant map, which says nothing of where,
        becomes 0 everywhere.

    Raises:
        ValueError: an unknown step, or maps or images of another form, range or device, or with values that are not
            finite.

    >>> maps, images = torch.rand(2, 5, 14, 14), torch.rand(2, 3, 64, 48)
    >>> list(refine(maps, images, steps=["affinity"]).shape)
    [2, 5, 64, 48]
    """
    chosen = find_steps([steps] if isinstance(steps, str) else steps)
    _check_images(images)
    _check_maps(maps, images)
    # Steps may fit networks: outside of inference mode, in float32, by kernels that give the same on every call.
    deterministic = torch.backends.cudnn.flags(deterministic=True, benchmark=False)
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(images.device.type, enabled=False), deterministic:
        images, coarse = images.float().clamp(0, 1), maps.clone().float()
        refined = coarse[:, None] if maps.ndim == 3 else coarse
        if refined.numel():
            # A constant map has to become 0 first: interpolation's rounding would be scaled up to a pattern.
            large = F.interpolate(min_max(refined), images.shape[-2:], mode="bilinear", align_corners=False)
            refined = min_max(large)
            for step in chosen:
                refined = step(refined, images)
    return refined[:, 0] if maps.ndim == 3 else refined


def _check_images(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        form = f"{list(images.shape)} {images.dtype}"
        raise ValueError(f"images must be [B, 3, H, W] float, RGB in [0, 1]; got {form}")
    if images.numel() and not (float(images.min()) >= -SLACK and float(images.max()) <= 1 + SLACK):
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
            "finite; look for an overflow in the network (half precision, a diverged training)"
        )
