"""Boxes out of prepared maps: threshold, components, boxes, under a protocol.

Boxes are int64 xyxy in the pixels of the prepared map, their ends as the protocol has them. Where nothing exceeds
the threshold the protocol's empty box stands in, alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokenloc.boxes.component_tree import (
    Nodes,
    all_outlines,
    fill_holes,
    largest_outlines,
    pixel_components,
    rank_pixels,
)
from tokenloc.boxes.maps import PreparedMap
from tokenloc.boxes.protocols import Protocol

Number = TypeVar("Number", np.int64, np.float64)


@dataclass(frozen=True, eq=False)
class BoxScan:
    """The boxes of one map at many thresholds; made by ``scan_boxes``.

    Thresholds that give the same foreground share one of the K entries. What is not asked for is not computed.

    Args:
        ranks: [H, W] uint16: how many of the K foregrounds, the widest first, each pixel is in.
        entry: [T] int64: the foreground of each threshold, in 0 … K - 1.
        protocol: Says what a component is, and how its box is written.
    """

    ranks: NDArray[np.uint16]
    entry: NDArray[np.int64]
    protocol: Protocol

    def largest(self) -> NDArray[np.int64]:
        """Return the box of the largest component at each threshold, [T, 4] int64."""
        return self._largest[self.entry]

    @cached_property
    def nodes(self) -> Nodes:
        """The boxes of all components, each once for all the foregrounds at which it is the same."""
        if self.protocol.components == "contours":
            nodes = all_outlines(self.ranks, self._filled, self._entries)
        else:
            nodes = self._pixel_components[0]
        empty = self._empty_entries
        boxes = [written_boxes(nodes.boxes, self.ranks.shape, self.protocol), self._empty_boxes(len(empty))]
        low, high = (np.concatenate([levels, empty]) for levels in nodes[1:])
        return Nodes(np.concatenate(boxes), low, high)

    def greatest(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the greatest of what ``values`` [N] ≥ 0 says of the ``nodes`` at each threshold: [T] float64."""
        return self.nodes.greatest(values, self._entries)[self.entry]

    @property
    def boxes(self) -> list[NDArray[np.int64]]:
        """For each foreground the boxes of all components, [·, 4] int64: the largest first, the others in any order."""
        found = []
        for entry, largest in enumerate(self._largest):
            boxes = self.nodes.boxes[(self.nodes.low <= entry) & (entry <= self.nodes.high)]
            first = int((boxes == largest).all(axis=1).argmax())
            found.append(np.concatenate([boxes[[first]], np.delete(boxes, first, axis=0)]))
        return found

    @property
    def _entries(self) -> int:
        return int(self.entry.max(initial=-1)) + 1

    @property
    def _empty_entries(self) -> NDArray[np.int64]:
        """The entry without foreground, where there is one; it is the last."""
        return np.arange(int(self.ranks.max()), self._entries)

    def _empty_boxes(self, count: int) -> NDArray[np.int64]:
        return np.repeat(_empty_box(self.ranks.shape, self.protocol), count, axis=0)

    @cached_property
    def _filled(self) -> NDArray[np.uint16]:
        return fill_holes(self.ranks, self._entries)

    @cached_property
    def _pixel_components(self) -> tuple[Nodes, NDArray[np.int64]]:
        return pixel_components(self.ranks, self._entries)

    @cached_property
    def _largest(self) -> NDArray[np.int64]:
        """The box of the largest component at each entry, [K, 4]."""
        if self.protocol.components == "contours":
            largest = largest_outlines(self._filled, self._entries)
        else:
            largest = self._pixel_components[1]
        boxes = written_boxes(largest, self.ranks.shape, self.protocol)
        boxes[self._empty_entries] = self._empty_boxes(len(self._empty_entries))
        return boxes


def scan_boxes(prepared: PreparedMap, thresholds: ArrayLike, protocol: Protocol) -> BoxScan:
    """Return the boxes of every component at every threshold.

    Args:
        prepared: [H, W] from ``prepare_map`` under the same protocol.
        thresholds: [T] in [0, 1], in any order; at most 65535 that differ.
        protocol: Says what exceeds a threshold, what a component is, and how its box is written.

    Raises:
        ValueError: where ``prepared`` is not as the protocol prepares maps, or there are too many thresholds.
    """
    levels, level_of = np.unique(_levels(prepared, thresholds, protocol), return_inverse=True)
    if len(levels) > np.iinfo(np.uint16).max:
        raise ValueError(f"at most 65535 thresholds that differ can be scanned, got {len(levels)}")
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


def all_boxes(prepared: PreparedMap, threshold: float, protocol: Protocol) -> NDArray[np.int64]:
    """Return the boxes of all components at one threshold, largest first: [K, 4] int64, K ≥ 1."""
    return _component_boxes(_foreground(prepared, _levels(prepared, [threshold], protocol)[0]), protocol)


def component_masks(prepared: PreparedMap, threshold: float, protocol: Protocol) -> NDArray[np.bool_]:
    """Return the pixels of each component at one threshold, in the order of ``all_boxes``.

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


def _ranked(prepared: PreparedMap, levels: NDArray[Any]) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """Return ``rank_pixels``; of bytes the few values that occur are ranked, then looked up."""
    if prepared.dtype != np.uint8:
        return rank_pixels(prepared, levels)
    values = np.flatnonzero(cv2.calcHist([prepared], [0], None, [256], [0, 256])).astype(np.uint8)
    ranks, foregrounds = rank_pixels(values[None], levels)
    table = np.zeros(256, dtype=np.uint16)
    table[values] = ranks
    return np.asarray(cv2.LUT(prepared, table), dtype=np.uint16), foregrounds


def _component_boxes(foreground: NDArray[np.uint8], protocol: Protocol) -> NDArray[np.int64]:
    """Return the boxes [K, 4] of a foreground's components, largest first, or the protocol's empty box."""
    corners, _ = _components(foreground, protocol)
    return (
        written_boxes(corners, foreground.shape, protocol) if len(corners) else _empty_box(foreground.shape, protocol)
    )


def written_boxes(boxes: NDArray[Number], shape: tuple[int, ...], protocol: Protocol) -> NDArray[Number]:
    """Return exclusive ``boxes`` [N, 4] of a map of ``shape`` [H, W] with their ends as the protocol has them."""
    height, width = shape
    inside = int(protocol.box_end == "inside")
    return np.minimum(boxes, np.array([width, height, width - inside, height - inside], dtype=boxes.dtype))


def _empty_box(shape: tuple[int, ...], protocol: Protocol) -> NDArray[np.int64]:
    """Return the protocol's box of a map of ``shape`` without foreground, [1, 4]."""
    height, width = shape
    return np.array([protocol.empty_box or (0, 0, width, height)], dtype=np.int64)


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
