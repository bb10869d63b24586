"""Intersection over union, checks of ground-truth boxes, and their comparison with predicted boxes under a protocol."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokenloc.boxes.frame import Frame, Size, checked_boxes, checked_size
from tokenloc.boxes.protocols import Protocol


def box_iou(a: ArrayLike, b: ArrayLike, inclusive: bool = False) -> NDArray[np.float64]:
    """Return the pairwise intersection over union of two sets of boxes.

    Args:
        a: [N, 4] x0, y0, x1, y1, in any frame.
        b: [M, 4] in the same frame.
        inclusive: include the last column and row (+1 on each side), as the released WSOL evaluators do; False treats
            boxes as half-open.

    Returns:
        [N, M] float64 in [0, 1]. Disjoint and degenerate boxes (empty, inverted, not finite) give 0.

    Raises:
        ValueError: if ``a`` or ``b`` is not [N, 4].

    >>> box_iou([[0, 0, 2, 2]], [[1, 0, 3, 2], [5, 5, 9, 9]]).round(3).tolist()
    [[0.333, 0.0]]
    >>> box_iou([[0, 0, 1, 1]], [[1, 0, 2, 1]], inclusive=True).round(3).tolist()
    [[0.333]]
    """
    a, b = checked_boxes(a), checked_boxes(b)
    shared = intersection_areas(a, b, inclusive)
    with np.errstate(over="ignore", invalid="ignore"):
        union = box_areas(a, inclusive)[:, None] + box_areas(b, inclusive) - shared
    measurable = np.isfinite(union) & (union > 0)
    return np.where(measurable, np.minimum(shared / np.where(measurable, union, 1.0), 1.0), 0.0)


def box_areas(boxes: ArrayLike, inclusive: bool = False) -> NDArray[np.float64]:
    """Return the areas [N] float64 of ``boxes`` [N, 4]; 0 for inverted, empty or non-finite boxes."""
    boxes = checked_boxes(boxes)
    with np.errstate(over="ignore", invalid="ignore"):
        sides = boxes[:, 2:] - boxes[:, :2] + float(inclusive)
        measurable = np.isfinite(boxes).all(axis=1) & (sides > 0).all(axis=1)
        return np.where(measurable, sides.prod(axis=1), 0.0)


def intersection_areas(a: ArrayLike, b: ArrayLike, inclusive: bool = False) -> NDArray[np.float64]:
    """Return the pairwise intersection areas [N, M] float64 of the boxes ``a`` [N, 4] and ``b`` [M, 4]."""
    a, b = checked_boxes(a), checked_boxes(b)
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = box_areas(np.concatenate([low, high], axis=-1).reshape(-1, 4), inclusive).reshape(len(a), len(b))
    measurable = (box_areas(a, inclusive) > 0)[:, None] & (box_areas(b, inclusive) > 0)
    return np.where(measurable, shared, 0.0)


def box_faults(boxes: ArrayLike, size: Size, margin: float = 1.0) -> list[str | None]:
    """Describe what is wrong with each ground-truth box [N, 4], half-open, of an image of ``size`` (width, height).

    ``margin`` is how far a box may exceed the image, in pixels (1 by default, since annotators count edges in two
    ways). ``math.inf`` accepts all boxes that are finite, not empty and overlap the image. A valid box has no fault.

    >>> box_faults([[0, 0, 5, 5], [4, 0, 2, 5]], (10, 10))
    [None, 'inverted or empty: x0 4, y0 0, x1 2, y1 5']
    """
    width, height = checked_size(size)
    return [_fault(box, width, height, margin) for box in checked_boxes(boxes).tolist()]


def _fault(box: list[float], width: int, height: int, margin: float) -> str | None:
    x0, y0, x1, y1 = box
    values = f"x0 {x0:g}, y0 {y0:g}, x1 {x1:g}, y1 {y1:g}"
    if not np.isfinite(box).all():
        return f"not finite: {values}"
    if x1 <= x0 or y1 <= y0:
        return f"inverted or empty: {values}"
    disjoint = x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0
    if disjoint or min(x0, y0) < -margin or x1 > width + margin or y1 > height + margin:
        return f"outside the image of {width}x{height}: {values}"
    return None


def possible_boxes(boxes: ArrayLike, frame: Frame) -> NDArray[np.float64]:
    """Return the valid ones of the ground-truth boxes [G, 4] in original pixels: [G', 4] float64.

    Boxes that are not finite, inverted, empty or entirely outside the image are dropped, so that a few wrong
    annotations do not stop an evaluation. The metrics count them; `tokenloc info` lists them.
    """
    array = checked_boxes(boxes)
    faults = box_faults(array, frame.original_size, margin=math.inf)
    return array[[fault is None for fault in faults]]


def truth_boxes(boxes: ArrayLike, frame: Frame, protocol: Protocol) -> NDArray[np.float64]:
    """Return ground-truth boxes [G, 4], given in original pixels, as ``protocol`` compares them: [G, 4] float64.

    Truncation is towards zero, like Python's int(). Whole numbers survive the rounding errors of the scaling, except
    under ``truth_truncation="both"``, where they are those of the release, int(x / width * 224).
    """
    truth = checked_boxes(boxes)
    if protocol.truth_frame == "original":
        return truth
    if protocol.truth_truncation == "both":
        original, offset = (np.array([*pair, *pair]) for pair in (frame.original_size, frame.offset))
        resized = np.round(original * [*frame.scale, *frame.scale])
        truth = np.trunc(np.trunc(truth) / original * resized - offset)
    else:
        truth = frame.to_input(truth)
    if protocol.truth_truncation == "scaled":
        truth = np.trunc(np.round(truth, 9))
    if protocol.truth_clipping == "none":
        return truth
    last = np.tile(frame.input_size, 2) - (protocol.truth_clipping != "size")
    low, high = np.zeros(4), last.astype(np.float64)
    if protocol.truth_clipping == "outward":
        low[2:], high[:2] = -np.inf, np.inf
    return np.clip(truth, low, high)


def compared_boxes(boxes: ArrayLike, frame: Frame, protocol: Protocol) -> NDArray[np.float64]:
    """Return predicted boxes [N, 4], given in input pixels, in the frame where ``protocol`` compares them."""
    return frame.to_original(boxes) if protocol.truth_frame == "original" else checked_boxes(boxes)


def best_iou(boxes: ArrayLike, truth: ArrayLike, protocol: Protocol) -> NDArray[np.float64]:
    """Return the IoU of each box of ``compared_boxes`` with the best-matching one of ``truth_boxes``: [N] float64.

    It is in [0, 1]; 0 without ground truth.
    """
    return np.asarray(box_iou(boxes, truth, protocol.inclusive_iou).max(axis=1, initial=0.0))
