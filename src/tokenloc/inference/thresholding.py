"""From a map that is there already to boxes, at any threshold: the network is not asked again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tokenloc.boxes import Frame, Protocol, component_masks, get_protocol, quantised_map
from tokenloc.boxes.protocols import checked_threshold
from tokenloc.inference.localization import Localization


def boxes_above(
    scaled: NDArray[np.float32], frame: Frame, protocol: Protocol, threshold: float, count: int | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the boxes of a map's components above a threshold, and where these components are.

    Args:
        scaled: [h, w] float32 in [0, 1] on the network's pixels.
        frame: how these lie on the picture.
        protocol: says what exceeds a threshold, and what a component is.
        threshold: in [0, 1].
        count: how many components, the largest first; None for all.

    Returns:
        boxes [N, 4] float64 xyxy, original pixels, half-open; and their components' mask [h, w].
    """
    prepared = quantised_map(scaled) if protocol.quantised else scaled
    masks = component_masks(prepared, threshold, protocol)
    masks = masks[masks.any(axis=(1, 2))][:count]
    boxes = np.array([_box_of(mask) for mask in masks], dtype=np.float64).reshape(-1, 4)
    return frame.to_original(boxes), np.asarray(masks.any(axis=0))


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
    boxes, mask = boxes_above(result.map, result.frame, protocol, checked_threshold(threshold), count)
    return replace(result, boxes=boxes, mask=mask, threshold=threshold)


def _box_of(mask: NDArray[np.bool_]) -> list[int]:
    """Return the half-open box x0, y0, x1, y1 around the True pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
