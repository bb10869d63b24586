"""From a map that is there already to boxes, at any threshold: the network is not asked again."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenloc.boxes import Frame, Protocol, box_confidence, component_masks, get_protocol, quantised_map
from tokenloc.boxes.protocols import checked_threshold
from tokenloc.inference.localization import Localization


class Components(NamedTuple):
    """What a threshold draws from a map.

    Attributes:
        boxes: [N, 4] float64 xyxy, original pixels, half-open, the largest component's first.
        confidence: [N] float64 in [0, 1], see ``box_confidence``.
        mask: [h, w] bool, the components that the boxes are of, on the input pixels.
    """

    boxes: NDArray[np.float64]
    confidence: NDArray[np.float64]
    mask: NDArray[np.bool_]


def components_above(
    scaled: NDArray[np.float32], score: float, frame: Frame, protocol: Protocol, threshold: float, count: int | None
) -> Components:
    """Return the boxes of a map's components above a threshold.

    Args:
        scaled: [h, w] float32 in [0, 1] on the input pixels.
        score: probability of the map's class.
        frame: how the input pixels lie on the image.
        protocol: says what exceeds a threshold, and what a component is.
        threshold: in [0, 1].
        count: how many components, the largest first; None for all.
    """
    prepared = quantised_map(scaled) if protocol.quantised else scaled
    masks = component_masks(prepared, threshold, protocol)
    masks = masks[masks.any(axis=(1, 2))][:count]
    boxes = np.array([_box_of(mask) for mask in masks], dtype=np.float64).reshape(-1, 4)
    confidence = box_confidence(min(1.0, score), prepared, boxes, threshold, protocol)
    return Components(frame.to_original(boxes), confidence, np.asarray(masks.any(axis=0)))


def at_threshold(result: Localization, threshold: float, every_object: bool = False) -> Localization:
    """Return a localization as it would be with another threshold, from its map.

    Args:
        result: of a `Localizer`.
        threshold: on the map scaled to [0, 1].
        every_object: a box for each component above the threshold, rather than for the largest one.

    Raises:
        ValueError: a threshold outside of [0, 1].
    """
    protocol = get_protocol(result.protocol)
    count = None if every_object else 1
    drawn = components_above(result.map, result.score, result.frame, protocol, checked_threshold(threshold), count)
    return replace(result, **drawn._asdict(), threshold=threshold)


def _box_of(mask: NDArray[np.bool_]) -> list[int]:
    """Return the half-open box x0, y0, x1, y1 around the True pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
