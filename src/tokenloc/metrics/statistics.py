"""The metrics themselves: pure functions of counts, in percent.

Hits are int64 counts of images, [D, T] at the IoU levels δ of ``IOU_LEVELS`` and T map thresholds. None is returned
where there is nothing to divide by: a set without boxes or masks lacks those metrics, which is no error.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tokenloc.metrics.totals import IOU_LEVELS, Counts

V1_LEVEL = IOU_LEVELS.index(0.5)
"""The row of hits that GT-known, MaxBoxAcc V1 and the choice of the best threshold look at."""

V2_LEVELS = [IOU_LEVELS.index(level) for level in (0.3, 0.5, 0.7)]
"""The rows of hits that MaxBoxAcc V2 averages."""


def percent(part: float | Counts, whole: int | Counts) -> float | None:
    """Return ``part`` of ``whole`` in percent, None where ``whole`` is 0."""
    return 100.0 * float(part) / float(whole) if whole else None


def best_threshold(largest_hits: Counts) -> int:
    """Return the index of the map threshold with most hits at IoU 0.5, the lowest of equals; hits are [D, T]."""
    return int(largest_hits[V1_LEVEL].argmax())


def max_box_acc_v1(largest_hits: Counts, images: int | Counts) -> float | None:
    """Return MaxBoxAcc (Choe et al. 2020): the largest component at IoU 0.5, at the set's best threshold."""
    return percent(largest_hits[V1_LEVEL].max(), images)


def max_box_acc_v2(hits: Counts, images: int | Counts) -> float | None:
    """Return MaxBoxAccV2: the mean over δ 0.3, 0.5, 0.7 of the accuracy at each δ's own best threshold.

    the `wsol-eval` evaluator's takes the hits of any component; SAT's variant those of the largest.
    """
    return percent(hits[V2_LEVELS].max(axis=1).mean(), images)


def max_box_acc_v2_one_threshold(largest_hits: Counts, images: int | Counts) -> float | None:
    """Return what SAT's Table 3 prints: the mean over δ 0.3, 0.5, 0.7, at the one threshold where it is best."""
    return percent(largest_hits[V2_LEVELS].mean(axis=0).max(), images)


def pixel_iou(pixels: Counts) -> NDArray[np.float64]:
    """Return the IoU of all object pixels with those of at least each bin's left edge.

    Args:
        pixels: [2, bins] background and object pixels by map value, of one image or a set.

    Returns:
        [bins] float64 in [0, 1], 0 where there is no object.
    """
    background, found = _found(pixels)
    union = background + pixels[1].sum()
    return np.where(union > 0, found / np.maximum(union, 1), 0.0)


def piou(pixels: Counts) -> float | None:
    """Return pIoU: the best ``pixel_iou`` over the map thresholds, in percent; None without object pixels."""
    return 100.0 * float(pixel_iou(pixels).max()) if pixels[1].any() else None


def pxap(pixels: Counts) -> float | None:
    """Return PxAP (Choe et al. 2020): the area under the pixel precision-recall curve, in percent.

    As in the `wsol-eval` evaluator: the sum over bins, from the highest down, of precision times the step in recall.

    Args:
        pixels: [2, bins] background and object pixels by map value.
    """
    if not pixels[1].any():
        return None
    background, found = (counts[::-1] for counts in _found(pixels))
    precision = found / np.maximum(found + background, 1)
    recall = found / found[-1]
    return 100.0 * float((precision * np.diff(recall, prepend=0.0)).sum())


def _found(pixels: Counts) -> tuple[Counts, Counts]:
    """Return for each bin the background and the object pixels from its left edge on: two of [bins]."""
    background, found = np.cumsum(pixels[:, ::-1], axis=1)[:, ::-1]
    return background, found
