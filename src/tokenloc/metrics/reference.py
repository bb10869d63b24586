"""Boxes that ignore the image: the baseline of every localization result."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tokenloc.boxes import Frame, Protocol, best_iou, compared_boxes, truth_boxes

CONSTANT_BOXES = {"centre 70 % box": 0.7, "whole-image box": 1.0}
"""Boxes centred in the network input, by name; their sides as a fraction of the input's."""


def constant_box_iou(truth: NDArray[np.float64], frame: Frame, protocol: Protocol) -> NDArray[np.float64]:
    """Return the IoU of each of ``CONSTANT_BOXES`` with the ground truth [G, 4] of one image, in original pixels.

    Returns:
        [2] float64; [0] without ground truth.

    >>> from tokenloc.boxes import get_protocol
    >>> frame = Frame.resized((100, 80), (224, 224))
    >>> constant_box_iou(np.array([[0, 0, 100, 60]]), frame, get_protocol("standard")).round(2).tolist()
    [0.51, 0.75]
    """
    if not len(truth):
        return np.zeros(0)
    ends = [((1 - side) / 2, (1 + side) / 2) for side in CONSTANT_BOXES.values()]
    width, height = frame.input_size
    boxes = [[low * width, low * height, high * width, high * height] for low, high in ends]
    return best_iou(compared_boxes(boxes, frame, protocol), truth_boxes(truth, frame, protocol), protocol)
