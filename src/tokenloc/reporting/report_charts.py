"""The curves of a report as SVG: accuracy by threshold, the spread of IoU, and IoU by size of the object."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenloc.metrics import iou_by_size
from tokenloc.reporting.report_numbers import ReportRun

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 34, 10, 8, 30
"""The page's pixels that a chart has, and those around its axes."""

LEVELS = ("0.5", "0.7", "0.9")
"""IoU levels of the first chart, each with a dash of its own."""

BINS = 20


class Line(NamedTuple):
    """A curve: of which run, with which dash, its SVG path, and what it is."""

    run: int
    dash: int
    path: str
    title: str


class Marker(NamedTuple):
    """The reported threshold of a run, where the chart has it."""

    run: int
    x: float


class Chart(NamedTuple):
    """A chart of lines; ticks are (place, text).

    Attributes:
        title: Of the chart.
        label: What it shows, for those who do not see it.
        x: What the x axis is.
        lines: In the order to be drawn in.
        x_ticks: Along the lower edge.
        y_ticks: Along the left one.
        markers: Vertical lines, which the slider moves.
        note: What the chart shows in numbers, to stand below it.
    """

    title: str
    label: str
    x: str
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    markers: Sequence[Marker] = ()
    note: str = ""


def charts(runs: Sequence[ReportRun]) -> list[Chart]:
    """Return the charts that the runs have the data of."""
    return [chart for chart in (_by_threshold(runs), _spread(runs), _by_size(runs)) if chart.lines]


def _by_threshold(runs: Sequence[ReportRun]) -> Chart:
    lines, markers, told = [], [], []
    for number, run in enumerate(runs):
        if run.curve is None:
            continue
        thresholds = run.curve["threshold"]
        for dash, level in enumerate(LEVELS):
            path = _path(thresholds, [percent / 100.0 for percent in run.curve[level]])
            lines.append(Line(number, dash, path, f"{run.name}, IoU {level}"))
        best = int(np.argmax(run.curve["0.5"]))
        told.append(f"{run.name}: GT-known is best, {run.curve['0.5'][best]:.1f} %, at {thresholds[best]:g}")
        if run.metrics.get("threshold") is not None:
            markers.append(Marker(number, _x(run.metrics["threshold"])))
    return Chart(
        "Accuracy by threshold", ". ".join(told), "map threshold", lines, _ticks("{:g}"), _percents(1.0), markers
    )


def _spread(runs: Sequence[ReportRun]) -> Chart:
    edges = np.linspace(0, 1, BINS + 1)
    known = [np.array([row["largest"] for row in run.rows if row["largest"] is not None]) for run in runs]
    shares = [np.histogram(iou, edges)[0] / max(1, len(iou)) for iou in known]
    highest = max([float(share.max()) for share in shares] + [0.05])
    top = next(step for step in (0.1, 0.2, 0.25, 0.5, 1.0) if step >= highest)
    lines = [
        Line(number, 0, _steps(edges, share / top), run.name)
        for number, (run, share) in enumerate(zip(runs, shares, strict=True))
        if len(known[number])
    ]
    medians = [f"{run.name}: median {np.median(iou):.2f}" for run, iou in zip(runs, known, strict=True) if len(iou)]
    told = ". ".join(medians)
    return Chart("Spread of IoU", told, "IoU of the box", lines, _ticks("{:g}"), _percents(top), note=told)


def _by_size(runs: Sequence[ReportRun]) -> Chart:
    lines, told = [], []
    for number, run in enumerate(runs):
        boxed = [row for row in run.rows if row["largest"] is not None]
        if not boxed:
            continue
        edges, means = iou_by_size([row["largest"] for row in boxed], [row["object_fraction"] for row in boxed])
        centres, there = (edges[:-1] + edges[1:]) / 2, ~np.isnan(means)
        lines.append(Line(number, 0, _path(centres[there], means[there]), run.name))
        pairs = zip(centres[there], means[there], strict=True)
        told.append(f"{run.name}: " + ", ".join(f"{mean:.2f} at {100 * share:.0f} %" for share, mean in pairs))
    y_ticks = [(_y(value), f"{value:g}") for value in (0, 0.5, 1)]
    x_ticks = [(_x(value), f"{100 * value:.0f} %") for value in (0, 0.5, 1)]
    return Chart("Mean IoU by size of the object", ". ".join(told), "share of the image", lines, x_ticks, y_ticks)


def _x(value: float) -> float:
    return round(LEFT + value * (WIDTH - LEFT - RIGHT), 1)


def _y(value: float) -> float:
    return round(HEIGHT - BOTTOM - value * (HEIGHT - TOP - BOTTOM), 1)


def _path(xs: Iterable[float], ys: Iterable[float]) -> str:
    """Return the SVG path through points in [0, 1]; a lone point is a dot, as line caps draw it.

    >>> _path([0, 1], [0, 1])
    'M34.0 190.0L350.0 8.0'
    """
    points = [f"{_x(x):.1f} {_y(y):.1f}" for x, y in zip(xs, ys, strict=True)]
    return "M" + "L".join(points) + ("h0" if len(points) == 1 else "")


def _steps(edges: NDArray[np.float64], values: NDArray[np.float64]) -> str:
    """Return the path of a histogram's outline, from the axis to the axis."""
    return _path(np.repeat(edges, 2), np.concatenate([[0.0], np.repeat(values, 2), [0.0]]))


def _ticks(form: str) -> list[tuple[float, str]]:
    return [(_x(value), form.format(value)) for value in (0, 0.25, 0.5, 0.75, 1)]


def _percents(top: float) -> list[tuple[float, str]]:
    return [(_y(part), f"{100 * top * part:g} %") for part in (0, 0.5, 1)]
