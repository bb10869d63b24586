"""Runs side by side: their metrics, and mean and standard deviation of repeats with different seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from tokenloc.commands.console import percents, print_table
from tokenloc.reporting.runs import METRICS, Run, read_run

REPEATS = ("seed-*", "draw-*")
COLUMNS = ("Cls@1", "Loc@1", "GT-kn.", "IoU.7", "IoU.9", "V2")  # the metrics that are printed; files have all
PRINTED = ("top1_cls", "top1_loc", "gt_known", "box_acc_0.7", "box_acc_0.9", "max_box_acc_v2")


def read_runs(folder: Path) -> list[Run]:
    """Read a run or, if ``folder`` contains no metrics itself, those of `train --seeds` or `--draws` in it."""
    repeats = [path.parent for pattern in REPEATS for path in folder.glob(f"{pattern}/{METRICS}")]
    if (folder / METRICS).is_file() or not repeats:
        return [read_run(folder)]
    return [read_run(path) for path in sorted(repeats, key=lambda path: (len(path.name), path.name))]


def require_one_protocol(runs: Sequence[Run]) -> None:
    """Raise ValueError if two runs were evaluated under different protocols: their metrics cannot be compared."""
    for run in runs[1:]:
        if run.protocol != runs[0].protocol:
            protocols = f"{runs[0].name} is under protocol {runs[0].protocol!r}, {run.name} under {run.protocol!r}"
            raise ValueError(f"{protocols}: their metrics cannot be compared; evaluate both under one protocol")


def mean_and_spread(runs: Sequence[Run]) -> dict[str, tuple[float, float | None]]:
    """Return (mean, sample standard deviation) of each metric that all runs have; a single run has no deviation."""
    spreads = {}
    for name in runs[0].metrics:
        values = [value for run in runs if (value := run.metrics.get(name)) is not None]
        if len(values) == len(runs):
            spreads[name] = (mean(values), stdev(values) if len(values) > 1 else None)
    return spreads


def print_runs(groups: Mapping[str, Sequence[Run]]) -> None:
    """Print a row for each run, and below several runs of a group their mean and sample standard deviation."""
    rows, metrics, counts = [], PRINTED, set()
    for group in groups.values():
        counts |= {run.content["images"] for run in group}
        rows += [[run.name, *percents(*map(run.metrics.get, metrics))] for run in group]
        if len(group) > 1:
            spreads = mean_and_spread(group)
            centers, deviations = zip(*(spreads.get(metric, (None, None)) for metric in metrics), strict=True)
            rows += [[f"mean of {len(group)}", *percents(*centers)], ["standard deviation", *percents(*deviations)]]
    images = f", {counts.pop()} images" if len(counts) == 1 else ""
    print_table(["", *COLUMNS], rows, f"protocol {next(iter(groups.values()))[0].protocol}{images}, percent")


def groups_to_json(groups: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    """Return the metrics of all runs, and their mean and standard deviation by group, as plain values."""
    content = {}
    for name, runs in groups.items():
        each = [{"folder": str(run.folder), "images": run.content["images"], "metrics": run.metrics} for run in runs]
        spreads = mean_and_spread(runs).items()
        metrics = {metric: {"mean": center, "standard_deviation": spread} for metric, (center, spread) in spreads}
        content[name] = {"runs": each, "metrics": metrics}
    return content
