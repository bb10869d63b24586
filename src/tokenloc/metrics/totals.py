"""Sums over images: all that the metrics of a set are made from, integers only, so that the order never matters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from tokenloc.boxes import Protocol
from tokenloc.metrics.errors import ERROR_CATEGORIES
from tokenloc.metrics.scores import BoxScores, ImageScores, pixel_edges, scored_thresholds

IOU_LEVELS = (0.3, 0.5, 0.7, 0.8, 0.9)
"""The IoU levels δ of GT(δ); MaxBoxAcc V2 averages the first three."""

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Totals:
    """Counts over a set of images, int64 arrays; T as in ``scored_thresholds``, D as in ``IOU_LEVELS``.

    Two sets' totals are added by ``+``; those of one set are the same in whatever batches or processes it came.

    Args:
        images: [] all images.
        classified: [] images with a predicted class.
        top1_cls: [] images whose first predicted class is right.
        top5_cls: [] images with the right class among the first five.
        boxed: [] images with a ground-truth box.
        dropped_boxes: [] ground-truth boxes left out because they cannot be.
        largest_hits: [D, T] images where the largest component of the true class's map has IoU ≥ δ.
        any_hits: [D, T] likewise where any component has.
        top1_hits: [T] images whose first predicted class is right and whose own map hits at IoU 0.5 (the protocol
            says if > or ≥).
        top5_hits: [T] likewise for the first five predicted classes.
        errors: [6, T] images in each of ``ERROR_CATEGORIES``.
        masked: [] images with a mask.
        pixels: [2, bins] background and object pixels by map value, see ``pixel_edges``.
    """

    images: Counts
    classified: Counts
    top1_cls: Counts
    top5_cls: Counts
    boxed: Counts
    dropped_boxes: Counts
    largest_hits: Counts
    any_hits: Counts
    top1_hits: Counts
    top5_hits: Counts
    errors: Counts
    masked: Counts
    pixels: Counts

    @classmethod
    def zero(cls, protocol: Protocol, threshold: float | None = None) -> Totals:
        """Return the totals of no image, for scores under ``protocol`` and ``threshold`` (see ``score_image``)."""
        thresholds, levels = len(scored_thresholds(protocol, threshold)), len(IOU_LEVELS)
        shapes: dict[str, tuple[int, ...]] = {
            "largest_hits": (levels, thresholds),
            "any_hits": (levels, thresholds),
            "top1_hits": (thresholds,),
            "top5_hits": (thresholds,),
            "errors": (len(ERROR_CATEGORIES), thresholds),
            "pixels": (2, len(pixel_edges(protocol)) - 1),
        }
        return cls(**{field.name: np.zeros(shapes.get(field.name, ()), np.int64) for field in fields(cls)})

    @classmethod
    def of(cls, scores: Iterable[ImageScores], protocol: Protocol, threshold: float | None = None) -> Totals:
        """Return the totals of ``scores``, which were made under ``protocol`` and ``threshold``.

        Raises:
            ValueError: where an image was scored at other thresholds.
        """
        total = cls.zero(protocol, threshold)
        for image in scores:
            total = total + _counts(image, protocol, cls.zero(protocol, threshold))
        return total

    def __add__(self, other: Totals) -> Totals:
        """Return the totals of both sets of images."""
        return Totals(**{field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(self)})


def _counts(image: ImageScores, protocol: Protocol, zero: Totals) -> Totals:
    """Return the totals of one image; ``zero`` has the shapes that its scores must have."""
    counts: dict[str, object] = {
        "images": 1,
        "classified": len(image.predicted) > 0,
        "top1_cls": image.in_top(1),
        "top5_cls": image.in_top(5),
        "dropped_boxes": image.dropped_boxes,
    }
    if image.boxes is not None:
        counts |= {"boxed": 1, **_box_counts(image, image.boxes, protocol)}
    if image.pixels is not None:
        counts |= {"masked": 1, "pixels": image.pixels}
    arrays = {name: np.asarray(value, dtype=np.int64) for name, value in counts.items()}
    for name, array in arrays.items():
        if array.shape != getattr(zero, name).shape:
            raise ValueError(
                f"{name} of an image has shape {array.shape}, expected {getattr(zero, name).shape} for protocol "
                f"{protocol.name!r}; score images and add them up under one protocol and threshold"
            )
    return replace(zero, **arrays)


def _box_counts(image: ImageScores, boxes: BoxScores, protocol: Protocol) -> dict[str, Counts]:
    levels = np.array(IOU_LEVELS)[:, None]
    own_hits = boxes.own > 0.5 if protocol.strict_top_k else boxes.own >= 0.5
    return {
        "largest_hits": (boxes.largest >= levels).astype(np.int64),
        "any_hits": (boxes.any >= levels).astype(np.int64),
        "top1_hits": (own_hits & image.in_top(1)).astype(np.int64),
        "top5_hits": (own_hits & image.in_top(5)).astype(np.int64),
        "errors": (boxes.errors == np.arange(len(ERROR_CATEGORIES))[:, None]).astype(np.int64),
    }
