"""What a box that ignores the image scores: the floor under every localization result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokenloc.boxes import Frame, Protocol, best_iou, compared_boxes, possible_boxes, truth_boxes
from tokenloc.metrics.totals import IOU_LEVELS


def constant_box_accuracy(
    truths: Iterable[tuple[ArrayLike, Frame]], protocol: Protocol, share: float = 0.7
) -> dict[float, float] | None:
    """Return the accuracy of one and the same box, centred in the network's input, under ``protocol``.

    Args:
        truths: For each image its ground-truth boxes [G, 4] xyxy in original pixels, and its frame.
        protocol: Says where and how boxes are compared.
        share: Width and height of the box over those of the network's input; 1 for all that the network sees.

    Returns:
        For each IoU level δ the share of images with IoU ≥ δ, in percent; None where no image has a box.

    Raises:
        ValueError: where ``share`` is not in (0, 1].

    >>> from tokenloc.boxes import get_protocol
    >>> frame = Frame.resized((100, 80), (224, 224))
    >>> constant_box_accuracy([([[0, 0, 100, 60]], frame)], get_protocol("standard"), share=1)
    {0.3: 100.0, 0.5: 100.0, 0.7: 100.0, 0.8: 0.0, 0.9: 0.0}
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1] of the network's input, got {share!r}")
    found = [constant_box_iou(boxes, frame, protocol, share) for boxes, frame in truths]
    return level_accuracies([iou for iou in found if iou is not None])


def level_accuracies(ious: Sequence[float]) -> dict[float, float] | None:
    """Return for each IoU level δ the share of ``ious`` that are at least δ, in percent; None where there is none."""
    if not ious:
        return None
    return {level: 100.0 * float(np.mean(np.array(ious) >= level)) for level in IOU_LEVELS}


def center_box(frame: Frame, share: float) -> NDArray[np.float64]:
    """Return the centred box [4] xyxy in input pixels whose sides are ``share`` of the network's input."""
    width, height = frame.input_size
    low, high = (1 - share) / 2, (1 + share) / 2
    return np.array([low * width, low * height, high * width, high * height])


def constant_box_iou(boxes: ArrayLike, frame: Frame, protocol: Protocol, share: float) -> float | None:
    """Return the IoU of one image's ``center_box``, None where no ground-truth box of ``boxes`` [G, 4] can be."""
    possible = possible_boxes(boxes, frame)
    if not len(possible):
        return None
    truth = truth_boxes(possible, frame, protocol)
    constant = compared_boxes([center_box(frame, share)], frame, protocol)
    return float(best_iou(constant, truth, protocol)[0])
