"""The components of all level sets of a map at once.

Level sets are nested, so their components form a tree (the max-tree of mathematical morphology): from the highest level
down, components appear, grow and merge, and never split. One union-find sweep over the pixels follows them all.

A map is given by its ranks, [H, W] uint16 in 0 … levels: how many of the ascending levels each pixel exceeds. A pixel
is foreground at level k if its rank exceeds k.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenloc.boxes._sweep import HIGH, LOW, Integers, Ranks, fill_holes, greatest, rank_pixels, sweep

__all__ = ["Nodes", "all_outlines", "fill_holes", "largest_outlines", "pixel_components", "rank_pixels"]


class Nodes(NamedTuple):
    """The boxes of all components at all levels; a box that does not change over several levels is one node.

    Attributes:
        boxes: [N, 4] int64 xyxy, exclusive ends.
        low: [N] int64, the lowest level at which a component has this box.
        high: [N] int64, the highest such level.
    """

    boxes: Integers
    low: Integers
    high: Integers

    def greatest(self, values: NDArray[np.float64], levels: int) -> NDArray[np.float64]:
        """Return the maximum of the nodes' ``values`` [N] ≥ 0 at each level, [levels] float64; 0 without a node."""
        return greatest(values, self.low, self.high, levels)


def pixel_components(ranks: Ranks, levels: int) -> tuple[Nodes, Integers]:
    """Return the 8-connected components, and the box of the one with most pixels at each level.

    Returns:
        The nodes, and [levels, 4] int64 xyxy, zeros without foreground. Of equals the first in reading order counts.
    """
    nodes, largest = sweep(ranks, levels)
    return _nodes(nodes), largest


def all_outlines(ranks: Ranks, filled: Ranks, levels: int) -> Nodes:
    """Return the contours of OpenCV's ``findContours`` (RETR_TREE): of 8-connected components and of their holes.

    ``filled`` is ``fill_holes`` of ``ranks``.
    """
    outer, _ = sweep(ranks, levels)
    return _nodes(np.concatenate([outer, _holes(ranks, filled, levels)]))


def largest_outlines(filled: Ranks, levels: int) -> Integers:
    """Return the box of the outline with the largest ``contourArea``: [levels, 4] int64 xyxy, zeros without one.

    That is the area of the polygon through the outermost pixel centres, including holes. Of equals, the first in
    OpenCV's order counts: an outline precedes those inside it, and of separate ones the last to begin in reading order
    comes first. It is never the outline of a hole or of anything inside one, so all holes are filled first.
    """
    return sweep(filled, levels, outline=True)[1]


def _nodes(rows: Integers) -> Nodes:
    return Nodes(rows[:, :4], rows[:, LOW], rows[:, HIGH])


def _holes(ranks: Ranks, filled: Ranks, levels: int) -> Integers:
    """Return the rows of the holes' outlines, which OpenCV traces through the surrounding pixels.

    A hole is a 4-connected component of background that does not reach the edge. In the inverted map, holes are
    components of level sets: level k becomes levels - 1 - k. A hole ends at its filled rank.
    """
    inverted = (np.uint16(levels) - ranks) * (filled > ranks)
    rows, _ = sweep(inverted, levels, until=np.uint16(levels) - filled, diagonal=False)
    rows[:, :4] += np.array([-1, -1, 1, 1])
    rows[:, [LOW, HIGH]] = levels - 1 - rows[:, [HIGH, LOW]]
    return rows
