"""Charts of evaluations and trainings, drawn by matplotlib for PNG files and as SVG in the report."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from tokenloc._files import atomic_write, write_text
from tokenloc.metrics import iou_by_size
from tokenloc.reporting.runs import Run, read_run

DASHES = {"0.5": "-", "0.7": "--", "0.9": ":"}  # of the IoU levels in the accuracy chart
BINS = 20
LEFT, RIGHT, TOP, BOTTOM = 34, 350, 8, 190  # the plot area of an SVG chart of 360 by 220 pixels


class Line(NamedTuple):
    """A curve; ``run`` chooses its color (None: the next one), ``dash`` its pattern."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    run: int | None = None
    dash: int = 0


@dataclass
class Chart:
    """Lines, and vertical markers (run, x) at the reported thresholds; ``notes`` describe them in words."""

    title: str
    xlabel: str
    xmax: float | None = None  # axes start at 0; None fits them to the lines, only in matplotlib
    ymax: float | None = None
    unit: str = ""
    lines: list[Line] = field(default_factory=list)
    markers: list[tuple[int, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def svg_x(self, x: float) -> float:
        """Return the horizontal position of a value, in pixels of the SVG."""
        return round(LEFT + (RIGHT - LEFT) * x / (self.xmax or 1.0), 1)

    def svg_y(self, y: float) -> float:
        """Return the vertical position of a value, in pixels of the SVG."""
        return round(BOTTOM - (BOTTOM - TOP) * y / (self.ymax or 1.0), 1)

    def svg_path(self, line: Line) -> str:
        """Return the SVG path of a line; a single point is a dot, drawn by its line cap.

        >>> Chart("", "", 1.0, 100.0).svg_path(Line("", [0, 1], [0, 100]))
        'M34.0 190.0L350.0 8.0'
        """
        points = [f"{self.svg_x(x):.1f} {self.svg_y(y):.1f}" for x, y in zip(line.x, line.y, strict=True)]
        return "M" + "L".join(points) + ("h0" if len(points) == 1 else "")


def evaluation_charts(runs: Sequence[Run]) -> list[Chart]:
    """Return accuracy by threshold, distribution of IoU, and IoU by object size; without those that lack data."""
    accuracy = Chart("Accuracy by threshold", "map threshold", 1.0, 100.0, "%")
    distribution = Chart("Distribution of IoU", "IoU of the box", 1.0, 100.0, "%")
    sizes = Chart("Mean IoU by object size", "object in % of the image", 100.0, 1.0)
    highest = 0.0
    for index, run in enumerate(runs):
        if run.curve is not None:
            x = run.curve["threshold"]
            for dash, level in enumerate(DASHES):
                accuracy.lines.append(Line(f"{run.name} IoU {level}".strip(), x, run.curve[level], index, dash))
            best = int(np.argmax(run.curve["0.5"]))
            accuracy.notes.append(f"{run.name}: best GT-known {run.curve['0.5'][best]:.1f} % at {x[best]:g}")
            accuracy.markers += [] if run.threshold is None else [(index, run.threshold)]
        iou, fractions = run.boxed
        if iou:
            counts, edges = np.histogram(iou, np.linspace(0, 1, BINS + 1))
            outline = np.pad(np.repeat(100 * counts / len(iou), 2), 1)
            highest = max(highest, outline.max())
            distribution.lines.append(Line(run.name, np.repeat(edges, 2).tolist(), outline.tolist(), index))
            distribution.notes.append(f"{run.name}: median {np.median(iou):.2f}")
            edges, means = iou_by_size(iou, fractions)
            centers, known = (50 * (edges[:-1] + edges[1:])).round(1), ~np.isnan(means)
            x, y = centers[known].tolist(), means[known].tolist()
            sizes.lines.append(Line(run.name, x, y, index))
            values = (f"{mean:.2f} at {center:g} %" for center, mean in zip(x, y, strict=True))
            sizes.notes.append(f"{run.name}: {', '.join(values)}")
    distribution.ymax = next(top for top in (10.0, 20.0, 25.0, 50.0, 100.0) if top >= highest)
    return [chart for chart in (accuracy, distribution, sizes) if chart.lines]


def save_curves(folder: Path, curve: Mapping[str, Sequence[float]] | None) -> None:
    """Draw figures/curves.png of the evaluation in ``folder`` and write its data as CSV; do nothing without true boxes.

    ``threshold.csv``: accuracy by map threshold for each IoU level (SAT, Fig. 7). ``iou.csv``: histogram of IoU ≥ 0.5
    (Fig. 5). ``iou_by_size.csv``: mean IoU by object size. With masks also ``mask_iou_by_size.csv`` and
    ``mask_iou_by_size.png``: IoU and object size by pixels, and the density of the images (Fig. 6).
    """
    run, figures = read_run(folder, ""), folder / "figures"
    if run.masked[0]:
        _save_mask_density(*run.masked, figures)
    iou, fractions = run.boxed
    if curve is None or not iou:
        return
    edges, means = iou_by_size(iou, fractions)
    counts, bins = np.histogram(iou, bins=25, range=(0.5, 1.0))
    _write_columns(figures / "threshold.csv", curve)
    _write_columns(figures / "iou.csv", {"from": bins[:-1], "to": bins[1:], "images": counts})
    _write_columns(figures / "iou_by_size.csv", {"from": edges[:-1], "to": edges[1:], "mean_iou": means})
    _save_charts(evaluation_charts([run]), figures / "curves.png")


def _save_mask_density(iou: Sequence[float], fractions: Sequence[float], folder: Path) -> None:
    edges, means = iou_by_size(iou, fractions)
    _write_columns(folder / "mask_iou_by_size.csv", {"from": edges[:-1], "to": edges[1:], "mean_iou": means})
    figure = Figure(figsize=(4.2, 3.2), layout="constrained")
    axes = figure.subplots()
    counts, *_ = np.histogram2d(fractions, iou, BINS, ((0, 1), (0, 1)))
    density = axes.imshow(np.ma.masked_equal(counts.T, 0), origin="lower", extent=(0, 1, 0, 1), aspect="auto")
    figure.colorbar(density, label="images")
    axes.set(
        title="IoU by object size, by masks", xlabel="object as a fraction of the pixels", ylabel="IoU of the mask"
    )
    with atomic_write(folder / "mask_iou_by_size.png") as temporary:
        figure.savefig(temporary, dpi=120)


def _write_columns(path: Path, columns: Mapping[str, Iterable[float]]) -> None:
    rows = [["" if np.isnan(value) else f"{value:g}" for value in row] for row in zip(*columns.values(), strict=True)]
    write_text(path, "".join(",".join(row) + "\n" for row in [list(columns), *rows]))


def _save_charts(charts: Sequence[Chart], path: Path) -> None:
    figure, dashes = Figure(figsize=(4.2 * len(charts), 3.2), layout="constrained"), list(DASHES.values())
    for axes, chart in zip(figure.subplots(1, len(charts), squeeze=False)[0], charts, strict=True):
        for line in chart.lines:
            color = None if line.run is None else f"C{line.run}"
            axes.plot(line.x, line.y, dashes[line.dash] if chart.xmax else ".-", color=color, label=line.label)
        for run, x in chart.markers:
            axes.axvline(x, color=f"C{run}", linewidth=0.8)
        axes.set(title=chart.title, xlabel=chart.xlabel, ylabel=chart.unit)
        if chart.xmax:
            axes.set(xlim=(0, chart.xmax), ylim=(0, chart.ymax))
        else:
            axes.xaxis.get_major_locator().set_params(integer=True)
        if any(line.label for line in chart.lines):
            axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.2))  # below, not over the lines
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)


