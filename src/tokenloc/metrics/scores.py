"""What the metrics need from one image, measured under a protocol."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokenloc.boxes import (
    BoxScan,
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
from tokenloc.boxes.frame import checked_boxes
from tokenloc.boxes.iou import box_areas
from tokenloc.boxes.maps import PreparedMap
from tokenloc.boxes.protocols import checked_threshold
from tokenloc.metrics.errors import error_categories

IGNORED = 255
"""The value of mask pixels that the pixel metrics leave out."""


@dataclass(frozen=True)
class BoxScores:
    """One image's boxes at T thresholds, those of ``scored_thresholds``.

    Args:
        largest: [T] float64: IoU of the largest component of the true class's map with the ground-truth box that it
            meets best.
        any: [T] float64: the best such IoU of all components.
        own: [T] float64: as ``largest``, of the map made for the *predicted* class that is right; 0 where none is.
        errors: [T] int64: indices into ``ERROR_CATEGORIES``.
        object_fraction: Area of the largest ground-truth box over the image's.
        found: [T, 4] int64: the box that ``largest`` is of, xyxy in input pixels, its ends as the protocol has them.
    """

    largest: NDArray[np.float64]
    any: NDArray[np.float64]
    own: NDArray[np.float64]
    errors: NDArray[np.int64]
    object_fraction: float
    found: NDArray[np.int64]


@dataclass(frozen=True)
class ImageScores:
    """One image's part in every metric; made by ``score_image``.

    Args:
        label: The true class.
        predicted: [P] int64, the predicted classes, best first; empty where nothing was predicted.
        boxes: None where the image has no (possible) ground-truth box.
        pixels: [2, bins] int64: pixels of background (row 0) and object (row 1) by their map value, in the bins of
            ``pixel_edges``. None where the image has no mask.
        dropped_boxes: Ground-truth boxes left out because they cannot be (inverted, empty, outside the image).
        probability: Of the first predicted class; None where it is not known.
        confidence: Of the largest component's box of the true class's map at the fixed threshold, see ``box_confidence``; None
            without a fixed threshold or ``probability``.
    """

    label: int
    predicted: NDArray[np.int64]
    boxes: BoxScores | None = None
    pixels: NDArray[np.int64] | None = None
    dropped_boxes: int = 0
    probability: float | None = None
    confidence: float | None = None

    def in_top(self, k: int) -> bool:
        """Say if the true class is among the first ``k`` predicted ones."""
        return self.label in self.predicted[:k]


def score_image(
    maps: NDArray[np.floating],
    map_classes: ArrayLike,
    predicted: ArrayLike | None,
    label: int,
    *,
    frame: Frame,
    protocol: Protocol,
    threshold: float | None = None,
    boxes: ArrayLike | None = None,
    mask: NDArray[np.generic] | None = None,
    ready: bool = False,
    probability: float | None = None,
) -> ImageScores:
    """Measure one image.

    Args:
        maps: [K, h, w] float, any range, spread evenly over the network's input: the true class's map first, then
            those of predicted classes. A right prediction is judged by its own map, where that is here, too.
        map_classes: [K] int, the classes of ``maps``; the first is ``label``.
        predicted: [P] int, P ≥ 1, the predicted classes, best first (see ``top_classes``). None where only maps are
            known: the scores of predicted classes are then those of a right prediction, and not to be reported.
        label: The true class.
        frame: Between the image and the network's input.
        protocol: How maps become boxes and boxes are judged.
        threshold: A fixed map threshold in [0, 1]; None for the protocol's own, which it may not have.
        boxes: [G, 4] ground truth xyxy, half-open, in original pixels; None or empty where there is none. Boxes that
            cannot be are left out and counted.
        mask: [H, W] in original pixels: 0 background, 1 object, 255 ignored; None where there is none.
        ready: The maps are in [0, 1] and of the network's size, as the `wsol-eval` evaluator stores them: they are taken as they
            are, neither scaled nor upsampled again.
        probability: Of the first predicted class, softmax, for the confidence.

    Raises:
        ValueError: where shapes, classes, the threshold or mask values do not fit, or a map is not finite.
    """
    own = _own_map(maps, map_classes, label)
    top = np.array([] if predicted is None else predicted, dtype=np.int64)
    if predicted is not None and (top.ndim != 1 or not top.size):
        raise ValueError(f"predicted must be [P] classes, at least one, best first; got shape {top.shape}")
    scale = ready_map if ready else scaled_map
    scaled = own_scaled = scale(maps[0], frame.input_size, protocol)  # also without truth: a broken map is told
    if not np.array_equal(maps[0], maps[own]):
        own_scaled = scale(maps[own], frame.input_size, protocol)
    every = checked_boxes([] if boxes is None else boxes)
    truth = possible_boxes(every, frame)
    return ImageScores(
        label,
        top,
        _box_scores(scaled, own_scaled, truth, frame, protocol, threshold, label, top) if len(truth) else None,
        None if mask is None else _pixel_histogram(scaled, mask, frame, protocol),
        len(every) - len(truth),
        probability,
        _trust(probability, scaled, fixed_threshold(protocol, threshold), protocol),
    )


def scored_thresholds(protocol: Protocol, threshold: float | None = None) -> NDArray[np.float64]:
    """Return the thresholds [T] of all box scores: the protocol's grid, then the fixed threshold where there is one.

    The fixed one is ``threshold``, or where that is None the protocol's own. It stands apart, at the end, since it
    takes no part in the choice of a best threshold.
    """
    fixed = fixed_threshold(protocol, threshold)
    return np.array([*protocol.thresholds, *([] if fixed is None else [fixed])], dtype=np.float64)


def fixed_threshold(protocol: Protocol, threshold: float | None = None) -> float | None:
    """Return ``threshold``, else the protocol's own fixed one, else None; ValueError where it is not in [0, 1]."""
    chosen = protocol.threshold if threshold is None else threshold
    return None if chosen is None else checked_threshold(chosen)


