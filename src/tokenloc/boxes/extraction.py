"""Boxes out of prepared maps: threshold, components, boxes, under a protocol.

Boxes are int64 xyxy in the pixels of the prepared map, their ends as the protocol has them. Where nothing exceeds
the threshold the protocol's empty box stands in, alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokenloc.boxes.maps import PreparedMap
from tokenloc.boxes.protocols import Protocol


@dataclass(frozen=True)
class BoxScan:
    """The boxes of one map at many thresholds; thresholds that give the same foreground share an entry.

    Args:
        boxes: For each distinct foreground [K, 4] int64 xyxy, the largest component first; at least one box.
        entry: [T] int64: the entry of ``boxes`` for each threshold.
    """

    boxes: list[NDArray[np.int64]]
    entry: NDArray[np.int64]

    def largest(self) -> NDArray[np.int64]:
        """Return the box of the largest component at each threshold, [T, 4] int64."""
        return np.stack([boxes[0] for boxes in self.boxes])[self.entry]


def scan_boxes(prepared: PreparedMap, thresholds: ArrayLike, protocol: Protocol) -> BoxScan:
    """Return the boxes of every component at every threshold.

    Args:
        prepared: [H, W] from ``prepare_map`` under the same protocol.
        thresholds: [T] in [0, 1], in any order.
        protocol: Says what exceeds a threshold, what a component is, and how its box is written.

    Raises:
        ValueError: where ``prepared`` is not as the protocol prepares maps.
    """
    levels = _levels(prepared, thresholds, protocol)
    # Level sets are nested: as many pixels above means the very same pixels above.
    above = prepared.size - np.searchsorted(np.sort(prepared, axis=None), levels, side="right")
    _, first, entry = np.unique(above, return_index=True, return_inverse=True)
    boxes = [_component_boxes(_foreground(prepared, level), protocol) for level in levels[first]]
    return BoxScan(boxes, entry.astype(np.int64).reshape(-1))


def largest_boxes(prepared: PreparedMap, thresholds: ArrayLike, protocol: Protocol) -> NDArray[np.int64]:
    """Return the box of the largest component at each of ``thresholds`` [T]: [T, 4] int64; see :func:`scan_boxes`.

    >>> from tokenloc.boxes import get_protocol
    >>> prepared = np.zeros((4, 5), dtype=np.float32)
    >>> prepared[1:3, 1:4] = [[0.5, 0.9, 0.5], [0.5, 0.9, 0.5]]
    >>> largest_boxes(prepared, [0.2, 0.7, 0.95], get_protocol("standard")).tolist()
    [[1, 1, 4, 3], [2, 1, 3, 3], [0, 0, 0, 0]]
    """
    return scan_boxes(prepared, thresholds, protocol).largest()


def all_boxes(prepared: PreparedMap, threshold: float, protocol: Protocol) -> NDArray[np.int64]:
    """Return the boxes of all components at one threshold, largest first: [K, 4] int64, K ≥ 1; see ``scan_boxes``."""
    return scan_boxes(prepared, [threshold], protocol).boxes[0]


def component_masks(prepared: PreparedMap, threshold: float, protocol: Protocol) -> NDArray[np.bool_]:
    """Return the pixels of each component at one threshold, in the order of :func:`all_boxes`.

    Returns:
        [K, H, W] bool. Where nothing exceeds the threshold: one mask, all False. The contour of a hole counts as a
        component where the protocol takes contours; its mask is that of the component around it.
    """
    foreground = _foreground(prepared, _levels(prepared, [threshold], protocol)[0])
    _, seeds = _components(foreground, protocol)
    if not seeds:
        return np.zeros((1, *prepared.shape), dtype=np.bool_)
    labels = cv2.connectedComponents(foreground, connectivity=8)[1]
    return np.stack([labels == labels[y, x] for x, y in seeds])


def largest_component(
    prepared: PreparedMap, threshold: float, protocol: Protocol
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return box [4] int64 and mask [H, W] bool of the largest component; an empty map's mask is all False."""
    return all_boxes(prepared, threshold, protocol)[0], component_masks(prepared, threshold, protocol)[0]


def _levels(prepared: PreparedMap, thresholds: ArrayLike, protocol: Protocol) -> PreparedMap:
    """Return the levels [T], of the map's own dtype, that a pixel must exceed."""
    expected = np.dtype(np.uint8 if protocol.quantised else np.float32)
    if prepared.ndim != 2 or prepared.size == 0 or prepared.dtype != expected:
        raise ValueError(
            f"protocol {protocol.name!r} takes boxes from {expected} maps [height, width], got {prepared.dtype} of "
            f"shape {prepared.shape}; make it by prepare_map under the same protocol"
        )
    full = 255 if protocol.quantised else 1.0
    peak = float(prepared.max()) if protocol.threshold_of == "maximum" else full
    return (np.asarray(thresholds, dtype=np.float64).reshape(-1) * peak).astype(expected)


def _foreground(prepared: PreparedMap, level: np.generic) -> NDArray[np.uint8]:
    return np.asarray(prepared > level, dtype=np.uint8)


def _component_boxes(foreground: NDArray[np.uint8], protocol: Protocol) -> NDArray[np.int64]:
    """Return the boxes [K, 4] of a foreground's components, largest first, or the protocol's empty box."""
    height, width = foreground.shape
    corners, _ = _components(foreground, protocol)
    if not len(corners):
        return np.array([protocol.empty_box or (0, 0, width, height)], dtype=np.int64)
    if protocol.box_end == "inside":
        corners[:, 2:] = np.minimum(corners[:, 2:], [width - 1, height - 1])
    return corners


def _components(
    foreground: NDArray[np.uint8], protocol: Protocol
) -> tuple[NDArray[np.int64], Sequence[tuple[int, int]]]:
    """Return the exclusive boxes [K, 4] of the components, largest first, and a pixel (x, y) of each."""
    find = _contours if protocol.components == "contours" else _pixel_components
    corners, seeds, order = find(foreground)
    boxes = np.array(corners, dtype=np.int64).reshape(-1, 4)[order]
    boxes[:, 2:] += boxes[:, :2]
    return boxes, [seeds[index] for index in order]


_Found = tuple[Sequence[Sequence[int]], list[tuple[int, int]], NDArray[np.intp]]
"""x, y, width and height of each component, a pixel (x, y) of each, and their order, largest first."""


def _contours(foreground: NDArray[np.uint8]) -> _Found:
    contours = cv2.findContours(foreground, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[-2]
    sizes = np.array([cv2.contourArea(contour) for contour in contours])
    seeds = [(int(contour[0, 0, 0]), int(contour[0, 0, 1])) for contour in contours]
    return [cv2.boundingRect(contour) for contour in contours], seeds, np.argsort(-sizes, kind="stable")


def _pixel_components(foreground: NDArray[np.uint8]) -> _Found:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(foreground, connectivity=8)
    stats = stats[1:]  # 0 is the background
    seeds = [
        (left + int(np.argmax(labels[top, left : left + width] == label)), top)
        for label, (left, top, width) in enumerate(stats[:, :3].tolist(), start=1)
    ]
    # Reading order of the first pixels settles ties; OpenCV numbers components in an order of its own.
    x, y = np.array(seeds, dtype=np.intp).reshape(-1, 2).T
    return stats[:, :4].tolist(), seeds, np.lexsort((x, y, -stats[:, 4]))
