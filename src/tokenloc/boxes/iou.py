"""Intersection over union, and the boxes that cannot be."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokenloc.boxes.frame import Size, checked_boxes, checked_size


def box_iou(a: ArrayLike, b: ArrayLike, inclusive: bool = False) -> NDArray[np.float64]:
    """Return the intersection over union of every box of ``a`` with every box of ``b``.

    Args:
        a: [N, 4] x0, y0, x1, y1, of any one frame.
        b: [M, 4] of the same frame.
        inclusive: Count the last column and row too (+1 on every side), as the released WSOL evaluators do; False
            takes boxes as half-open.

    Returns:
        [N, M] float64 in [0, 1]. Disjoint boxes give 0, and so do degenerate ones (no area, inverted, not finite).

    Raises:
        ValueError: where ``a`` or ``b`` is not [N, 4].

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
    """Return the areas [N] float64 of ``boxes`` [N, 4]; 0 where a box is inverted, empty or not finite."""
    boxes = checked_boxes(boxes)
    with np.errstate(over="ignore", invalid="ignore"):
        sides = boxes[:, 2:] - boxes[:, :2] + float(inclusive)
        measurable = np.isfinite(boxes).all(axis=1) & (sides > 0).all(axis=1)
        return np.where(measurable, sides.prod(axis=1), 0.0)


def intersection_areas(a: ArrayLike, b: ArrayLike, inclusive: bool = False) -> NDArray[np.float64]:
    """Return the areas [N, M] float64 that the boxes of ``a`` [N, 4] share with those of ``b`` [M, 4]; 0 if none."""
    a, b = checked_boxes(a), checked_boxes(b)
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = box_areas(np.concatenate([low, high], axis=-1).reshape(-1, 4), inclusive).reshape(len(a), len(b))
    measurable = (box_areas(a, inclusive) > 0)[:, None] & (box_areas(b, inclusive) > 0)
    return np.where(measurable, shared, 0.0)


def box_faults(boxes: ArrayLike, size: Size, margin: float = 1.0) -> list[str | None]:
    """Say of each ground-truth box what is wrong with it.

    Args:
        boxes: [N, 4] x0, y0, x1, y1, half-open, in original pixels.
        size: (width, height) of the image.
        margin: How far a box may reach beyond the image, in pixels (one, as annotators count edges in two ways).
            ``math.inf`` finds only the impossible: boxes that are not finite, empty, or have no part in the image.

    Returns:
        N entries: None for a good box, else the fault with the values, for people.

    >>> box_faults([[0, 0, 5, 5], [4, 0, 2, 5]], (10, 10))
    [None, 'inverted or empty: x0 4, y0 0, x1 2, y1 5']
    """
    width, height = checked_size(size)
    return [_fault(box, width, height, margin) for box in checked_boxes(boxes).tolist()]


def check_boxes(boxes: ArrayLike, size: Size, margin: float = 1.0) -> NDArray[np.float64]:
    """Return ``boxes`` as float64 [N, 4] where all are good (see ``box_faults``).

    Raises:
        ValueError: names every bad row (from 0), its fault and its values.
    """
    faults = [f"row {row}: {fault}" for row, fault in enumerate(box_faults(boxes, size, margin)) if fault]
    if faults:
        raise ValueError(
            f"{len(faults)} of {len(checked_boxes(boxes))} ground-truth boxes cannot be: {'; '.join(faults)}. "
            "Expected x0 < x1 and y0 < y1 in original pixels, inside the image; correct or remove them"
        )
    return checked_boxes(boxes)


def _fault(box: list[float], width: int, height: int, margin: float) -> str | None:
    x0, y0, x1, y1 = box
    values = f"x0 {x0:g}, y0 {y0:g}, x1 {x1:g}, y1 {y1:g}"
    if not np.isfinite(box).all():
        return f"not finite: {values}"
    if x1 <= x0 or y1 <= y0:
        return f"inverted or empty: {values}"
    without_part = x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0
    if without_part or min(x0, y0) < -margin or x1 > width + margin or y1 > height + margin:
        return f"outside the image of {width}x{height}: {values}"
    return None
