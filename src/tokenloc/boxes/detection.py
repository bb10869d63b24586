"""From a scaled map to boxes in original pixels, with their confidence and mask."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenloc.boxes.confidence import box_confidence
from tokenloc.boxes.extraction import find_components
from tokenloc.boxes.frame import Frame
from tokenloc.boxes.maps import quantised_map
from tokenloc.boxes.protocols import Protocol


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
    scaled: NDArray[np.float32], score: float, frame: Frame, protocol: Protocol, threshold: float, count: int | None
) -> DetectedBoxes:
    """Return the boxes of the components of a map above a threshold.

    Args:
        scaled: [h, w] float32 in [0, 1], in input pixels.
        score: softmax probability of the class of the map.
        frame: between input and original pixels.
        protocol: defines what exceeds a threshold and what a component is.
        threshold: in [0, 1].
        count: the number of components, largest first; None for all.
    """
    prepared = quantised_map(scaled) if protocol.quantised else scaled
    components = find_components(prepared, threshold, protocol, count)
    confidence = box_confidence(score, prepared, components.boxes, threshold, protocol)
    return DetectedBoxes(frame.to_original(components.boxes), confidence, np.asarray(components.masks.any(axis=0)))
