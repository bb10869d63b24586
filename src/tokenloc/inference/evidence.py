"""Evidence: whether a model recognises the class inside a box, and no longer outside of it. It needs no ground truth.

The model classifies an image again: "inside", with everything but the box blurred, and "outside", with the box blurred.
A box that misses the object lacks the first; a box of a part of it leaves the second. The first is a factor of the
confidence of boxes; the difference chooses the map threshold (``calibration``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from tokenloc.boxes.confidence import evident_confidence
from tokenloc.boxes.frame import Size, checked_boxes
from tokenloc.inference.localization import Localization

CELLS = 8  # on the shorter side of a blurred image: colours remain, shapes do not


def blurred(images: Tensor) -> Tensor:
    """Return ``images`` [B, 3, H, W] with no detail finer than an eighth of their shorter side."""
    height, width = images.shape[-2:]
    cells = [max(1, round(CELLS * side / min(height, width))) for side in (height, width)]
    small = F.interpolate(images, cells, mode="bilinear", antialias=True)
    return F.interpolate(small, (height, width), mode="bilinear")


def box_mask(boxes: ArrayLike, size: Size) -> Tensor:
    """Return the pixels of an image of ``size`` (width, height) in any of ``boxes`` [N, 4] xyxy, [1, H, W] bool."""
    width, height = size
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    for x0, y0, x1, y1 in checked_boxes(boxes).round().clip(0).astype(int).tolist():
        mask[:, y0:y1, x0:x1] = True
    return mask


def only_visible(images: Tensor, masks: Tensor) -> Tensor:
    """Return ``images`` [B, 3, H, W] blurred everywhere but in ``masks`` [B, 1, H, W] bool."""
    return torch.where(masks, images, blurred(images))


def with_evidence(
    recognised: Callable[[Tensor, Tensor, Tensor], Tensor], images: list[Tensor], results: list[list[Localization]]
) -> list[list[Localization]]:
    """Return the results of each image with their evidence in the confidence; the boxes of one class share it.

    ``recognised`` is that of a ``Predictor``.
    """
    ranks = []
    for of_rank in zip(*results, strict=True):
        masks = torch.stack([box_mask(one.frame.to_input(one.boxes), one.frame.input_size) for one in of_rank])
        classes = torch.tensor([one.class_index for one in of_rank])
        inside = recognised(torch.stack(images), masks, classes).tolist()
        pairs = zip(of_rank, inside, strict=True)
        ranks.append(
            [replace(one, confidence=evident_confidence(one.confidence, one.score, seen)) for one, seen in pairs]
        )
    return [list(of_image) for of_image in zip(*ranks, strict=True)]
