"""How a training went, as an image: the terms of the loss, accuracies, and what the method learned, by epoch."""

from __future__ import annotations

import csv
from pathlib import Path

from matplotlib.figure import Figure

from tokenloc._files import atomic_write

Curve = list[tuple[float, float]]


def read_curves(logs: Path) -> dict[str, Curve]:
    """Return the curves that training logged, by name: (epoch, value), values of one epoch averaged.

    Args:
        logs: OUT/logs of a run; a resumed run has several versions in it, of which later ones count where both have an
            epoch.
    """
    curves: dict[str, dict[float, float]] = {}
    for path in sorted(logs.glob("version_*/metrics.csv"), key=lambda path: int(path.parent.name.split("_")[1])):
        for name, values in _of_version(path).items():
            means = {epoch: sum(several) / len(several) for epoch, several in values.items()}
            curves[name] = {**curves.get(name, {}), **means}
    return {name: sorted(values.items()) for name, values in curves.items()}


def _of_version(path: Path) -> dict[str, dict[float, list[float]]]:
    values: dict[str, dict[float, list[float]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            for name, text in row.items():
                if text and name not in ("epoch", "step"):
                    values.setdefault(name, {}).setdefault(float(row["epoch"]), []).append(float(text))
    return values


def save_training_curves(logs: Path, path: Path) -> None:
    """Draw the curves of a run, one panel for each group (train, val, learned/NAME); nothing where there are none.

    SCM's panels ``similarity_weight`` and ``threshold`` are its paper's Fig. 7: lambda and beta of each block.
    """
    panels: dict[str, dict[str, Curve]] = {}
    for name, curve in read_curves(logs).items():
        *group, last = name.removeprefix("learned/").split("/")
        group = ["accuracy, %"] if last.endswith("_cls") else group
        panels.setdefault("/".join(group) or last, {})[name] = curve
    if not panels:
        return
    figure = Figure(figsize=(4.2 * len(panels), 3.2), layout="constrained")
    for axes, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name, curve in curves.items():
            axes.plot(*zip(*curve, strict=True), marker=".", label=name.rsplit("/", 1)[-1])
        axes.set(title=title, xlabel="epoch")
        axes.legend(fontsize="small")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)
