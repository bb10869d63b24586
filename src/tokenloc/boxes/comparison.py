"""Comparison of predicted boxes with ground truth, in the frame that a protocol defines."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokenloc.boxes.frame import Frame, checked_boxes
from tokenloc.boxes.iou import box_faults, box_iou
from tokenloc.boxes.protocols import Protocol


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

    Truncation is towards zero, like Python's int(); whole numbers survive the rounding errors of the scaling.
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
    """Return predicted boxes [N, 4], given in input pixels, in the frame where ``protocol`` compares them."""
    return frame.to_original(boxes) if protocol.truth_frame == "original" else checked_boxes(boxes)


def best_iou(boxes: ArrayLike, truth: ArrayLike, protocol: Protocol) -> NDArray[np.float64]:
    """Return the IoU of each box with the best-matching ground-truth box.

    Args:
        boxes: [N, 4] from ``compared_boxes``.
        truth: [G, 4] from ``truth_boxes``.
        protocol: defines whether the IoU includes the last row and column.

    Returns:
        [N] float64 in [0, 1]; 0 without ground truth.
    """
    return np.asarray(box_iou(boxes, truth, protocol.inclusive_iou).max(axis=1, initial=0.0))
