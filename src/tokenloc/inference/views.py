"""Views of an image for test-time augmentation, and the merging of their maps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenloc.boxes import Size
from tokenloc.inference.options import TestTimeAugmentation
from tokenloc.methods._scaling import min_max


class View(NamedTuple):
    """An image of ``size``, its content moved by ``shift`` and then mirrored if ``flip``."""

    size: Size  # (width, height) in pixels
    shift: tuple[int, int] = (0, 0)  # (x, y) in these pixels, to the right and down
    flip: bool = False

    def of(self, images: Tensor) -> Tensor:
        """Return the view of ``images``, both [B, 3, height, width]; what a shift uncovers is a reflection."""
        return _flipped(_shifted(images, *self.shift), self.flip)

    def map_back(self, maps: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return maps [B, K, h, w] of the view on a ``grid`` (rows, columns) over the image: bilinear, in float32."""
        maps = _flipped(maps, self.flip)
        if self.shift == (0, 0):
            return F.interpolate(maps, grid, mode="bilinear")
        x, y = (
            2 * pixels / side for pixels, side in zip(self.shift, self.size, strict=True)
        )  # the image spans [-1, 1]
        moved = maps.new_tensor([[1, 0, x], [0, 1, y]]).expand(len(maps), -1, -1)
        points = F.affine_grid(moved, [len(maps), 1, *grid], align_corners=False)
        return F.grid_sample(maps, points, mode="bilinear", padding_mode="border", align_corners=False)


def views_of(augmentation: TestTimeAugmentation, sizes: Iterable[Size], patch: tuple[int, int]) -> list[View]:
    """Return the views at the ``sizes``; ``patch`` is the backbone's, (height, width) in pixels.

    ``shifts`` N are N x N shifts in steps of 1/N of a patch around the unshifted image. The centres of their patches,
    moved back, are those of a grid N times as fine. Raises ValueError if they are less than a pixel apart.
    """
    count = augmentation.shifts
    if count > min(patch):
        raise ValueError(f"shifts must be at most the {min(patch)} pixels of a patch; got {count}")
    down, right = ([round(side * ((2 * step + 1) / count - 1) / 2) for step in range(count)] for side in patch)
    flips = (False, True)[: 1 + augmentation.flip]
    return [View(size, (x, y), flip) for size in sizes for y, x in product(down, right) for flip in flips]


def merge_maps(maps: Sequence[Tensor], views: Sequence[View], finer: int = 1) -> Tensor:
    """Average the maps [B, K, h, w] of several views, each scaled to [0, 1], on a grid over the image.

    It is ``finer`` times as fine as the finest of the maps. A single map is returned unchanged.
    """
    if len(maps) == 1:
        return maps[0]
    rows, columns = max((map_.shape[-2:] for map_ in maps), key=lambda grid: grid[0] * grid[1])
    grid = (finer * rows, finer * columns)
    return mean([view.map_back(min_max(map_.float()), grid) for map_, view in zip(maps, views, strict=True)])


def mean(values: Sequence[Tensor]) -> Tensor:
    """Return the mean of tensors of one shape; a single one unchanged."""
    return values[0] if len(values) == 1 else torch.stack(list(values)).mean(dim=0)


def resized(images: Tensor, height: int, width: int) -> Tensor:
    """Return ``images`` [B, 3, H, W] resized with antialiasing, unchanged if they have that size."""
    if images.shape[-2:] == (height, width):
        return images
    return F.interpolate(images, (height, width), mode="bilinear", antialias=True)


def _flipped(images: Tensor, flip: bool) -> Tensor:
    return images.flip(-1) if flip else images


def _shifted(images: Tensor, x: int, y: int) -> Tensor:
    """Return ``images`` with their content moved right by ``x`` and down by ``y`` pixels."""
    if x == y == 0:
        return images
    padded = F.pad(images, (max(x, 0), max(-x, 0), max(y, 0), max(-y, 0)), "reflect")
    height, width = images.shape[-2:]
    return padded[..., max(-y, 0) : max(-y, 0) + height, max(-x, 0) : max(-x, 0) + width]
