"""Scores of one image under a protocol: what every metric of a set is computed from."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokenloc._names import one_of
from tokenloc.boxes import (
    Frame,
    Protocol,
    best_iou,
    box_confidence,
    compared_boxes,
    largest_boxes,
    possible_boxes,
    quantised_map,
    ready_map,
    scaled_map,
    scan_boxes,
    truth_boxes,
)
from tokenloc.boxes.frame import checked_boxes, same_shape
from tokenloc.boxes.iou import box_areas
from tokenloc.boxes.maps import PreparedMap
from tokenloc.boxes.protocols import checked_threshold
from tokenloc.metrics.errors import error_categories
from tokenloc.metrics.reference import constant_box_iou

BestThreshold = Literal["gt_known", "gt_known_plus_top1_loc"]

IGNORED = 255
"""The value of mask pixels that the pixel metrics ignore."""


@dataclass(frozen=True, eq=False)
class ImageScores:
    """The scores of one image at T thresholds; see ``Scorer.score``.

    Attributes:
        predicted: [P] int64, predicted classes, best first; P = 0 without predictions.
        probability: of the first predicted class; None if unknown.
        confidence: see ``box_confidence``, of the largest component's box at the fixed threshold; None without a fixed
            threshold or a probability.
        truth: [G, 4] float64 xyxy, the possible ground-truth boxes in original pixels. G = 0 implies T = 0.
        dropped_boxes: number of ignored ground-truth boxes: inverted, empty or outside the image.
        object_fraction: area of the largest ground-truth box divided by that of the image; None if G = 0.
        boxes: [T, 4] int16 xyxy, the largest component's box in input pixels, ends as defined by the protocol.
        largest: [T] float64, IoU of ``boxes`` with the best-matching ground-truth box.
        any: [T] float64, the best IoU of all components.
        errors: [T] int8, indices into ``ERROR_CATEGORIES``.
        constant: [2] float64, IoU of ``CONSTANT_BOXES``; empty if G = 0.
        true_class: [T] float64, like ``largest`` for the true class's map, if that is another one; empty if not needed.
        any_class: [T] float64, the best of ``largest`` of the first predicted classes' maps; empty if not needed.
        pixels: [2, bins] int64, background and object pixels by map value, see ``Scorer.pixel_edges``; no bins without
            a mask.
    """

    id: str
    label: int
    frame: Frame
    predicted: NDArray[np.int64]
    probability: float | None
    confidence: float | None
    truth: NDArray[np.float64]
    dropped_boxes: int
    object_fraction: float | None
    boxes: NDArray[np.int16]
    largest: NDArray[np.float64]
    any: NDArray[np.float64]
    errors: NDArray[np.int8]
    constant: NDArray[np.float64]
    pixels: NDArray[np.int64]
    true_class: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    any_class: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def in_top(self, k: int) -> bool:
        """Return whether the true class is among the first ``k`` predicted classes."""
        return self.label in self.predicted[:k]

    def localized(self, k: int, protocol: Protocol) -> NDArray[np.bool_]:
        """Return whether the image counts as a hit of Top-k Loc at each threshold: [T]."""
        iou = self.true_class if k > 1 and self.true_class.size else self.largest
        hits: NDArray[np.bool_] = iou > 0.5 if protocol.strict_top_k else iou >= 0.5
        return hits & self.in_top(k)


@dataclass(frozen=True)
class Scorer:
    """Scores images under one protocol and map threshold.

    Args:
        protocol: defines how maps become boxes and how boxes are judged.
        threshold: a fixed map threshold in [0, 1]; None for the protocol's own rule.
        best: what the best threshold on the set maximizes, where one is chosen: GT-known, or the sum of GT-known and
            Top-1 Loc as in SAT's release.

    Raises:
        ValueError: if the threshold is out of range, or ``best`` is unknown.
    """

    protocol: Protocol
    threshold: float | None = None
    best: BestThreshold = "gt_known"

    def __post_init__(self) -> None:
        """Validate the threshold and its choice."""
        one_of("best threshold:", self.best, BestThreshold)
        if self.threshold is not None:
            checked_threshold(self.threshold)

    @property
    def fixed_threshold(self) -> float | None:
        """The given threshold, or the protocol's fixed one; None if the threshold is chosen on the set."""
        return self.protocol.threshold if self.threshold is None else self.threshold

    @cached_property
    def thresholds(self) -> NDArray[np.float64]:
        """[T] the protocol's grid, followed by the fixed threshold if any, which is no candidate for the best one."""
        fixed = [] if self.fixed_threshold is None else [self.fixed_threshold]
        return np.array([*self.protocol.thresholds, *fixed], dtype=np.float64)

    @cached_property
    def pixel_edges(self) -> NDArray[np.float64]:
        """[bins + 1] edges of the pixel histograms: 0, the protocol's thresholds, 1, 2 and 3, as in `wsol-eval`.

        A bin includes its left edge; 1.0 has its own bin.
        """
        return np.unique([0.0, *(self.protocol.pixel_thresholds or self.protocol.thresholds), 1.0, 2.0, 3.0])

    def pixel_bin(self, threshold: float) -> int:
        """Return the index of the first bin of ``pixel_edges`` that begins at ``threshold`` or above."""
        return int(np.searchsorted(self.pixel_edges, threshold - 1e-9))  # the grid's edges are rounded

    def score(
        self,
        map_: NDArray[np.floating],
        label: int,
        predicted: ArrayLike | None = None,
        *,
        frame: Frame,
        id_: str = "",
        boxes: ArrayLike | None = None,
        mask: NDArray[np.generic] | None = None,
        probability: float | None = None,
        ready: bool = False,
        top_maps: NDArray[np.floating] | None = None,
    ) -> ImageScores:
        """Score one image.

        Args:
            map_: [h, w] float, the map of the class that the protocol judges, the true or the first predicted one; any
                range, covering the network input.
            label: index of the true class.
            predicted: [P] int, P ≥ 1, predicted classes, best first. None if unknown: error categories then assume a
                correct class.
            frame: between the image and the network input.
            id_: of the image.
            boxes: [G, 4] ground truth xyxy, half-open, in original pixels; None or empty if unknown.
            mask: [H, W] in original pixels, or of the image in another resolution, from which it is resized once: 0
                background, 1 object, 255 ignored; None if unknown.
            probability: softmax probability of the first predicted class.
            ready: the map is already in [0, 1] and of the network's input size; do not rescale or upsample it.
            top_maps: [K, h, w], maps of the first K predicted classes, for protocols that judge several of them;
                without, Top-5 Loc is judged by ``map_``.

        Raises:
            ValueError: if shapes or mask values are wrong, or the map is not finite.
        """
        top = np.array([] if predicted is None else predicted, dtype=np.int64)
        if predicted is not None and (top.ndim != 1 or not top.size):
            raise ValueError(f"predicted must be [P] classes, P at least 1, best first; got shape {top.shape}")
        scaled = (ready_map if ready else scaled_map)(map_, frame.input_size, self.protocol)
        prepared = self._prepared(scaled)
        every = checked_boxes([] if boxes is None else boxes)
        truth = possible_boxes(every, frame)
        width, height = frame.original_size
        return ImageScores(
            id_,
            int(label),
            frame,
            top,
            probability,
            self._confidence(prepared, probability),
            truth,
            len(every) - len(truth),
            float(box_areas(truth).max() / (width * height)) if len(truth) else None,
            *self._score_boxes(prepared, truth, frame, label, int(top[0]) if top.size else label),
            constant_box_iou(truth, frame, self.protocol),
            np.zeros((2, 0), np.int64) if mask is None else self._count_pixels(scaled, mask, frame),
            *self._score_top_maps(top_maps, truth, frame, label, top),
        )

    def _prepared(self, scaled: NDArray[np.floating]) -> PreparedMap:
        return quantised_map(scaled) if self.protocol.quantised else scaled.astype(np.float32, copy=False)

    def _score_top_maps(
        self,
        maps: NDArray[np.floating] | None,
        truth: NDArray[np.float64],
        frame: Frame,
        label: int,
        top: NDArray[np.int64],
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return ``true_class`` and ``any_class`` of ``ImageScores``."""
        if (self.protocol.judged_maps or 0) < 2 or maps is None or not len(truth):
            return np.zeros(0), np.zeros(0)
        truth, ious = truth_boxes(truth, frame, self.protocol), np.zeros((len(maps), len(self.thresholds)))
        for row, map_ in enumerate(maps):
            prepared = self._prepared(scaled_map(map_, frame.input_size, self.protocol))
            boxes = largest_boxes(prepared, self.thresholds, self.protocol)
            ious[row] = best_iou(compared_boxes(boxes, frame, self.protocol), truth, self.protocol)
        return ious[top[: len(maps)] == label].sum(axis=0), ious.max(axis=0)

    def _score_boxes(
        self, prepared: PreparedMap, truth: NDArray[np.float64], frame: Frame, label: int, predicted: int
    ) -> tuple[NDArray[np.int16], NDArray[np.float64], NDArray[np.float64], NDArray[np.int8]]:
        """Return the largest boxes, their IoU, the best IoU and the error categories at each threshold."""
        if not len(truth):
            return np.zeros((0, 4), np.int16), np.zeros(0), np.zeros(0), np.zeros(0, np.int8)
        protocol = self.protocol
        scan = scan_boxes(prepared, self.thresholds, protocol)
        found = scan.largest()
        largest, every = (compared_boxes(boxes, frame, protocol) for boxes in (found, scan.nodes.boxes))
        truth = truth_boxes(truth, frame, protocol)
        best = scan.greatest(best_iou(every, truth, protocol))
        errors = error_categories(
            largest, truth, predicted, label, protocol.inclusive_iou, protocol.strict_top_k, protocol.errors
        )
        return found.astype(np.int16), best_iou(largest, truth, protocol), best, errors.astype(np.int8)

    def _confidence(self, prepared: PreparedMap, probability: float | None) -> float | None:
        threshold = self.fixed_threshold
        if probability is None or threshold is None:
            return None
        box = largest_boxes(prepared, [threshold], self.protocol)
        return float(box_confidence(probability, prepared, box, threshold, self.protocol)[0])

    def _count_pixels(self, scaled: NDArray[np.floating], mask: NDArray[np.generic], frame: Frame) -> NDArray[np.int64]:
        mask_size = (mask.shape[1], mask.shape[0])
        if not same_shape(frame.original_size, mask_size):
            expected = frame.original_size[::-1]
            raise ValueError(f"expected original pixels of shape {expected} (height, width), got {mask.shape}")
        if self.protocol.truth_frame == "network":
            return pixel_histogram(scaled, frame.of_original(mask_size).pixels_to_input(mask), self.pixel_edges)
        if mask_size != frame.original_size:  # of another resolution
            mask = Frame.resized(mask_size, frame.original_size).pixels_to_input(mask)
        return pixel_histogram(frame.map_to_original(scaled), mask, self.pixel_edges)


def pixel_histogram(
    scaled: NDArray[np.floating], mask: NDArray[np.generic], edges: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Count background and object pixels by map value: [2, bins] int64, for ``Scorer.pixel_edges`` [bins + 1].

    ``scaled`` [H, W] is in [0, 1]; ``mask`` [H, W], in the same frame, is 0 for background, 1 for object, 255 ignored.
    Raises ValueError if the shapes differ or the mask has other values.
    """
    values = np.asarray(mask)
    if values.shape != scaled.shape:
        raise ValueError(f"mask and map must have one shape, got {values.shape} and {scaled.shape}")
    if unknown := sorted(set(np.unique(values).tolist()) - {0, 1, IGNORED}):
        raise ValueError(f"mask values must be 0 (background), 1 (object) or {IGNORED} (ignored), got {unknown}")
    return np.stack([np.histogram(scaled[values == kind], bins=edges)[0] for kind in (0, 1)]).astype(np.int64)
