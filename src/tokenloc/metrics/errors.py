"""Categories of localization errors: Algorithm 1 of TS-CAM."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokenloc.boxes.frame import checked_boxes
from tokenloc.boxes.iou import box_areas, box_iou, intersection_areas
from tokenloc.boxes.protocols import ErrorForm

ERROR_CATEGORIES = ("correct", "classification", "multi_instance", "part", "more", "other")
"""``correct``, followed by the paper's Cls, M-Ins, Part, More and OT."""


def error_categories(
    boxes: ArrayLike,
    truth: ArrayLike,
    predicted: int,
    label: int,
    inclusive: bool = True,
    strict: bool = True,
    form: ErrorForm = "released",
) -> NDArray[np.int64]:
    """Return the error category of each predicted box of one image (TS-CAM, appendix A.1).

    IoG and IoP are the intersection divided by the area of the ground-truth and of the predicted box. The first that
    applies: ``classification`` if the class is wrong, ``correct`` if IoU > 0.5, ``multi_instance`` if at least two
    ground-truth boxes have IoG > 0.3, ``part`` if IoP > 0.5, ``more`` if IoG ≥ 0.7, ``other``.

    These are the rules of the released code. Algorithm 1 as ``printed`` takes the highest IoP and IoG of all
    ground-truth boxes, not those of the box with the highest IoU; its hit is IoU ≥ 0.5; ``more`` needs IoG > 0.7.

    Args:
        boxes: [N, 4] xyxy.
        truth: [G, 4] in the same frame, G ≥ 1.
        predicted: index of the predicted class.
        label: index of the true class.
        inclusive: areas include the last row and column (+1), as in the release.
        strict: a hit needs IoU > 0.5, as in the release; False: IoU ≥ 0.5, as always in the printed form.
        form: ``released`` or ``printed``.

    Returns:
        [N] int64, indices into ``ERROR_CATEGORIES``.

    Raises:
        ValueError: if there is no ground-truth box, or boxes are not [N, 4].

    >>> ERROR_CATEGORIES[error_categories([[0, 0, 4, 4]], [[0, 0, 9, 9]], predicted=1, label=1)[0]]
    'part'
    """
    boxes, truth = checked_boxes(boxes), checked_boxes(truth)
    if not len(truth):
        raise ValueError("error categories need at least one ground-truth box, got none")
    iou = box_iou(boxes, truth, inclusive)
    intersection = intersection_areas(boxes, truth, inclusive)
    areas = box_areas(truth, inclusive)[None], box_areas(boxes, inclusive)[:, None]
    iog, iop = (intersection / np.where(area > 0, area, 1.0) for area in areas)
    rows, best = np.arange(len(boxes)), iou.argmax(axis=1)
    printed = form == "printed"
    best_iop, best_iog = (each.max(axis=1) if printed else each[rows, best] for each in (iop, iog))
    conditions = {
        "classification": np.full(len(boxes), predicted != label),
        "correct": iou.max(axis=1) > 0.5 if strict and not printed else iou.max(axis=1) >= 0.5,
        "multi_instance": (iog > 0.3).sum(axis=1) > 1,
        "part": best_iop > 0.5,
        "more": best_iog > 0.7 if printed else best_iog >= 0.7,
    }
    codes = [np.int64(ERROR_CATEGORIES.index(name)) for name in conditions]
    return np.select(list(conditions.values()), codes, np.int64(ERROR_CATEGORIES.index("other")))
