"""The numbers of a report, run beside run: metrics, their differences, kinds of error, and classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tokenloc.metrics import ERROR_CATEGORIES
from tokenloc.metrics.evaluation import METRIC_NAMES
from tokenloc.metrics.intervals import HITS, Comparison, compare
from tokenloc.metrics.stored_boxes import StoredBoxes

Row = Mapping[str, Any]

EXPLAINED = {
    **{f"box_acc_{level}": f"the box has IoU {level} or more" for level in ("0.3", "0.7", "0.8", "0.9")},
    "gt_known": "the box of the true class has IoU 0.5 or more",
    "top1_loc": "class and box both right",
    "top5_loc": "one of five classes right, and its box",
    "max_box_acc_v1": "at the threshold that is best on these images",
    "max_box_acc_v2": "mean over IoU 0.3, 0.5, 0.7, each at its own best threshold",
    "pxap": "average precision of pixels",
    "piou": "best IoU of pixels",
}
SURE = 0.05
KINDS = {
    "correct": ("Correct", "class right, IoU over 0.5"),
    "classification": ("Wrong class", "whatever the box"),
    "multi_instance": ("Several in one", "one box around two or more objects"),
    "part": ("Only a part", "most of the box lies on the object, but misses much of it"),
    "more": ("Too much", "the box has the object, and much around it"),
    "other": ("Other", "none of these"),
}
"""How ``ERROR_CATEGORIES`` are told."""


@dataclass(frozen=True, eq=False)
class ReportRun:
    """One evaluation, as it was read.

    Args:
        name: By which it is told from the others.
        metrics: Its ``metrics.json``.
        rows: Its ``images.csv``, see ``read_table``.
        curve: Accuracy by threshold, see ``Evaluation.curve``; None without boxes.
        boxes: At all thresholds; None where there are none.
        notes: What a reader should know about it.
    """

    name: str
    metrics: Mapping[str, Any]
    rows: Sequence[Row]
    curve: Mapping[str, Sequence[float]] | None = None
    boxes: StoredBoxes | None = None
    notes: Sequence[str] = field(default_factory=list)

    def metric(self, name: str) -> float | None:
        """Return a metric of ``METRIC_NAMES``, in percent."""
        metrics = self.metrics["metrics"]
        if name.startswith("box_acc_"):
            return (metrics.get("box_acc") or {}).get(name.removeprefix("box_acc_"))
        value: float | None = metrics.get(name)
        return value

    def interval(self, name: str) -> list[float] | None:
        """Return the 95 % interval of a metric, where it is known."""
        interval: list[float] | None = self.metrics.get("confidence", {}).get(name)
        return interval

    @property
    def model(self) -> str:
        """Method and backbone in words; empty where they are not known."""
        model = self.metrics.get("model") or {}
        return f"{model['method']} on {model['backbone']}" if {"method", "backbone"} <= set(model) else ""


def kind_of(row: Row) -> str | None:
    """Return an image's kind of error; where there is no box to judge, whether the class is right."""
    kind: str | None = row["error"]
    if kind is not None or row["top1_cls"] is None:
        return kind
    return "correct" if row["top1_cls"] else "classification"


class Cell(NamedTuple):
    """A metric of a run: its value and 95 % interval; if it is the greatest of several, and surely so.

    Sure is what differs from each other run with p < 0.05.
    """

    value: float | None
    interval: list[float] | None
    best: bool
    sure: bool


class MetricLine(NamedTuple):
    """A metric: its name, what it is, a cell for each run, and how each run after the first differs from the first."""

    key: str
    name: str
    description: str
    cells: list[Cell]
    compared: list[Comparison | None]


def metric_lines(runs: Sequence[ReportRun]) -> list[MetricLine]:
    """Return the metrics that a run has, in order; runs are of the same images."""
    lines = []
    for key, name in METRIC_NAMES.items():
        if any(run.metric(key) is not None for run in runs):
            cells = [_cell(runs, run, key) for run in runs]
            compared = [_compared(runs[0], run, key) for run in runs[1:]]
            lines.append(MetricLine(key, name, EXPLAINED.get(key, ""), cells, compared))
    return lines


def _cell(runs: Sequence[ReportRun], run: ReportRun, key: str) -> Cell:
    value = run.metric(key)
    others = [other for other in runs if other is not run]
    best = value is not None and bool(others) and all(value > (other.metric(key) or 0.0) for other in others)
    compared = [_compared(other, run, key) for other in others] if best else [None]
    sure = all(comparison is not None and comparison.p_value < SURE for comparison in compared)
    return Cell(value, run.interval(key), best, sure)


def _compared(first: ReportRun, second: ReportRun, metric: str) -> Comparison | None:
    level = metric.removeprefix("box_acc_")
    if metric not in HITS and level == metric:
        return None
    one, other = (
        {row["id"]: row[metric] if level == metric else _hit(row, float(level)) for row in run.rows}
        for run in (first, second)
    )
    return compare(one, other, metric)


def _hit(row: Row, level: float) -> float | None:
    return None if row["largest"] is None else float(row["largest"] >= level)


class KindShare(NamedTuple):
    """How many images of a run are of a kind."""

    key: str
    name: str
    description: str
    images: int
    percent: float


def kind_shares(run: ReportRun) -> list[KindShare]:
    """Return the kinds of error that a run has, of those images where one is known."""
    kinds = [kind for row in run.rows if (kind := kind_of(row)) is not None]
    counts = {key: kinds.count(key) for key in ERROR_CATEGORIES}
    return [
        KindShare(key, *KINDS[key], count, 100.0 * count / len(kinds)) for key, count in counts.items() if count > 0
    ]


CLASS_COLUMNS = {"top1_cls": "Cls", "top1_loc": "Loc", "gt_known": "GT-known", "largest": "mean IoU"}
"""What the table of classes has of each run: a mean over a class's images, in percent but for the IoU."""


class ClassLine(NamedTuple):
    """A class: its name, how many images, and for each run its columns."""

    name: str
    images: int
    runs: list[list[float | None]]


def class_columns(runs: Sequence[ReportRun]) -> list[str]:
    """Return those of ``CLASS_COLUMNS`` that any run has."""
    return [key for key in CLASS_COLUMNS if any(row[key] is not None for run in runs for row in run.rows)]


def class_lines(runs: Sequence[ReportRun]) -> list[ClassLine]:
    """Return a line for each true class, in order of their names."""
    columns = class_columns(runs)
    groups = [_by_label(run.rows) for run in runs]
    return [
        ClassLine(name, len(groups[0][name]), [[_mean(group[name], column) for column in columns] for group in groups])
        for name in sorted(groups[0])
    ]


def _by_label(rows: Iterable[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["label"], []).append(row)
    return groups


def _mean(rows: Iterable[Row], column: str) -> float | None:
    known = [row[column] for row in rows if row[column] is not None]
    return float(np.mean(known)) * (1.0 if column == "largest" else 100.0) if known else None
