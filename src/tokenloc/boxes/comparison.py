"""Where a protocol compares boxes: ground truth and predictions brought into one frame, and their IoU."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokenloc.boxes.frame import Frame, checked_boxes
from tokenloc.boxes.iou import box_faults, box_iou
from tokenloc.boxes.protocols import Protocol


def possible_boxes(boxes: ArrayLike, frame: Frame) -> NDArray[np.float64]:
    """Return those of the ground-truth boxes [G, 4] (original pixels) that can be: [G', 4] float64.

    Left out are boxes that are not finite, inverted, empty, or without any part in the image: a handful of wrong
    annotations must not end an evaluation. The metrics count them; ``check_boxes`` names them.
    """
    array = checked_boxes(boxes)
    faults = box_faults(array, frame.original_size, margin=math.inf)
    return array[[fault is None for fault in faults]]


def truth_boxes(boxes: ArrayLike, frame: Frame, protocol: Protocol) -> NDArray[np.float64]:
    """Return ground-truth boxes [G, 4] (original pixels) where and as ``protocol`` compares them: [G, 4] float64.

    Truncation is towards zero, as python's int(); a coordinate that is a whole number stays one whatever the rounding
    of the scaling's float64 product.
    """
    truth = checked_boxes(boxes)
    if protocol.truth_frame == "original":
        return truth
    if protocol.truth_truncation == "both":
        truth = np.trunc(truth)
    truth = frame.to_input(truth)
    if protocol.truth_truncation != "none":
        truth = np.trunc(np.round(truth, 9))
    if protocol.truth_clipped:
        width, height = frame.input_size
        truth = np.clip(truth, 0, [width - 1, height - 1, width - 1, height - 1])
    return truth


def compared_boxes(boxes: ArrayLike, frame: Frame, protocol: Protocol) -> NDArray[np.float64]:
    """Return predicted boxes [N, 4] (input pixels) where ``protocol`` compares them: [N, 4] float64."""
    return frame.to_original(boxes) if protocol.truth_frame == "original" else checked_boxes(boxes)


def best_iou(boxes: ArrayLike, truth: ArrayLike, protocol: Protocol) -> NDArray[np.float64]:
    """Return each box's IoU with the ground-truth box that it meets best.

    Args:
        boxes: [N, 4] from ``compared_boxes``.
        truth: [G, 4] from ``truth_boxes``.
        protocol: Says if the IoU counts the last row and column.

    Returns:
        [N] float64 in [0, 1]; 0 where there is no ground truth.
    """
    return np.asarray(box_iou(boxes, truth, protocol.inclusive_iou).max(axis=1, initial=0.0))
