"""The result of an evaluation, and how it follows from the totals of a set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from tokenloc.boxes import Protocol
from tokenloc.metrics.errors import ERROR_CATEGORIES
from tokenloc.metrics.scores import fixed_threshold
from tokenloc.metrics.statistics import (
    V1_LEVEL,
    best_threshold,
    max_box_acc_v1,
    max_box_acc_v2,
    max_box_acc_v2_one_threshold,
    percent,
    piou,
    pxap,
)
from tokenloc.metrics.totals import IOU_LEVELS, Counts, Totals

METRIC_NAMES = {
    "gt_known": "GT-known",
    "top1_loc": "Top-1 Loc",
    "top5_loc": "Top-5 Loc",
    "top1_cls": "Top-1 Cls",
    "top5_cls": "Top-5 Cls",
    "box_acc_0.3": "IoU 0.3",
    "box_acc_0.7": "IoU 0.7",
    "box_acc_0.8": "IoU 0.8",
    "box_acc_0.9": "IoU 0.9",
    "max_box_acc_v1": "MaxBoxAcc V1",
    "max_box_acc_v2": "MaxBoxAcc V2",
    "pxap": "PxAP",
    "piou": "pIoU",
}
"""What people call the metrics, in the order of a report; those at IoU levels under the names of their confidence."""

# The two results are not frozen: torchmetrics copies what a metric computes field by field.


@dataclass
class Oracle:
    """What the threshold that is best on the evaluated set itself would give, in percent; not a fair result.

    Args:
        threshold: The lowest of the thresholds with the best GT-known.
        gt_known: See ``Evaluation``; so the Top-k Loc, all at ``threshold``.
        top1_loc: Top-1 Loc.
        top5_loc: Top-5 Loc.
        box_acc: GT(δ) at each δ's *own* best threshold.
    """

    threshold: float
    gt_known: float
    top1_loc: float | None
    top5_loc: float | None
    box_acc: dict[float, float]


@dataclass
class Evaluation:
    """All metrics of a set of images, in percent; None where the set has no boxes, no masks, or no predicted classes.

    Args:
        protocol: Name of the protocol.
        images: How many images.
        images_with_boxes: Those that the box metrics are shares of.
        images_with_masks: Those that the pixel metrics come from.
        dropped_boxes: Ground-truth boxes left out because they cannot be.
        top1_cls: Images whose first predicted class is right.
        top5_cls: Images with the right class among the first five.
        top1_loc: Images whose first predicted class is right and whose own map's box hits, at ``threshold``.
        top5_loc: Likewise for the first five.
        gt_known: Images where the box of the true class's map has IoU ≥ 0.5, at ``threshold``.
        box_acc: GT(δ): the same for each IoU level δ.
        max_box_acc_v1: IoU 0.5, largest component, best threshold.
        max_box_acc_v2: Any component, mean over δ 0.3, 0.5, 0.7 of each δ's own best threshold.
        max_box_acc_v2_largest: The same of the largest component (SAT).
        max_box_acc_v2_one_threshold: The same of the largest component, one threshold for all δ (SAT, Table 3).
        pxap: Pixel average precision.
        piou: Pixel IoU at its best threshold.
        errors: Images in each of ``ERROR_CATEGORIES``, at ``threshold``; without predicted classes as if right.
        threshold: The map threshold of all metrics that say so.
        threshold_source: "given", "protocol", or "best on the evaluated set (oracle)".
        oracle: The same with the best threshold.
        curve: Accuracy against threshold, of the largest component: "threshold" and one column for each δ, in
            percent (SAT, Fig. 7). Not in ``to_dict``.
    """

    protocol: str
    images: int
    images_with_boxes: int = 0
    images_with_masks: int = 0
    dropped_boxes: int = 0
    top1_cls: float | None = None
    top5_cls: float | None = None
    top1_loc: float | None = None
    top5_loc: float | None = None
    gt_known: float | None = None
    box_acc: dict[float, float] | None = None
    max_box_acc_v1: float | None = None
    max_box_acc_v2: float | None = None
    max_box_acc_v2_largest: float | None = None
    max_box_acc_v2_one_threshold: float | None = None
    pxap: float | None = None
    piou: float | None = None
    errors: dict[str, float] | None = None
    threshold: float | None = None
    threshold_source: str | None = None
    oracle: Oracle | None = None
    curve: dict[str, list[float]] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the form of a run's ``metrics.json``: plain JSON values, IoU levels as strings."""
        names = (
            *("top1_cls", "top5_cls", "top1_loc", "top5_loc", "gt_known"),
            *("max_box_acc_v1", "max_box_acc_v2", "max_box_acc_v2_largest", "max_box_acc_v2_one_threshold"),
            *("box_acc", "pxap", "piou", "errors"),
        )
        counts = ("images_with_boxes", "images_with_masks", "dropped_boxes")
        oracle = None if self.oracle is None else vars(self.oracle)
        return {
            "protocol": self.protocol,
            "images": self.images,
            **{name: getattr(self, name) for name in counts},
            "metrics": _json({name: getattr(self, name) for name in names}),
            "threshold": self.threshold,
            "threshold_source": self.threshold_source,
            "oracle": _json(oracle),
        }


