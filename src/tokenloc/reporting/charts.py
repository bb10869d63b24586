"""Charts of evaluations and trainings, drawn by matplotlib for PNG files and as SVG in the report."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tokenloc._files import atomic_write, write_text
from tokenloc.metrics import iou_by_size, iou_distribution
from tokenloc.metrics.images import ImageRow

LEVELS = ("0.5", "0.7", "0.9")
"""The IoU levels of the accuracy chart; each has a dash pattern of ``DASHES``."""

DASHES = ("-", "--", ":")
BINS = 20
LEFT, RIGHT, TOP, BOTTOM = 34, 350, 8, 190
"""The plot area of an SVG chart, which is 360 by 220 pixels."""


class Line(NamedTuple):
    """A curve. ``run`` chooses its color (None: the next one), ``dash`` its pattern."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    run: int | None = None
    dash: int = 0


class Marker(NamedTuple):
    """A vertical line at ``x``: the reported threshold of a run."""

    run: int
    x: float


@dataclass(frozen=True)
class Chart:
    """A chart of lines.

    Args:
        title: Of the chart.
        xlabel: Of the x axis.
        lines: In drawing order.
        xmax: The x axis ends there and starts at 0; None fits it to the lines, which SVG does not support.
        ymax: The same of the y axis.
        unit: Of the y values.
        markers: Vertical lines.
        note: A sentence to show below the chart.
        description: What the chart shows, in words, for screen readers.
    """

    title: str
    xlabel: str
    lines: Sequence[Line]
    xmax: float | None = None
    ymax: float | None = None
    unit: str = ""
    markers: Sequence[Marker] = ()
    note: str = ""
    description: str = ""

    def draw(self, axes: Axes) -> None:
        """Draw the chart with matplotlib."""
        for line in self.lines:
            color = None if line.run is None else f"C{line.run}"
            style = DASHES[line.dash] if self.xmax else ".-"
            axes.plot(line.x, line.y, style, color=color, label=line.label)
        for marker in self.markers:
            axes.axvline(marker.x, color=f"C{marker.run}", linewidth=0.8)
        axes.set(title=self.title, xlabel=self.xlabel, ylabel=self.unit)
        for limit, set_limits in ((self.xmax, axes.set_xlim), (self.ymax, axes.set_ylim)):
            if limit is not None:
                set_limits(0, limit)
        if any(line.label for line in self.lines):
            axes.legend(fontsize="small")

    def svg_x(self, x: float) -> float:
        """Return the horizontal position of a value, in pixels of the SVG."""
        return round(LEFT + (RIGHT - LEFT) * x / (self.xmax or 1.0), 1)

    def svg_y(self, y: float) -> float:
        """Return the vertical position of a value, in pixels of the SVG."""
        return round(BOTTOM - (BOTTOM - TOP) * y / (self.ymax or 1.0), 1)

    def svg_path(self, line: Line) -> str:
        """Return the SVG path of a line; a single point is a dot, drawn by its line cap.

        >>> Chart("", "", [], 1.0, 100.0).svg_path(Line("", [0, 1], [0, 100]))
        'M34.0 190.0L350.0 8.0'
        """
        points = [f"{self.svg_x(x):.1f} {self.svg_y(y):.1f}" for x, y in zip(line.x, line.y, strict=True)]
        return "M" + "L".join(points) + ("h0" if len(points) == 1 else "")


class ChartData(NamedTuple):
    """What the charts show of one evaluation.

    Args:
        name: Of the run.
        curve: See ``Evaluation.curve``; None without boxes.
        threshold: The reported map threshold.
        iou: Of each image with a true box.
        object_fraction: Of the same images.
    """

    name: str
    curve: Mapping[str, Sequence[float]] | None
    threshold: float | None
    iou: Sequence[float]
    object_fraction: Sequence[float]


def evaluation_charts(evaluations: Sequence[ChartData]) -> list[Chart]:
    """Return accuracy by threshold, distribution of IoU, and IoU by object size; without those that lack data."""
    charts = (_accuracy_chart(evaluations), _iou_chart(evaluations), _size_chart(evaluations))
    return [chart for chart in charts if chart.lines]


def _accuracy_chart(evaluations: Sequence[ChartData]) -> Chart:
    lines, markers, description = [], [], []
    for run, (name, curve, threshold, *_) in enumerate(evaluations):
        if curve is None:
            continue
        lines += [
            Line(f"{name} IoU {level}".strip(), curve["threshold"], curve[level], run, dash)
            for dash, level in enumerate(LEVELS)
        ]
        best = int(np.argmax(curve["0.5"]))
        description.append(f"{name}: best GT-known {curve['0.5'][best]:.1f} % at {curve['threshold'][best]:g}")
        markers += [] if threshold is None else [Marker(run, threshold)]
    text = ". ".join(description)
    return Chart("Accuracy by threshold", "map threshold", lines, 1.0, 100.0, "%", markers, description=text)