def read_curves(logs: Path) -> dict[str, list[tuple[float, float]]]:
    """Return (epoch, mean value) by name from OUT/logs; of several versions, the latest with an epoch counts."""
    curves: dict[str, dict[float, float]] = {}
    for path in sorted(logs.glob("version_*/metrics.csv"), key=lambda path: int(path.parent.name.split("_")[1])):
        values: dict[tuple[str, float], list[float]] = {}
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                for name, text in row.items():
                    if text and name not in ("epoch", "step"):
                        values.setdefault((name, float(row["epoch"])), []).append(float(text))
        for (name, epoch), each in values.items():
            curves.setdefault(name, {})[epoch] = sum(each) / len(each)
    return {name: sorted(epochs.items()) for name, epochs in curves.items()}


def save_training_curves(logs: Path, path: Path) -> None:
    """Draw the curves of a training, one chart for each group (train, val, learned/NAME); do nothing without logs."""
    groups: dict[str, list[Line]] = {}
    for name, curve in read_curves(logs).items():
        *group, last = name.removeprefix("learned/").split("/")
        accuracy = last.endswith("_cls")
        title, label = ("accuracy, %", name) if accuracy else ("/".join(group) or last, last)
        epochs, values = zip(*((epoch + 1, value) for epoch, value in curve), strict=True)
        groups.setdefault(title, []).append(Line(label, epochs, values))
    if groups:
        _save_charts([Chart(title, "epoch", lines=lines) for title, lines in groups.items()], path)
