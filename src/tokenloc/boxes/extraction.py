"""From prepared maps to components and boxes, under a protocol.

Boxes are int64 xyxy in the pixels of the prepared map. If nothing exceeds the threshold, a scan has the protocol's
empty box.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokenloc.boxes._sweep import HIGH, LOW, fill_holes, greatest, hole_outlines, rank_pixels, sweep
from tokenloc.boxes.maps import PreparedMap
from tokenloc.boxes.protocols import Protocol

Number = TypeVar("Number", np.int64, np.float64)
SMALLEST = 0.02  # fraction of the map, the smallest area of an object among several
FRAGMENT = 0.5  # fraction of a component's box in that of a larger one, from which on both are one object


class Components(NamedTuple):
    """The components of a map above one threshold.

    ``boxes`` are [K, 4] int64 xyxy in the pixels of the map, with exclusive ends; ``masks`` are [K, H, W] bool.
    """

    boxes: NDArray[np.int64]
    masks: NDArray[np.bool_]


def find_components(
    prepared: PreparedMap, threshold: float, protocol: Protocol, count: int | None = None
) -> Components:
    """Return the components above one threshold, largest first.

    Args:
        prepared: [H, W] from ``prepare_map`` under the same protocol.
        threshold: in [0, 1].
        protocol: defines what exceeds a threshold and what a component is.
        count: return at most this many components; None for all.

    Returns:
        If the protocol takes contours, the contour of a hole counts as a component; its mask is that of the component
        around it.
    """
    level = _levels(prepared, [threshold], protocol)[0]
    foreground = np.asarray(prepared > level, dtype=np.uint8)
    _, *arrays, _ = cv2.connectedComponentsWithStats(foreground, connectivity=8)
    labels, stats = (np.asarray(array, dtype=np.int32) for array in arrays)
    if protocol.components == "contours":
        contours = cv2.findContours(foreground, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[-2]
        contours = sorted(contours, key=cv2.contourArea, reverse=True)[:count]
        corners = np.array([cv2.boundingRect(contour) for contour in contours], dtype=np.int64)
        indices = [labels[tuple(contour[0, 0, ::-1])] for contour in contours]
    else:
        indices = _labels_by_size(labels, stats)[:count]
        corners = stats[indices, :4].astype(np.int64)
    boxes = corners.reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    masks = np.array([labels == index for index in indices], dtype=np.bool_)
    return Components(boxes, masks.reshape(-1, *foreground.shape))


def find_objects(prepared: PreparedMap, threshold: float, protocol: Protocol, smallest: float = SMALLEST) -> Components:
    """Return the objects above one threshold, the largest component first: components without specks and fragments.

    A component with a smaller area than the fraction ``smallest`` of the map is left out, unless it is the largest. One
    whose box lies at least half in that of a larger component is a fragment of the same object. The other arguments
    are those of ``find_components``.
    """
    components = find_components(prepared, threshold, protocol)
    boxes: list[NDArray[np.int64]] = []
    masks: list[NDArray[np.bool_]] = []
    for box, mask in zip(*components, strict=True):
        if masks and mask.mean() < smallest:
            continue
        whole = next((rank for rank, larger in enumerate(boxes) if _fraction_inside(box, larger) >= FRAGMENT), None)
        if whole is None:
            boxes.append(box)
            masks.append(mask)
        else:
            boxes[whole] = np.concatenate([np.minimum(box, boxes[whole])[:2], np.maximum(box, boxes[whole])[2:]])
            masks[whole] = masks[whole] | mask
    kept = np.array(boxes, dtype=np.int64).reshape(-1, 4)
    return Components(kept, np.array(masks, dtype=np.bool_).reshape(-1, *prepared.shape))


def _fraction_inside(box: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    """Return the fraction of ``box`` [4] that lies in ``other`` [4]."""
    sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    return float(sides.clip(0).prod() / (box[2:] - box[:2]).prod())


class Nodes(NamedTuple):
    """The boxes of all components of a scan; a box that does not change over several foregrounds is one node.

    ``boxes`` are [N, 4] xyxy; ``low`` and ``high`` [N] are the widest and narrowest foreground with this box.
    """

    boxes: NDArray[np.int64]
    low: NDArray[np.int64]
    high: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class BoxScan:
    """The boxes of one map at many thresholds, computed lazily; see ``scan_boxes``.

    Thresholds with the same foreground share one of the K entries.

    Args:
        ranks: [H, W] uint16, the number of the K foregrounds, widest first, that contain each pixel.
        entry: [T] int64, the foreground of each threshold, in 0 … K - 1.
        protocol: defines components and the ends of boxes.
    """

    ranks: NDArray[np.uint16]
    entry: NDArray[np.int64]
    protocol: Protocol

    def largest(self) -> NDArray[np.int64]:
        """Return the box of the largest component at each threshold, [T, 4] int64.

        Contours: the one with the largest ``contourArea``, of the polygon through the outermost pixel centres. It is
        never the outline of a hole or of anything inside one, so all holes are filled first.
        """
        if self.protocol.components == "contours":
            _, largest = sweep(self._filled, self._entries, outline=True)
        else:
            _, largest = self._components
        boxes = with_protocol_ends(largest, self.ranks.shape, self.protocol)
        boxes[self._empty_entries] = self._empty_box
        return boxes[self.entry]

    @cached_property
    def nodes(self) -> Nodes:
        """All components; contours: those of OpenCV's ``findContours`` (RETR_TREE), of components and their holes."""
        nodes, _ = self._components
        if self.protocol.components == "contours":
            nodes = np.concatenate([nodes, hole_outlines(self.ranks, self._filled, self._entries)])
        empty = self._empty_entries
        boxes = with_protocol_ends(nodes[:, :4], self.ranks.shape, self.protocol)
        low, high = (np.concatenate([nodes[:, column], empty]) for column in (LOW, HIGH))
        return Nodes(np.concatenate([boxes, np.tile(self._empty_box, (len(empty), 1))]), low, high)

    def greatest(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the maximum over the ``nodes`` of ``values`` [N] ≥ 0 at each threshold, [T] float64."""
        return greatest(values, self.nodes.low, self.nodes.high, self._entries)[self.entry]

    @property
    def _entries(self) -> int:
        return int(self.entry.max(initial=-1)) + 1

    @property
    def _empty_entries(self) -> NDArray[np.int64]:
        """The entry without foreground, the last one, if it exists."""
        return np.arange(int(self.ranks.max()), self._entries)

    @property
    def _empty_box(self) -> NDArray[np.int64]:
        height, width = self.ranks.shape
        return np.array(self.protocol.empty_box or (0, 0, width, height), dtype=np.int64)

    @cached_property
    def _filled(self) -> NDArray[np.uint16]:
        return fill_holes(self.ranks, self._entries)

    @cached_property
    def _components(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The nodes of the 8-connected components, and the box of the one with most pixels at each entry."""
        return sweep(self.ranks, self._entries)


def scan_boxes(prepared: PreparedMap, thresholds: ArrayLike, protocol: Protocol) -> BoxScan:
    """Return the boxes of every component at every threshold.

    Args:
        prepared: [H, W] from ``prepare_map`` under the same protocol.
        thresholds: [T] in [0, 1], in any order, at most 65535 different ones.
        protocol: defines what exceeds a threshold, components and the ends of boxes.

    Raises:
        ValueError: if ``prepared`` is not prepared under the protocol, or there are too many thresholds.
    """
    levels, level_of = np.unique(_levels(prepared, thresholds, protocol), return_inverse=True)
    if len(levels) > np.iinfo(np.uint16).max:
        raise ValueError(f"at most 65535 different thresholds can be scanned, got {len(levels)}")
    ranks, foregrounds = _ranked(prepared, levels)
    return BoxScan(ranks, foregrounds[level_of.reshape(-1)], protocol)


def largest_boxes(prepared: PreparedMap, thresholds: ArrayLike, protocol: Protocol) -> NDArray[np.int64]:
    """Return the box of the largest component at each of ``thresholds`` [T]: [T, 4] int64; see ``scan_boxes``.

    >>> from tokenloc.boxes import get_protocol
    >>> prepared = np.zeros((4, 5), dtype=np.float32)
    >>> prepared[1:3, 1:4] = [[0.5, 0.9, 0.5], [0.5, 0.9, 0.5]]
    >>> largest_boxes(prepared, [0.2, 0.7, 0.95], get_protocol("standard")).tolist()
    [[1, 1, 4, 3], [2, 1, 3, 3], [0, 0, 0, 0]]
    """
    return scan_boxes(prepared, thresholds, protocol).largest()


def _levels(prepared: PreparedMap, thresholds: ArrayLike, protocol: Protocol) -> PreparedMap:
    """Return the levels [T], in the dtype of the map, that a pixel must exceed."""
    expected = np.dtype(np.uint8 if protocol.quantised else np.float32)
    if prepared.ndim != 2 or prepared.size == 0 or prepared.dtype != expected:
        raise ValueError(
            f"protocol {protocol.name!r} expects {expected} maps [height, width], got {prepared.dtype} of "
            f"shape {prepared.shape}; use prepare_map with the same protocol"
        )
    full = 255 if protocol.quantised else 1.0
    peak = float(prepared.max()) if protocol.threshold_of == "maximum" else full
    return (np.asarray(thresholds, dtype=np.float64).reshape(-1) * peak).astype(expected)


def _ranked(prepared: PreparedMap, levels: NDArray[Any]) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """Return ``rank_pixels``; bytes go through a lookup table of the values that occur."""
    if prepared.dtype != np.uint8:
        return rank_pixels(prepared, levels)
    values = np.flatnonzero(cv2.calcHist([prepared], [0], None, [256], [0, 256])).astype(np.uint8)
    ranks, foregrounds = rank_pixels(values[None], levels)
    table = np.zeros(256, dtype=np.uint16)
    table[values] = ranks
    return np.asarray(cv2.LUT(prepared, table), dtype=np.uint16), foregrounds


def with_protocol_ends(boxes: NDArray[Number], shape: tuple[int, ...], protocol: Protocol) -> NDArray[Number]:
    """Return ``boxes`` [N, 4] of a map of ``shape`` [H, W], given with exclusive ends, with the protocol's ends."""
    height, width = shape
    inside = int(protocol.box_end == "inside")
    return np.minimum(boxes, np.array([width, height, width - inside, height - inside], dtype=boxes.dtype))


def _labels_by_size(labels: NDArray[np.int32], stats: NDArray[np.int32]) -> list[int]:
    """Return the labels of OpenCV's components by pixel count; in a tie the first in reading order comes first."""
    corners = stats[1:, :3].tolist()  # 0 is the background
    first = [
        (top, left + int(np.argmax(labels[top, left : left + width] == label)))
        for label, (left, top, width) in enumerate(corners, start=1)
    ]
    return sorted(range(1, len(stats)), key=lambda label: (-stats[label, cv2.CC_STAT_AREA], first[label - 1]))
