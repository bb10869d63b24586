"""Runs side by side: their metrics, and mean and standard deviation of repeats with different seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from tokenloc.commands.console import percents, print_table
from tokenloc.reporting.runs import METRICS, Run, read_run

SEED = "seed-"
COLUMNS = {
    "Cls@1": "top1_cls",
    "Loc@1": "top1_loc",
    "GT-kn.": "gt_known",
    "IoU.7": "box_acc_0.7",
    "IoU.9": "box_acc_0.9",
    "V2": "max_box_acc_v2",
}
"""The metrics that are printed; files have all."""


def read_runs(folder: Path) -> list[Run]:
    """Read a run or, if ``folder`` has no metrics of its own, the runs FOLDER/seed-N of `train --seeds`."""
    repeats = [path.parent for path in folder.glob(f"{SEED}*/{METRICS}")]
    if (folder / METRICS).is_file() or not repeats:
        return [read_run(folder)]
    return [read_run(path) for path in sorted(repeats, key=lambda path: (len(path.name), path.name))]


def require_one_protocol(runs: Sequence[Run]) -> None:
    """Raise ValueError if two runs were evaluated under different protocols: their metrics cannot be compared."""
    for run in runs[1:]:
        if run.protocol != runs[0].protocol:
            raise ValueError(
                f"{runs[0].name} is under protocol {runs[0].protocol!r}, {run.name} under {run.protocol!r}: their "
                "metrics cannot be compared; evaluate both under one protocol"
            )


def mean_and_spread(runs: Sequence[Run]) -> dict[str, tuple[float, float | None]]:
    """Return (mean, sample standard deviation) of each metric that all runs have; a single run has no deviation.

    >>> runs = [Run(Path("a"), "a", {"metrics": {"gt_known": value}}) for value in (80.0, 84.0)]
    >>> [round(value, 3) for value in mean_and_spread(runs)["gt_known"]]
    [82.0, 2.828]
    """
    spreads = {}
    for name in runs[0].metrics:
        values = [value for run in runs if (value := run.metrics.get(name)) is not None]
        if len(values) == len(runs):
            spreads[name] = (mean(values), stdev(values) if len(values) > 1 else None)
    return spreads


def print_runs(groups: Mapping[str, Sequence[Run]]) -> None:
    """Print a row for each run, and below several runs of a group their mean and sample standard deviation."""
    runs = [run for group in groups.values() for run in group]
    counts = {run.content["images"] for run in runs}
    images = f", {counts.pop()} images" if len(counts) == 1 else ""
    rows = []
    for group in groups.values():
        rows += [[run.name, *percents(*(run.metrics.get(metric) for metric in COLUMNS.values()))] for run in group]
        if len(group) > 1:
            spreads = [mean_and_spread(group).get(metric, (None, None)) for metric in COLUMNS.values()]
            rows.append([f"mean of {len(group)}", *percents(*(center for center, _ in spreads))])
            rows.append(["standard deviation", *percents(*(spread for _, spread in spreads))])
    print_table(["", *COLUMNS], rows, f"protocol {runs[0].protocol}{images}, percent")


def groups_to_json(groups: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    """Return the metrics of all runs, and their mean and standard deviation by group, as plain values."""
    return {
        name: {
            "runs": [
                {"folder": str(run.folder), "images": run.content["images"], "metrics": run.metrics} for run in runs
            ],
            "metrics": {
                metric: {"mean": center, "standard_deviation": spread}
                for metric, (center, spread) in mean_and_spread(runs).items()
            },
        }
        for name, runs in groups.items()
    }
