"""Metrics of a set of images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from tokenloc.metrics.errors import ERROR_CATEGORIES
from tokenloc.metrics.reference import CONSTANT_BOXES
from tokenloc.metrics.scores import ImageScores, Scorer
from tokenloc.metrics.statistics import IOU_LEVELS, V1_LEVEL, V2_LEVELS, Counts, piou, pxap

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
"""Names of the metrics for tables and reports, in order."""


class Totals:
    """Integer counts over images, so that the order of the images does not matter; T and bins as in ``Scorer``."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        thresholds, levels = len(scorer.thresholds), len(IOU_LEVELS)
        self.images = self.classified = self.top1_cls = self.top5_cls = 0
        self.boxed = self.dropped_boxes = self.masked = 0
        self.largest_hits, self.any_hits = np.zeros((2, levels, thresholds), np.int64)  # IoU ≥ δ
        self.top1_hits, self.top5_hits = np.zeros((2, thresholds), np.int64)  # correct class and box
        self.any_class_hits, self.any_classes = np.zeros(thresholds, np.int64), False
        self.errors = np.zeros((len(ERROR_CATEGORIES), thresholds), np.int64)
        self.constant_hits = np.zeros((len(CONSTANT_BOXES), levels), np.int64)
        self.pixels = np.zeros((2, len(scorer.pixel_edges) - 1), np.int64)  # background, object

    def add(self, image: ImageScores) -> None:
        """Add an image; raises ValueError if it was scored at other thresholds."""
        for scored, expected in ((image.largest, self.top1_hits), (image.pixels, self.pixels)):
            if scored.size and scored.shape != expected.shape:
                raise ValueError(
                    f"{image.id or 'an image'} was scored with {scored.shape[-1]} thresholds or pixel bins, expected "
                    f"{expected.shape[-1]}; use one scorer for scoring and evaluation"
                )
        self.images += 1
        self.classified += len(image.predicted) > 0
        self.top1_cls += image.in_top(1)
        self.top5_cls += image.in_top(5)
        self.dropped_boxes += image.dropped_boxes
        if image.pixels.size:
            self.masked += 1
            self.pixels += image.pixels
        if len(image.truth):
            self._add_boxes(image)

    def _add_boxes(self, image: ImageScores) -> None:
        levels = np.array(IOU_LEVELS)
        self.boxed += 1
        self.largest_hits += image.largest >= levels[:, None]
        self.any_hits += image.any >= levels[:, None]
        self.top1_hits += image.localized(1, self.scorer.protocol)
        self.top5_hits += image.localized(5, self.scorer.protocol)
        if image.any_class.size:
            self.any_class_hits += image.any_class >= 0.5
            self.any_classes = True
        self.errors += image.errors == np.arange(len(ERROR_CATEGORIES))[:, None]
        self.constant_hits += image.constant[:, None] >= levels


