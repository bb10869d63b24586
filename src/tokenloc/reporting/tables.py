"""The tables of a report: metrics and their differences, kinds of error, and classes, for runs on the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tokenloc.metrics.evaluation import METRIC_NAMES
from tokenloc.metrics.intervals import HITS, Comparison, compare
from tokenloc.reporting.runs import Run

DESCRIPTIONS = {
    **{f"box_acc_{level}": f"the box has IoU {level} or more" for level in ("0.3", "0.7", "0.8", "0.9")},
    "gt_known": "the box of the true class has IoU 0.5 or more",
    "top1_loc": "class and box are right",
    "top5_loc": "one of five classes is right, and its box",
    "max_box_acc_v1": "at the best threshold for these images",
    "max_box_acc_v2": "mean over IoU 0.3, 0.5, 0.7, each at its best threshold",
    "pxap": "average precision of pixels",
    "piou": "best IoU of pixels",
}
ERRORS = {
    "correct": ("Correct", "class right, IoU over 0.5"),
    "classification": ("Wrong class", "whatever the box"),
    "multi_instance": ("Several in one", "one box around two or more objects"),
    "part": ("Only a part", "most of the box is on the object, but misses much of it"),
    "more": ("Too much", "the box has the object and much around it"),
    "other": ("Other", "none of these"),
    "unjudged": ("Class right, no true box", "the box is not judged"),
}  # name and description of each of ERROR_CATEGORIES, and of the kind of other images
KINDS = tuple(ERRORS)
CLASS_COLUMNS = {"top1_cls": "Cls", "top1_loc": "Loc", "gt_known": "GT-known", "largest": "mean IoU"}  # see _mean


class Cell(NamedTuple):
    """A metric of a run; the best of several is significant if it differs from each other one with p < 0.05.

    That of an oracle's threshold is never significant beside a run without one.
    """

    value: float | None
    interval: list[float] | None
    best: bool
    significant: bool


class MetricRow(NamedTuple):
    """A metric: a cell for each run, and the comparison of each run after the first with the first."""

    key: str
    name: str
    description: str
    cells: list[Cell]
    compared: list[Comparison | None]


def metric_table(runs: Sequence[Run]) -> list[MetricRow]:
    """Return a row for each metric that a run has."""
    rows = []
    for key, name in METRIC_NAMES.items():
        if any(run.metrics.get(key) is not None for run in runs):
            cells, compared = [_cell(runs, run, key) for run in runs], [_compare(runs[0], run, key) for run in runs[1:]]
            rows.append(MetricRow(key, name, DESCRIPTIONS.get(key, ""), cells, compared))
    return rows


def _cell(runs: Sequence[Run], run: Run, key: str) -> Cell:
    value = run.metrics.get(key)
    others = [other for other in runs if other is not run]
    best = value is not None and bool(others) and all(value > (other.metrics.get(key) or 0.0) for other in others)
    compared = [_compare(other, run, key) for other in others] if best else [None]
    fair = not any(run.oracle and not other.oracle for other in others)
    significant = fair and all(comparison is not None and comparison.p_value < 0.05 for comparison in compared)
    interval = (run.content.get("confidence") or {}).get(key)
    if interval and interval[0] == interval[1]:  # all images alike, as often with few: it says nothing
        interval = None
    return Cell(value, interval, best, significant)


def _compare(first: Run, second: Run, metric: str) -> Comparison | None:
    """Compare two runs image by image; None for a metric that is not a mean of hits."""
    if metric not in HITS and not metric.startswith("box_acc_"):
        return None

    def hit(row: Mapping[str, Any]) -> float | None:
        value: float | None = row[metric if metric in HITS else "largest"]
        return value if metric in HITS or value is None else float(value >= float(metric.removeprefix("box_acc_")))

    one, other = ({row["id"]: hit(row) for row in run.rows} for run in (first, second))
    return compare(one, other, metric)


def error_of(row: Mapping[str, Any]) -> str | None:
    """Return an image's kind of error, one of ``KINDS``; None without a true box and a predicted class."""
    error: str | None = row["error"]
    if error is not None or row["top1_cls"] is None:
        return error
    return "unjudged" if row["top1_cls"] else "classification"


def error_counts(run: Run) -> dict[str, tuple[int, float]]:
    """Return how many images of a run have each kind of error, and in percent of the images where one is known."""
    errors = [error for row in run.rows if (error := error_of(row)) is not None]
    counts = {key: errors.count(key) for key in KINDS}
    return {key: (count, 100.0 * count / len(errors)) for key, count in counts.items() if count}


def class_table(runs: Sequence[Run]) -> tuple[list[str], list[tuple[str, int, list[list[float | None]]]]]:
    """Return the columns that a run has, and for each true class its name, image count, and columns of each run."""
    keys = [key for key in CLASS_COLUMNS if any(row[key] is not None for run in runs for row in run.rows)]
    classes: dict[str, list[list[Mapping[str, Any]]]] = {row["label"]: [[] for _ in runs] for row in runs[0].rows}
    for index, run in enumerate(runs):
        for row in run.rows:
            classes[row["label"]][index].append(row)
    return [CLASS_COLUMNS[key] for key in keys], [
        (name, len(groups[0]), [[_mean(rows, key) for key in keys] for rows in groups])
        for name, groups in sorted(classes.items())
    ]


def _mean(rows: Sequence[Mapping[str, Any]], column: str) -> float | None:
    known = [row[column] for row in rows if row[column] is not None]
    return float(np.mean(known)) * (1.0 if column == "largest" else 100.0) if known else None