def pixel_edges(protocol: Protocol) -> NDArray[np.float64]:
    """Return the edges [bins + 1] of the pixel histograms: the protocol's thresholds, 1, 2 and 3, as in the `wsol-eval` evaluator.

    A bin holds values from its left edge on; 1.0 has a bin of its own. 0 is added where the thresholds lack it, so
    that every pixel is counted.
    """
    return np.unique([0.0, *(protocol.pixel_thresholds or protocol.thresholds), 1.0, 2.0, 3.0])


def pixel_histogram(
    scaled: NDArray[np.floating], mask: NDArray[np.generic], edges: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return how many background and object pixels have which map value.

    Args:
        scaled: [H, W] float in [0, 1].
        mask: [H, W] of the same frame: 0 background, 1 object, 255 ignored.
        edges: [bins + 1], see ``pixel_edges``.

    Returns:
        [2, bins] int64, background first.

    Raises:
        ValueError: where the shapes differ or the mask has other values.
    """
    values = np.asarray(mask).astype(np.int64)
    if values.shape != scaled.shape:
        raise ValueError(f"mask and map must have one shape, got {values.shape} and {scaled.shape}")
    if unknown := set(np.unique(values).tolist()) - {0, 1, IGNORED}:
        raise ValueError(
            f"mask values must be 0 (background), 1 (object) or {IGNORED} (ignored), got {sorted(unknown)}"
        )
    return np.stack([np.histogram(scaled[values == kind], bins=edges)[0] for kind in (0, 1)]).astype(np.int64)


def top_classes(logits: ArrayLike, k: int = 5) -> NDArray[np.int64]:
    """Return the ``k`` classes with the greatest of ``logits`` [C], best first: [min(k, C)] int64.

    Equal logits are taken in the order of the classes. Raises ValueError where logits are not [C] or hold NaN.

    >>> top_classes([0.1, 3.0, 0.1, 2.0], k=3).tolist()
    [1, 3, 0]
    """
    array = np.asarray(logits, dtype=np.float64)
    if array.ndim != 1 or np.isnan(array).any():
        raise ValueError(f"logits must be [C] without NaN, got shape {array.shape}, {np.isnan(array).sum()} NaN")
    return np.argsort(-array, kind="stable")[:k].astype(np.int64)


def _own_map(maps: NDArray[np.floating], map_classes: ArrayLike, label: int) -> int:
    """Return the index of the map that was made for the predicted class ``label``: the last of that class."""
    classes = np.asarray(map_classes)
    if maps.ndim != 3 or classes.shape != maps.shape[:1] or not classes.size:
        raise ValueError(
            f"maps must be [K, h, w] with map_classes [K], K at least 1, got {maps.shape} and {classes.shape}"
        )
    if classes[0] != label:
        raise ValueError(f"the first map must be of the true class {label}, got class {classes[0]}")
    return int(np.flatnonzero(classes == label)[-1])


def _box_scores(
    scaled: NDArray[np.floating],
    own_scaled: NDArray[np.floating],
    boxes: NDArray[np.float64],
    frame: Frame,
    protocol: Protocol,
    threshold: float | None,
    label: int,
    predicted: NDArray[np.int64],
) -> BoxScores:
    thresholds = scored_thresholds(protocol, threshold)
    truth = truth_boxes(boxes, frame, protocol)
    scan = _scan(scaled, thresholds, protocol)
    own = scan if own_scaled is scaled else _scan(own_scaled, thresholds, protocol)
    every = compared_boxes(scan.nodes.boxes, frame, protocol)
    largest, own_largest = (compared_boxes(found.largest(), frame, protocol) for found in (scan, own))
    is_predicted = label in predicted or not len(predicted)
    top = int(predicted[0]) if len(predicted) else label
    width, height = frame.original_size
    return BoxScores(
        best_iou(largest, truth, protocol),
        scan.greatest(best_iou(every, truth, protocol)),
        best_iou(own_largest, truth, protocol) if is_predicted else np.zeros(len(thresholds)),
        error_categories(own_largest, truth, top, label, protocol.inclusive_iou, protocol.strict_top_k),
        float(box_areas(boxes).max() / (width * height)),
        scan.largest(),
    )


def _trust(
    probability: float | None, scaled: NDArray[np.floating], threshold: float | None, protocol: Protocol
) -> float | None:
    """Return the confidence of the largest component's box; 0 where nothing exceeds the threshold."""
    if probability is None or threshold is None:
        return None
    prepared = _prepared(scaled, protocol)
    box = largest_boxes(prepared, [threshold], protocol)
    return float(box_confidence(probability, prepared, box, threshold, protocol)[0])


def _scan(scaled: NDArray[np.floating], thresholds: NDArray[np.float64], protocol: Protocol) -> BoxScan:
    return scan_boxes(_prepared(scaled, protocol), thresholds, protocol)


def _prepared(scaled: NDArray[np.floating], protocol: Protocol) -> PreparedMap:
    return quantised_map(scaled) if protocol.quantised else scaled.astype(np.float32, copy=False)


def _pixel_histogram(
    scaled: NDArray[np.floating], mask: NDArray[np.generic], frame: Frame, protocol: Protocol
) -> NDArray[np.int64]:
    if protocol.truth_frame == "original":
        return pixel_histogram(frame.map_to_original(scaled), mask, pixel_edges(protocol))
    return pixel_histogram(scaled, frame.pixels_to_input(mask), pixel_edges(protocol))