def evaluate(totals: Totals, protocol: Protocol, threshold: float | None = None) -> Evaluation:
    """Return the metrics of the set that ``totals`` were made from, under the same protocol and threshold.

    Where neither ``threshold`` nor the protocol fixes a threshold, the best on the set is taken, and
    ``threshold_source`` says so.

    Raises:
        ValueError: where the totals have another number of thresholds than protocol and threshold ask for.
    """
    _check_made_for(totals, protocol, threshold)
    fixed = fixed_threshold(protocol, threshold)
    evaluation = Evaluation(
        protocol=protocol.name,
        images=int(totals.images),
        images_with_boxes=int(totals.boxed),
        images_with_masks=int(totals.masked),
        dropped_boxes=int(totals.dropped_boxes),
        top1_cls=percent(totals.top1_cls, totals.images) if totals.classified else None,
        top5_cls=percent(totals.top5_cls, totals.images) if totals.classified else None,
        pxap=pxap(totals.pixels),
        piou=piou(totals.pixels),
        threshold=fixed,
        threshold_source=None if fixed is None else "protocol" if threshold is None else "given",
    )
    return _with_box_metrics(evaluation, totals, protocol) if totals.boxed else evaluation


def _with_box_metrics(evaluation: Evaluation, totals: Totals, protocol: Protocol) -> Evaluation:
    """Return ``evaluation`` with what needs at least one image with a box."""
    boxed, grid = totals.boxed, len(protocol.thresholds)
    largest, any_ = totals.largest_hits[:, :grid], totals.any_hits[:, :grid]
    best = best_threshold(largest)
    fixed = evaluation.threshold is not None
    column = grid if fixed else best
    here, there = _accuracies(totals, column), _accuracies(totals, best)
    own_best = _per_level(_percents(largest.max(axis=1), boxed))
    return replace(
        evaluation,
        gt_known=here.gt_known,
        top1_loc=here.top1_loc,
        top5_loc=here.top5_loc,
        max_box_acc_v1=max_box_acc_v1(largest, boxed),
        max_box_acc_v2=max_box_acc_v2(any_, boxed),
        max_box_acc_v2_largest=max_box_acc_v2(largest, boxed),
        max_box_acc_v2_one_threshold=max_box_acc_v2_one_threshold(largest, boxed),
        box_acc=_per_level(_percents(totals.largest_hits[:, column], boxed)),
        errors=dict(zip(ERROR_CATEGORIES, _percents(totals.errors[:, column], boxed), strict=True)),
        threshold=evaluation.threshold if fixed else protocol.thresholds[best],
        threshold_source=evaluation.threshold_source if fixed else "best on the evaluated set (oracle)",
        oracle=Oracle(protocol.thresholds[best], *there, own_best),
        curve={"threshold": list(protocol.thresholds), **_curves(largest, boxed)},
    )


class _Accuracies(NamedTuple):
    gt_known: float
    top1_loc: float | None
    top5_loc: float | None


def _accuracies(totals: Totals, column: int) -> _Accuracies:
    """Return the accuracies at one threshold, in percent."""
    hits = np.array([totals.largest_hits[V1_LEVEL], totals.top1_hits, totals.top5_hits])[:, column]
    gt_known, top1_loc, top5_loc = _percents(hits, totals.boxed)
    return _Accuracies(gt_known, top1_loc, top5_loc) if totals.classified else _Accuracies(gt_known, None, None)


def _percents(counts: Counts, images: Counts) -> list[float]:
    percents: list[float] = (100.0 * counts / images).tolist()
    return percents


def _per_level(values: list[float]) -> dict[float, float]:
    return dict(zip(IOU_LEVELS, values, strict=True))


def _curves(largest_hits: Counts, images: Counts) -> dict[str, list[float]]:
    return {f"{level:g}": _percents(hits, images) for level, hits in zip(IOU_LEVELS, largest_hits, strict=True)}


def _check_made_for(totals: Totals, protocol: Protocol, threshold: float | None) -> None:
    expected = Totals.zero(protocol, threshold)
    for name in ("errors", "pixels"):
        shapes = getattr(totals, name).shape, getattr(expected, name).shape
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"these totals were not made under protocol {protocol.name!r} with threshold {threshold}: their "
                f"{name} have shape {shapes[0]}, expected {shapes[1]}; pass what the images were scored under"
            )


def _json(value: Any) -> Any:
    """Return ``value`` with IoU levels as strings, at every depth."""
    if isinstance(value, dict):
        return {key if isinstance(key, str) else f"{key:g}": _json(part) for key, part in value.items()}
    return value
