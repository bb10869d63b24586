"""The components of all level sets of a map at once.

Level sets are nested, so their components form a tree (the max-tree of mathematical morphology): from the highest level
down, components appear, grow and merge, and never part. One sweep over the pixels, by union-find, follows them all.

A map is given by its ranks, [H, W] uint16 in 0 … levels: how many of the ascending levels each pixel exceeds. So a
pixel is foreground at level k where its rank is over k.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenloc.boxes._sweep import HIGH, LOW, Integers, Ranks, fill_holes, greatest, rank_pixels, sweep

__all__ = ["Nodes", "all_outlines", "fill_holes", "largest_outlines", "pixel_components", "rank_pixels"]


class Nodes(NamedTuple):
    """The boxes of all components at all levels; one that is the same at several levels is there once.

    Args:
        boxes: [N, 4] int64 xyxy, exclusive ends.
        low: [N] int64: the lowest level at which a component has this box.
        high: [N] int64: the highest one; it has the box at all levels between, too.
    """

    boxes: Integers
    low: Integers
    high: Integers

    def greatest(self, values: NDArray[np.float64], levels: int) -> NDArray[np.float64]:
        """Return the greatest of the nodes' ``values`` [N] ≥ 0 at each level: [levels] float64, 0 where is no node."""
        return greatest(values, self.low, self.high, levels)


def pixel_components(ranks: Ranks, levels: int) -> tuple[Nodes, Integers]:
    """Return the 8-connected components, and the box of the one with most pixels at each level.

    Returns:
        The nodes, and [levels, 4] int64 xyxy, zeros where a level has no foreground. Of equals the first in reading
        order is taken.
    """
    nodes, largest = sweep(ranks, levels)
    return _nodes(nodes), largest


def all_outlines(ranks: Ranks, filled: Ranks, levels: int) -> Nodes:
    """Return what OpenCV's ``findContours`` traces (RETR_TREE): outlines of 8-connected components and of their holes.

    Args:
        ranks: of the map.
        filled: ``fill_holes`` of it.
        levels: how many.
    """
    outer, _ = sweep(ranks, levels)
    return _nodes(np.concatenate([outer, _holes(ranks, filled, levels)]))


def largest_outlines(filled: Ranks, levels: int) -> Integers:
    """Return the box of the outline with the greatest ``contourArea``: [levels, 4] int64 xyxy, zeros where is none.

    That area is the polygon's through the centres of the outermost pixels, holes and all. Of equals it is the first
    that OpenCV lists: an outline comes before those inside it, and of those side by side whichever begins last in
    reading order. So it is never that of a hole, nor of anything in one, and is found with all holes filled.

    Args:
        filled: ``fill_holes`` of the map's ranks.
        levels: how many.
    """
    return sweep(filled, levels, outline=True)[1]


def _nodes(rows: Integers) -> Nodes:
    return Nodes(rows[:, :4], rows[:, LOW], rows[:, HIGH])


def _holes(ranks: Ranks, filled: Ranks, levels: int) -> Integers:
    """Return the rows of the holes' outlines, which OpenCV traces through the pixels around them.

    A hole is a 4-connected component of background that does not reach the map's edge. Upside down holes are
    components of level sets, too: level k becomes levels - 1 - k. One ends where it pours out, at its filled rank.
    """
    upside_down = (np.uint16(levels) - ranks) * (filled > ranks)
    rows, _ = sweep(upside_down, levels, until=np.uint16(levels) - filled, diagonal=False)
    rows[:, :4] += np.array([-1, -1, 1, 1])
    rows[:, [LOW, HIGH]] = levels - 1 - rows[:, [HIGH, LOW]]
    return rows
