"""How far a box can be confident: from what the map and the class score show, without any truth.

Three signs, each in [0, 1], of which a box's confidence is the product: the probability of its class, how little the box
changes with the threshold, and how cleanly the threshold parts the map. Nothing in it is fitted. docs/confidence.md says
what was tried, on which images it was chosen, and on which it was measured.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokenloc.boxes.extraction import BoxScan, scan_boxes, written_boxes
from tokenloc.boxes.frame import checked_boxes
from tokenloc.boxes.iou import box_iou
from tokenloc.boxes.maps import PreparedMap
from tokenloc.boxes.protocols import Protocol, checked_threshold

OCTAVES = (-1.0, -0.75, -0.5, -0.25, 0.25, 0.5, 0.75, 1.0)
"""By how many doublings the odds of a nearby threshold differ from those of the threshold in use."""

DIGITS = 4
"""Of a confidence: finer ones would depend on which images passed the network together."""


def nearby_thresholds(threshold: float) -> NDArray[np.float64]:
    """Return the thresholds [8] around one in [0, 1]: its odds t / (1 - t) halved, doubled, and steps between.

    So small thresholds are changed by small steps, and none leaves [0, 1].

    >>> nearby_thresholds(0.2).round(2).tolist()
    [0.11, 0.13, 0.15, 0.17, 0.23, 0.26, 0.3, 0.33]
    """
    threshold = checked_threshold(threshold)
    changed = np.exp2(OCTAVES) * threshold
    return np.asarray(changed / (changed + (1 - threshold)))


def box_confidence(
    probability: float, prepared: PreparedMap, boxes: ArrayLike, threshold: float, protocol: Protocol
) -> NDArray[np.float64]:
    """Return how far each box of a map can be confident: probability x stability x separation.

    Args:
        probability: of the class, softmax, in [0, 1].
        prepared: [H, W], the map that the boxes were drawn from, as ``prepare_map`` gives it.
        boxes: [N, 4] xyxy in the map's pixels.
        threshold: at which they were drawn, in [0, 1].
        protocol: by which they were drawn.

    Returns:
        [N] float64 in [0, 1], four digits: 1 for a certain class and a map that is an object's mask. It orders boxes by
        what to check first; it is no probability.

    >>> from tokenloc.boxes import get_protocol
    >>> step = np.zeros((6, 6), dtype=np.float32)
    >>> step[1:4, 2:5] = 1
    >>> box_confidence(0.9, step, [[2, 1, 5, 4]], 0.2, get_protocol("standard")).tolist()
    [0.9]
    """
    scan = scan_boxes(prepared, [threshold, *nearby_thresholds(threshold)], protocol)
    written = written_boxes(checked_boxes(boxes), prepared.shape, protocol)
    separation = map_separation(prepared, scan.ranks > scan.entry[0])
    return np.asarray(np.round(probability * box_stability(scan, written) * separation, DIGITS))


def box_stability(scan: BoxScan, boxes: ArrayLike) -> NDArray[np.float64]:
    """Return how little each box changes with the threshold: its mean IoU with its like at nearby thresholds.

    Its like is the box that it meets best, of all components there. So a box is judged for itself, whichever component
    is the largest.

    Args:
        scan: of the map, at the threshold in use and then at ``nearby_thresholds``.
        boxes: [N, 4] xyxy in the map's pixels, drawn at the first threshold.

    Returns:
        [N] float64 in [0, 1].
    """
    overlaps = box_iou(scan.nodes.boxes, boxes)
    return np.array([scan.greatest(column)[1:].mean() for column in overlaps.T], dtype=np.float64)


def map_separation(map_: PreparedMap, foreground: NDArray[np.bool_]) -> float:
    """Return which share of a map's variance is between foreground and background, and not within them.

    That is the criterion eta by which Otsu's method chooses thresholds ("A threshold selection method from gray-level
    histograms", 1979), here of the threshold in use: 1 where the map is the foreground's mask, 0 where it says nothing.

    Args:
        map_: [H, W], any range.
        foreground: [H, W].

    Returns:
        A number in [0, 1]; 0 where the map is constant, or there is no foreground or no background.
    """
    share = float(foreground.mean())
    variance = float(map_.var(dtype=np.float64))
    if variance == 0 or share in (0.0, 1.0):
        return 0.0
    apart = float(map_[foreground].mean(dtype=np.float64) - map_[~foreground].mean(dtype=np.float64))
    return min(1.0, share * (1 - share) * apart**2 / variance)