@dataclass(frozen=True)
class Oracle:
    """Metrics in percent at the threshold that is best on the evaluated set itself; not a fair result.

    ``threshold`` is the lowest one with the best GT-known, and the accuracies are those at it, except ``box_acc``:
    GT(δ), each at the best threshold of its δ. See ``Evaluation``.
    """

    threshold: float
    gt_known: float
    top1_loc: float | None
    top5_loc: float | None
    box_acc: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """All metrics of a set of images, in percent; None if the set has no boxes, no masks or no predicted classes.

    Attributes:
        protocol: name of the protocol.
        images: number of images; ``images_with_boxes`` and ``images_with_masks`` of them count in the box and pixel
            metrics.
        dropped_boxes: impossible ground-truth boxes, which are ignored.
        top1_cls: images whose first predicted class is correct; ``top5_cls``: one of the first five.
        top1_loc: images that also have a box that hits, at ``threshold``; ``top5_loc`` likewise.
        gt_known: images where the box of the true class's map (of the first predicted class's, if the protocol judges
            that) has IoU ≥ 0.5, at ``threshold``.
        gt_known_top5: images where the box of any of the first five predicted classes' maps has IoU ≥ 0.5, if the
            protocol judges them; else not in ``to_dict``.
        max_box_acc_v1: MaxBoxAcc (Choe et al. 2020): IoU 0.5, largest component, best threshold.
        max_box_acc_v2: any component, mean over δ = 0.3, 0.5, 0.7, each at its best threshold.
        max_box_acc_v2_largest: the same for the largest component (SAT).
        max_box_acc_v2_one_threshold: that of the largest component, at the one threshold that is best for the mean.
        box_acc: GT(δ), as ``gt_known`` for each IoU level δ, by "0.3", "0.5" and so on.
        box_acc_mean: mean of ``box_acc`` over δ = 0.3, 0.5, 0.7, at ``threshold`` (SAT, Table 3).
        pxap: pixel average precision.
        piou: pixel IoU at its best threshold.
        errors: images in each of ``ERROR_CATEGORIES``, at ``threshold``; assumes correct classes if none are predicted.
        threshold: the map threshold of these metrics; if the protocol has no ``one_threshold``, GT-known's, and
            ``box_acc`` and Top-k Loc are those at their own best.
        threshold_source: "given", "protocol", "best on the evaluated set (oracle)", or "best GT-known + Top-1 Loc on
            the evaluated set (oracle)".
        oracle: metrics at the best threshold.
        curve: accuracy by threshold, of the largest component: "threshold" and one column per δ, in percent (SAT,
            Fig. 7). Not in ``to_dict``.
        constant_boxes: GT(δ) of ``CONSTANT_BOXES``, by name; empty without boxes. Not in ``to_dict``.
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
    gt_known_top5: float | None = None
    max_box_acc_v1: float | None = None
    max_box_acc_v2: float | None = None
    max_box_acc_v2_largest: float | None = None
    max_box_acc_v2_one_threshold: float | None = None
    box_acc: dict[str, float] | None = None
    box_acc_mean: float | None = None
    pxap: float | None = None
    piou: float | None = None
    errors: dict[str, float] | None = None
    threshold: float | None = None
    threshold_source: str | None = None
    oracle: Oracle | None = None
    curve: dict[str, list[float]] | None = None
    constant_boxes: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def gt_known_plus_top1_loc(self) -> float:
        """The sum by which SAT's release chooses epoch and threshold, at ``threshold``; an unknown term counts 0."""
        return (self.gt_known or 0.0) + (self.top1_loc or 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values in the layout of ``metrics.json``."""
        metrics = asdict(self)
        del metrics["curve"], metrics["constant_boxes"]
        if self.gt_known_top5 is None:
            del metrics["gt_known_top5"]
        names = ("protocol", "images", "images_with_boxes", "images_with_masks", "dropped_boxes")
        first = {name: metrics.pop(name) for name in names}
        last = {name: metrics.pop(name) for name in ("threshold", "threshold_source", "oracle")}
        return {**first, "metrics": metrics, **last}


def evaluate(images: Iterable[ImageScores], scorer: Scorer) -> Evaluation:
    """Return the metrics of a set of images.

    If the scorer has no fixed threshold, the best one on the set is used, and ``threshold_source`` says so.

    Raises:
        ValueError: if an image was scored at other thresholds.
    """
    totals = Totals(scorer)
    for image in images:
        totals.add(image)
    fixed = scorer.fixed_threshold
    evaluation = Evaluation(
        scorer.protocol.name,
        totals.images,
        totals.boxed,
        totals.masked,
        totals.dropped_boxes,
        top1_cls=_percent(totals.top1_cls, totals.images) if totals.classified else None,
        top5_cls=_percent(totals.top5_cls, totals.images) if totals.classified else None,
        pxap=pxap(totals.pixels),
        piou=piou(totals.pixels),
        threshold=fixed,
        threshold_source=None if fixed is None else "protocol" if scorer.threshold is None else "given",
    )
    return replace(evaluation, **_box_metrics(totals)) if totals.boxed else evaluation


def _box_metrics(totals: Totals) -> dict[str, Any]:
    """Return the fields of ``Evaluation`` that need at least one image with a box."""
    boxed, grid = totals.boxed, totals.scorer.protocol.thresholds
    largest, any_ = totals.largest_hits[:, : len(grid)], totals.any_hits[:, : len(grid)]
    best = int(largest[V1_LEVEL].argmax())  # the lowest of equals
    column, chosen, apart = len(grid), {}, False
    if totals.scorer.fixed_threshold is None:
        column, criterion, apart = best, "best", not totals.scorer.protocol.one_threshold
        if totals.scorer.best == "gt_known_plus_top1_loc":
            column = int((largest[V1_LEVEL] + totals.top1_hits[: len(grid)]).argmax())
            criterion = "best GT-known + Top-1 Loc"
        chosen = {"threshold": grid[column], "threshold_source": f"{criterion} on the evaluated set (oracle)"}
    reported = list(range(len(grid))) if apart else [column]
    levels = totals.largest_hits[:, reported].max(axis=1)
    constant = (100.0 * (totals.constant_hits / boxed)).tolist()
    return {
        **chosen,
        **_accuracies(totals, reported),
        "gt_known_top5": _percent(totals.any_class_hits[reported].max(), boxed) if totals.any_classes else None,
        "box_acc": _by_level(_percents(levels, boxed)),
        "box_acc_mean": _percent(levels[V2_LEVELS].mean(), boxed),
        "max_box_acc_v1": _percent(largest[V1_LEVEL].max(), boxed),
        "max_box_acc_v2": _percent(any_[V2_LEVELS].max(axis=1).mean(), boxed),
        "max_box_acc_v2_largest": _percent(largest[V2_LEVELS].max(axis=1).mean(), boxed),
        "max_box_acc_v2_one_threshold": _percent(largest[V2_LEVELS].mean(axis=0).max(), boxed),
        "errors": dict(zip(ERROR_CATEGORIES, _percents(totals.errors[:, column], boxed), strict=True)),
        "oracle": Oracle(
            grid[best], **_accuracies(totals, [best]), box_acc=_by_level(_percents(largest.max(axis=1), boxed))
        ),
        "curve": {"threshold": list(grid), **_by_level(_percents(largest, boxed))},
        "constant_boxes": dict(zip(CONSTANT_BOXES, map(_by_level, constant), strict=True)),
    }


def _accuracies(totals: Totals, columns: Sequence[int]) -> dict[str, Any]:
    """Return GT-known and Top-k Loc, each at its best one of some thresholds, in percent."""
    hits = np.array([totals.largest_hits[V1_LEVEL], totals.top1_hits, totals.top5_hits])[:, columns].max(axis=1)
    gt_known, *top_k = _percents(hits, totals.boxed)
    top1_loc, top5_loc = top_k if totals.classified else (None, None)
    return {"gt_known": gt_known, "top1_loc": top1_loc, "top5_loc": top5_loc}


def _percent(part: float, whole: int) -> float:
    return 100.0 * float(part) / whole


def _percents(counts: Counts, images: int) -> list[Any]:
    percents: list[Any] = (100.0 * counts / images).tolist()
    return percents


def _by_level(values: list[Any]) -> dict[str, Any]:
    return dict(zip(map(str, IOU_LEVELS), values, strict=True))