def _iou_chart(evaluations: Sequence[ChartData]) -> Chart:
    edges, lines, medians = np.linspace(0, 1, BINS + 1), [], []
    for run, data in enumerate(evaluations):
        if data.iou:
            percent = 100 * np.histogram(data.iou, edges)[0] / len(data.iou)
            outline = np.concatenate([[0.0], np.repeat(percent, 2), [0.0]])
            lines.append(Line(data.name, np.repeat(edges, 2).tolist(), outline.tolist(), run))
            medians.append(f"{data.name}: median {np.median(data.iou):.2f}")
    highest = max((max(line.y) for line in lines), default=0.0)
    top = next(step for step in (10.0, 20.0, 25.0, 50.0, 100.0) if step >= highest)
    note = ". ".join(medians)
    return Chart("Distribution of IoU", "IoU of the box", lines, 1.0, top, "%", note=note, description=note)


def _size_chart(evaluations: Sequence[ChartData]) -> Chart:
    lines, description = [], []
    for run, data in enumerate(evaluations):
        if data.iou:
            edges, means = iou_by_size(data.iou, data.object_fraction)
            known = ~np.isnan(means)
            centers, means = 100 * ((edges[:-1] + edges[1:]) / 2)[known], means[known]
            lines.append(Line(data.name, centers.tolist(), means.tolist(), run))
            pairs = zip(centers, means, strict=True)
            description.append(f"{data.name}: " + ", ".join(f"{mean:.2f} at {center:.0f} %" for center, mean in pairs))
    text = ". ".join(description)
    return Chart("Mean IoU by object size", "object size in % of the image", lines, 100.0, 1.0, description=text)


def save_curves(
    curve: Mapping[str, Sequence[float]] | None,
    rows: Iterable[ImageRow],
    folder: Path,
    threshold: float | None = None,
) -> None:
    """Draw ``curves.png`` and write its data as CSV; do nothing if no image has a box.

    ``threshold.csv`` has the accuracy of the largest component by map threshold, a column for each IoU level (SAT,
    Fig. 7); ``iou.csv`` a histogram of the IoU of correct boxes (IoU ≥ 0.5; Fig. 5); ``iou_by_size.csv`` the mean IoU
    of images by object size (Fig. 6).

    Args:
        curve: Of an ``Evaluation``.
        rows: Its images, at the threshold that it reports.
        folder: Where to write.
        threshold: The reported one, marked in the chart.
    """
    boxed = [(row.largest, row.object_fraction) for row in rows if row.largest is not None]
    if curve is None or not boxed:
        return
    ious, fractions = zip(*boxed, strict=True)
    spread, (edges, means) = iou_distribution(ious), iou_by_size(ious, fractions)
    _write_columns(folder / "threshold.csv", curve)
    _write_columns(folder / "iou.csv", {"from": spread.edges[:-1], "to": spread.edges[1:], "images": spread.counts})
    _write_columns(folder / "iou_by_size.csv", {"from": edges[:-1], "to": edges[1:], "mean_iou": means})
    save_charts(evaluation_charts([ChartData("", curve, threshold, ious, fractions)]), folder / "curves.png")


def _write_columns(path: Path, columns: Mapping[str, Iterable[float]]) -> None:
    """Write columns of numbers as CSV; NaN is written as an empty cell."""
    rows = [["" if np.isnan(value) else f"{value:g}" for value in row] for row in zip(*columns.values(), strict=True)]
    write_text(path, "".join(",".join(row) + "\n" for row in [list(columns), *rows]))


def save_charts(charts: Sequence[Chart], path: Path) -> None:
    """Draw charts side by side into an image file."""
    figure = Figure(figsize=(4.2 * len(charts), 3.2), layout="constrained")
    for axes, chart in zip(figure.subplots(1, len(charts), squeeze=False)[0], charts, strict=True):
        chart.draw(axes)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)


Curve = list[tuple[float, float]]


def read_curves(logs: Path) -> dict[str, Curve]:
    """Return what training logged, by name: (epoch, value), averaged over the steps of an epoch.

    Args:
        logs: OUT/logs of a run. A resumed run has several versions in it; for an epoch in several of them the latest
            version counts.
    """
    curves: dict[str, dict[float, float]] = {}
    for path in sorted(logs.glob("version_*/metrics.csv"), key=lambda path: int(path.parent.name.split("_")[1])):
        values: dict[str, dict[float, list[float]]] = {}
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                for name, text in row.items():
                    if text and name not in ("epoch", "step"):
                        values.setdefault(name, {}).setdefault(float(row["epoch"]), []).append(float(text))
        for name, epochs in values.items():
            curves.setdefault(name, {}).update({epoch: sum(each) / len(each) for epoch, each in epochs.items()})
    return {name: sorted(epochs.items()) for name, epochs in curves.items()}


def save_training_curves(logs: Path, path: Path) -> None:
    """Draw the curves of a training, one chart for each group (train, val, learned/NAME); do nothing without logs.

    SCM's charts ``similarity_weight`` and ``threshold`` are its paper's Fig. 7: lambda and beta of each block.
    """
    groups: dict[str, list[Line]] = {}
    for name, curve in read_curves(logs).items():
        *group, last = name.removeprefix("learned/").split("/")
        group = ["accuracy, %"] if last.endswith("_cls") else group
        epochs, values = zip(*curve, strict=True)
        groups.setdefault("/".join(group) or last, []).append(Line(last, epochs, values))
    if groups:
        save_charts([Chart(title, "epoch", lines) for title, lines in groups.items()], path)
