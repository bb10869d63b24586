"""Runs side by side: their numbers, and the mean and spread of those that differ by the seed alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.table import Table

from tokenloc.commands.console import console
from tokenloc.commands.results import METRICS, percents, read_metrics

SEED = "seed-"
COLUMNS = {
    "Cls@1": "top1_cls",
    "Loc@1": "top1_loc",
    "GT-kn.": "gt_known",
    "IoU.7": "box_acc_0.7",
    "IoU.9": "box_acc_0.9",
    "V2": "max_box_acc_v2",
}
"""What is printed of a run; its other metrics go to files."""


@dataclass(frozen=True)
class Run:
    """What a measured run reached.

    Attributes:
        folder: of the run, or of an evaluation.
        protocol: by which it was measured.
        images: how many.
        metrics: in percent, by name; those of ``box_acc`` as ``box_acc_0.5``. None where there is no such truth.
    """

    folder: Path
    protocol: str
    images: int
    metrics: dict[str, float | None]


def read_run(folder: Path) -> Run:
    """Read a run's metrics.json; raises as ``read_metrics``."""
    content = read_metrics(folder)
    return Run(folder, str(content["protocol"]), content["images"], _flat(content["metrics"]))


def _flat(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    levels = {f"box_acc_{level}": value for level, value in (metrics.get("box_acc") or {}).items()}
    return {**{name: value for name, value in metrics.items() if not isinstance(value, dict)}, **levels}


def read_runs(folder: Path) -> list[Run]:
    """Read a run, or, where ``folder`` has no numbers of its own, the runs FOLDER/seed-N of `train --seeds`."""
    repeats = [path.parent for path in folder.glob(f"{SEED}*/{METRICS}")]
    if (folder / METRICS).is_file() or not repeats:
        return [read_run(folder)]
    return [read_run(path) for path in sorted(repeats, key=lambda path: (len(path.name), path.name))]


def require_one_protocol(runs: Sequence[Run]) -> None:
    """Raise ValueError where two runs were measured by different protocols: their numbers do not compare."""
    for run in runs[1:]:
        if run.protocol != runs[0].protocol:
            raise ValueError(
                f"{runs[0].folder} is under protocol {runs[0].protocol!r}, {run.folder} under {run.protocol!r}: "
                "expected one"
            )


def mean_and_spread(runs: Sequence[Run]) -> dict[str, tuple[float, float | None]]:
    """Return (mean, sample standard deviation) of each metric that all runs have; no deviation of a single run.

    >>> one, other = (Run(Path("a"), "sat", 9, {"gt_known": value}) for value in (80.0, 84.0))
    >>> [round(value, 3) for value in mean_and_spread([one, other])["gt_known"]]
    [82.0, 2.828]
    """
    found = {}
    for name in runs[0].metrics:
        values = [value for run in runs if (value := run.metrics.get(name)) is not None]
        if len(values) == len(runs):
            found[name] = (mean(values), stdev(values) if len(values) > 1 else None)
    return found


def print_runs(groups: Mapping[str, Sequence[Run]]) -> None:
    """Print a line for each run, and below several of a name their mean and sample standard deviation."""
    every = [run for runs in groups.values() for run in runs]
    counts = {run.images for run in every}
    images = f", {every[0].images} images" if len(counts) == 1 else ""
    table = Table(title=f"protocol {every[0].protocol}{images}, percent", title_justify="left")
    table.add_column("", overflow="fold")
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for runs in groups.values():
        for run in runs:
            table.add_row(str(run.folder), *percents(*(run.metrics.get(metric) for metric in COLUMNS.values())))
        if len(runs) > 1:
            found = [mean_and_spread(runs).get(metric, (None, None)) for metric in COLUMNS.values()]
            table.add_row(f"mean of {len(runs)}", *percents(*(centre for centre, _ in found)), style="bold")
            table.add_row("standard deviation", *percents(*(spread for _, spread in found)), style="bold")
    console.print(table)


def groups_to_json(groups: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    """Return all numbers as plain values: runs, and the mean and standard deviation of several of a name."""
    return {
        name: {
            "runs": [{"folder": str(run.folder), "images": run.images, "metrics": run.metrics} for run in runs],
            "metrics": {
                metric: {"mean": centre, "standard_deviation": spread}
                for metric, (centre, spread) in mean_and_spread(runs).items()
            },
        }
        for name, runs in groups.items()
    }
