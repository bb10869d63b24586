"""Metrics as pure functions of counts, in percent.

Hits are int64 counts of images, [D, T] at the IoU levels δ of ``IOU_LEVELS`` and T map thresholds. A metric without
anything to divide by is None.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]

IOU_LEVELS = (0.3, 0.5, 0.7, 0.8, 0.9)
"""The IoU levels δ of GT(δ); MaxBoxAcc V2 averages the first three."""

V1_LEVEL = IOU_LEVELS.index(0.5)
"""The row of hits for GT-known, MaxBoxAcc V1 and the best threshold."""

V2_LEVELS = [IOU_LEVELS.index(level) for level in (0.3, 0.5, 0.7)]
"""The rows of hits that MaxBoxAcc V2 averages."""


def percent(part: float | Counts, whole: int) -> float | None:
    """Return ``part`` of ``whole`` in percent; None if ``whole`` is 0."""
    return 100.0 * float(part) / float(whole) if whole else None


def best_threshold(largest_hits: Counts) -> int:
    """Return the index of the map threshold with most hits at IoU 0.5, the lowest of equals; hits are [D, T]."""
    return int(largest_hits[V1_LEVEL].argmax())


def max_box_acc_v1(largest_hits: Counts, images: int) -> float | None:
    """Return MaxBoxAcc (Choe et al. 2020): the largest component at IoU 0.5, at the best threshold of the set."""
    return percent(largest_hits[V1_LEVEL].max(), images)


def max_box_acc_v2(hits: Counts, images: int) -> float | None:
    """Return MaxBoxAccV2: the mean over δ = 0.3, 0.5, 0.7 of the accuracy at the best threshold of each δ.

    The `wsol-eval` evaluator counts hits of any component, SAT those of the largest.
    """
    return percent(hits[V2_LEVELS].max(axis=1).mean(), images)


def max_box_acc_v2_one_threshold(largest_hits: Counts, images: int) -> float | None:
    """Return the metric of SAT's Table 3: the mean over δ = 0.3, 0.5, 0.7, at the one threshold where it is best."""
    return percent(largest_hits[V2_LEVELS].mean(axis=0).max(), images)


def pixel_iou(pixels: Counts) -> NDArray[np.float64]:
    """Return the IoU of object pixels and pixels above each threshold (the left edge of each bin).

    Args:
        pixels: [2, bins] background and object pixels by map value, of one image or a set.

    Returns:
        [bins] float64 in [0, 1], 0 without an object.
    """
    background, hits = _above(pixels)
    union = background + pixels[1].sum()
    return np.where(union > 0, hits / np.maximum(union, 1), 0.0)


def piou(pixels: Counts) -> float | None:
    """Return pIoU: the best ``pixel_iou`` over the thresholds, in percent; None without object pixels."""
    return 100.0 * float(pixel_iou(pixels).max()) if pixels[1].any() else None


def pxap(pixels: Counts) -> float | None:
    """Return PxAP (Choe et al. 2020): the area under the pixel precision-recall curve, in percent.

    As in the `wsol-eval` evaluator: the sum over bins, from the highest down, of precision times the step in recall.
    ``pixels`` as in ``pixel_iou``; None without object pixels.
    """
    if not pixels[1].any():
        return None
    background, hits = (counts[::-1] for counts in _above(pixels))
    precision = hits / np.maximum(hits + background, 1)
    recall = hits / hits[-1]
    return 100.0 * float((precision * np.diff(recall, prepend=0.0)).sum())


def _above(pixels: Counts) -> tuple[Counts, Counts]:
    """Return the background and the object pixels from the left edge of each bin on, two of [bins]."""
    background, hits = np.cumsum(pixels[:, ::-1], axis=1)[:, ::-1]
    return background, hits
