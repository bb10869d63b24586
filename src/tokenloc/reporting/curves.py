"""Curves of an evaluation, as an image and as data: accuracy by threshold, the spread of IoU, IoU by object size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tokenloc._files import atomic_write, write_text
from tokenloc.metrics import iou_by_size, iou_distribution
from tokenloc.metrics.images import ImageRow


def save_curves(curve: Mapping[str, Sequence[float]] | None, rows: Iterable[ImageRow], folder: Path) -> None:
    """Draw ``curves.png`` and write its three panels as CSV; nothing where no image has a box.

    ``threshold.csv`` is the accuracy of the largest component by map threshold, a column for each IoU level (SAT,
    Fig. 7); ``iou.csv`` how many boxes of IoU ≥ 0.5 have which IoU (Fig. 5); ``iou_by_size.csv`` the mean IoU of
    images by their object's share of the image (Fig. 6).

    Args:
        curve: of an ``Evaluation``.
        rows: its images, at the threshold that it reports.
        folder: to write to.
    """
    boxed = [(row.largest, row.object_fraction) for row in rows if row.largest is not None]
    if curve is None or not boxed:
        return
    ious, shares = zip(*boxed, strict=True)
    spread, (edges, means) = iou_distribution(ious), iou_by_size(ious, shares)
    _write_columns(folder / "threshold.csv", curve)
    _write_columns(folder / "iou.csv", {"from": spread.edges[:-1], "to": spread.edges[1:], "images": spread.counts})
    _write_columns(folder / "iou_by_size.csv", {"from": edges[:-1], "to": edges[1:], "mean_iou": means})
    figure = Figure(figsize=(12.6, 3.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _draw_accuracies(left, curve)
    middle.stairs(spread.counts, spread.edges, fill=True)
    median = "" if spread.median is None else f", median {spread.median:.2f}"
    middle.set(title=f"boxes of IoU 0.5 and more{median}", xlabel="IoU", ylabel="images")
    right.stairs(means, edges, baseline=None)
    right.set(
        title="IoU by size of the object", xlabel="share of the image", ylabel="mean IoU", xlim=(0, 1), ylim=(0, 1)
    )
    with atomic_write(folder / "curves.png") as temporary:
        figure.savefig(temporary, dpi=120)


def _draw_accuracies(axes: Axes, curve: Mapping[str, Sequence[float]]) -> None:
    for level, accuracies in curve.items():
        if level != "threshold":
            axes.plot(curve["threshold"], accuracies, label=f"IoU {level}")
    axes.set(title="accuracy by map threshold", xlabel="threshold", ylabel="%", ylim=(0, 100))
    axes.legend(fontsize="small")


def _write_columns(path: Path, columns: Mapping[str, Iterable[float]]) -> None:
    """Write columns of numbers as CSV; nothing where a number is none."""
    lines = [",".join(columns)]
    for values in zip(*columns.values(), strict=True):
        lines.append(",".join("" if value != value else f"{value:g}" for value in values))
    write_text(path, "\n".join(lines) + "\n")
