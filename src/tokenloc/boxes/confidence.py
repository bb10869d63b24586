"""Boxes of a map with their confidence: how likely a box is right, from its map and class score alone.

The confidence is the class probability times the probability that a box of this class is right, an IoU of at least 0.5
with the object. The latter is a logistic regression on four signals of the box and its map, fitted to boxes of several
methods and thresholds together. docs/box_confidence.md describes the signals, the alternatives, and the photographs of
the fit and of the evaluation.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from tokenloc.boxes.extraction import SMALLEST, BoxScan, find_components, find_objects, scan_boxes, with_protocol_ends
from tokenloc.boxes.frame import Frame, checked_boxes
from tokenloc.boxes.iou import box_areas, box_iou
from tokenloc.boxes.maps import PreparedMap, quantised_map
from tokenloc.boxes.protocols import Protocol, checked_threshold

OCTAVES = (-1.0, -0.75, -0.5, -0.25, 0.25, 0.5, 0.75, 1.0)
"""Nearby thresholds, as the log2 ratio of their odds to the odds of the threshold in use."""

INTERCEPT = -1.55
WEIGHTS = {"stability": 4.47, "separation": 3.06, "log_area": 1.72, "border": -0.96}
"""Of the log-odds that a box is right, fitted by experiments/confidence.py; see ``box_signals``."""

DIGITS = 4
"""Decimals of a confidence; further decimals would depend on the composition of the batch."""


def nearby_thresholds(threshold: float) -> NDArray[np.float64]:
    """Return 8 thresholds in [0, 1] around one, from half to twice its odds t / (1 - t).

    >>> nearby_thresholds(0.2).round(2).tolist()
    [0.11, 0.13, 0.15, 0.17, 0.23, 0.26, 0.3, 0.33]
    """
    threshold = checked_threshold(threshold)
    scaled = np.exp2(OCTAVES) * threshold
    return np.asarray(scaled / (scaled + (1 - threshold)))


def box_confidence(
    probability: float, prepared: PreparedMap, boxes: ArrayLike, threshold: float, protocol: Protocol
) -> NDArray[np.float64]:
    """Return the confidence of each box of a map: the class probability x the probability that the box is right.

    Args:
        probability: softmax probability of the class, in [0, 1].
        prepared: [H, W] from ``prepare_map``, the map of the boxes.
        boxes: [N, 4] xyxy in the pixels of the map.
        threshold: of the boxes, in [0, 1].
        protocol: of the boxes.

    Returns:
        [N] float64 in [0, 1], rounded to four decimals; 0 for an empty box.

    >>> from tokenloc.boxes import get_protocol
    >>> step = np.zeros((6, 6), dtype=np.float32)
    >>> step[1:4, 2:5] = 1
    >>> box_confidence(0.9, step, [[2, 1, 5, 4], [0, 0, 0, 0]], 0.2, get_protocol("standard")).round(2).tolist()
    [0.88, 0.0]
    """
    signals = box_signals(prepared, boxes, threshold, protocol)
    right = expit(INTERCEPT + sum(WEIGHTS[name] * values for name, values in signals.items()))
    return np.asarray(np.round(probability * right, DIGITS))


def box_signals(
    prepared: PreparedMap, boxes: ArrayLike, threshold: float, protocol: Protocol
) -> dict[str, NDArray[np.float64]]:
    """Return what the regression uses of each box by name, [N] float64; see ``box_confidence``.

    ``stability`` and ``separation`` are in [0, 1]; ``log_area`` is of the fraction of the image, -inf for an empty box;
    ``border`` is the number of sides of the image that the box touches.
    """
    scan = scan_boxes(prepared, [threshold, *nearby_thresholds(threshold)], protocol)
    with_ends = with_protocol_ends(checked_boxes(boxes), prepared.shape, protocol)
    separation = map_separation(prepared, scan.ranks > scan.entry[0])
    height, width = prepared.shape
    whole = with_protocol_ends(np.array([[0, 0, width, height]], dtype=np.float64), prepared.shape, protocol)
    with np.errstate(divide="ignore"):
        log_area = np.log(box_areas(with_ends) / prepared.size)
    return {
        "stability": box_stability(scan, with_ends),
        "separation": np.full(len(with_ends), separation),
        "log_area": log_area,
        "border": (with_ends == whole).sum(axis=1).astype(np.float64),
    }


def evident_confidence(confidence: ArrayLike, probability: float, inside: float) -> NDArray[np.float64]:
    """Return the ``confidence`` [N] of boxes of one class, lower if the model does not recognise it in the boxes.

    ``probability`` is that of the class in the image, ``inside`` that with everything but the boxes blurred, in [0, 1];
    the lower one of the two is the factor of the confidence.

    >>> evident_confidence([0.5, 0.25], probability=0.8, inside=0.4).tolist()
    [0.25, 0.125]
    """
    factor = min(1.0, inside / probability) if probability > 0 else 0.0
    return np.asarray(np.round(np.asarray(confidence, dtype=np.float64) * factor, DIGITS))


def box_stability(scan: BoxScan, boxes: ArrayLike) -> NDArray[np.float64]:
    """Return the mean IoU of each box with its best match among all components at each nearby threshold, [N] float64.

    ``scan`` is of the threshold in use followed by ``nearby_thresholds``; ``boxes`` [N, 4] are in pixels of the map.
    """
    overlaps = box_iou(scan.nodes.boxes, boxes)
    return np.array([scan.greatest(column)[1:].mean() for column in overlaps.T], dtype=np.float64)


def map_separation(map_: PreparedMap, foreground: NDArray[np.bool_]) -> float:
    """Return the fraction of a map's variance that lies between foreground and background.

    This is the criterion eta of Otsu, "A threshold selection method from gray-level histograms" (1979), for the
    threshold in use: 1 if the map equals the foreground mask, 0 if the map is constant, or all or no pixels are
    foreground.
    """
    fraction = float(foreground.mean())
    variance = float(map_.var(dtype=np.float64))
    if variance == 0 or fraction in (0.0, 1.0):
        return 0.0
    difference = float(map_[foreground].mean(dtype=np.float64) - map_[~foreground].mean(dtype=np.float64))
    return min(1.0, fraction * (1 - fraction) * difference**2 / variance)


class DetectedBoxes(NamedTuple):
    """The boxes of a map at one threshold.

    Attributes:
        boxes: [N, 4] float64 xyxy, original pixels, half-open, the largest component first.
        confidence: [N] float64 in [0, 1], see ``box_confidence``.
        mask: [h, w] bool, the components of the boxes, in input pixels.
    """

    boxes: NDArray[np.float64]
    confidence: NDArray[np.float64]
    mask: NDArray[np.bool_]


def detect_boxes(
    scaled: NDArray[np.float32],
    score: float,
    frame: Frame,
    protocol: Protocol,
    threshold: float,
    count: int | None,
    smallest: float = SMALLEST,
) -> DetectedBoxes:
    """Return the boxes of the components of a map above a threshold.

    Args:
        scaled: [h, w] float32 in [0, 1], in input pixels.
        score: softmax probability of the class of the map.
        frame: between input and original pixels.
        protocol: defines what exceeds a threshold and what a component is.
        threshold: in [0, 1].
        count: the number of components, largest first; None for all objects, see ``find_objects``.
        smallest: of these, the smallest area, as a fraction of the map.
    """
    prepared = quantised_map(scaled) if protocol.quantised else scaled
    if count is None:
        components = find_objects(prepared, threshold, protocol, smallest)
    else:
        components = find_components(prepared, threshold, protocol, count)
    confidence = box_confidence(score, prepared, components.boxes, threshold, protocol)
    return DetectedBoxes(frame.to_original(components.boxes), confidence, np.asarray(components.masks.any(axis=0)))
