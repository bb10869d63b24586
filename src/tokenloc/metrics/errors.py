"""Why a localization fails: the exclusive categories of TS-CAM's Algorithm 1."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokenloc.boxes.frame import checked_boxes
from tokenloc.boxes.iou import box_areas, box_iou, intersection_areas

ERROR_CATEGORIES = ("correct", "classification", "multi_instance", "part", "more", "other")
"""The paper's Cls, M-Ins, Part, More and OT, and before them the images without an error."""


def error_category(
    box: ArrayLike,
    truth: ArrayLike,
    predicted: int,
    label: int,
    inclusive: bool = True,
    strict: bool = True,
) -> str:
    """Return the name of one predicted box's category; see ``error_categories``.

    >>> error_category([0, 0, 4, 4], [[0, 0, 9, 9]], predicted=1, label=1)
    'part'
    """
    codes = error_categories(np.asarray(box)[None], truth, predicted, label, inclusive, strict)
    return ERROR_CATEGORIES[codes[0]]


def error_categories(
    boxes: ArrayLike,
    truth: ArrayLike,
    predicted: int,
    label: int,
    inclusive: bool = True,
    strict: bool = True,
) -> NDArray[np.int64]:
    """Return the categories of predicted boxes of one image, by TS-CAM's Algorithm 1 (appendix A.1).

    With IoG and IoP the intersection over the ground-truth and over the predicted box, in this order:
    ``classification`` where the class is wrong, ``correct`` by IoU 0.5, ``multi_instance`` where two ground-truth
    boxes or more have IoG > 0.3, ``part`` where IoP > 0.5, ``more`` where IoG > 0.7, ``other``.

    The paper takes the greatest IoP and IoG of all ground-truth boxes, and IoU < 0.5 for an error; we follow the
    released code, which takes them of the box with the greatest IoU, and IoU > 0.5 for a hit.

    Args:
        boxes: [N, 4] xyxy.
        truth: [G, 4] of the same frame, at least one.
        predicted: The predicted class.
        label: The true class.
        inclusive: Areas count the last row and column (+1), as in the release.
        strict: A hit needs IoU > 0.5, as in the release; False: IoU ≥ 0.5.

    Returns:
        [N] int64, indices into ``ERROR_CATEGORIES``.

    Raises:
        ValueError: where there is no ground-truth box, or boxes are not [N, 4].
    """
    boxes, truth = checked_boxes(boxes), checked_boxes(truth)
    if not len(truth):
        raise ValueError("error categories need at least one ground-truth box, got none")
    iou = box_iou(boxes, truth, inclusive)
    shared = intersection_areas(boxes, truth, inclusive)
    over_truth = _ratio(shared, box_areas(truth, inclusive)[None])
    over_predicted = _ratio(shared, box_areas(boxes, inclusive)[:, None])
    rows, nearest = np.arange(len(boxes)), iou.argmax(axis=1)
    hit = iou.max(axis=1) > 0.5 if strict else iou.max(axis=1) >= 0.5
    conditions = [
        np.full(len(boxes), predicted != label),
        hit,
        (over_truth > 0.3).sum(axis=1) > 1,
        over_predicted[rows, nearest] > 0.5,
        over_truth[rows, nearest] > 0.7,
    ]
    names = ("classification", "correct", "multi_instance", "part", "more")
    codes = [np.int64(ERROR_CATEGORIES.index(name)) for name in names]
    return np.select(conditions, codes, np.int64(ERROR_CATEGORIES.index("other")))


def _ratio(shared: NDArray[np.float64], area: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(area > 0, shared / np.where(area > 0, area, 1.0), 0.0)
