"""``tokenloc compare``: runs side by side, and a significance test of two."""

from __future__ import annotations

import csv
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from tokenloc._files import atomic_files, atomic_text, refuse_unwritable, write_json
from tokenloc.commands.console import percents, print_message, print_table
from tokenloc.commands.runs import groups_to_json, print_runs, read_runs, require_one_protocol
from tokenloc.metrics.intervals import Comparison, compare
from tokenloc.reporting.runs import Run, oracle_note

COMPARISON = ("comparison.json", "comparison.csv")
COMPARED = ("gt_known", "top1_loc")
COLUMNS = ("", "images", "first", "second", "only first", "only second", "p", "difference, 95 %")


def compare_runs(runs: list[Path], *, out: Path | None = None) -> None:
    """Compare runs, with the mean and spread of repeats; test the difference of two.

    Two runs on the same images are compared by McNemar's exact test, for GT-known and for Top-1 Loc.

    Args:
        runs: folders of runs, of evaluations or of `tokenloc train --seeds`, under the same protocol.
        out: a folder for runs.json, and for two runs comparison.json and comparison.csv (images that one gets right).
    """
    if out is not None:
        refuse_unwritable(out)
    groups = {str(folder): read_runs(folder) for folder in runs}
    every = [run for group in groups.values() for run in group]
    require_one_protocol(every)
    print_runs(groups)
    if note := oracle_note(every):
        print_message(f"warning: {note}")
    with nullcontext() if out is None else atomic_files(out, "runs.json", COMPARISON) as folder:
        if folder:
            write_json(folder / "runs.json", {"protocol": every[0].protocol, "groups": groups_to_json(groups)})
        if len(every) == len(groups) == 2:
            _compare_two(every[0], every[1], folder)


def _compare_two(first: Run, second: Run, out: Path | None) -> None:
    comparisons, wins = {}, []
    for metric in COMPARED:
        one, other = ({row["id"]: row[metric] for row in run.rows} for run in (first, second))
        if (comparison := compare(one, other, metric)) is not None:
            comparisons[metric] = comparison
            differing = (id_ for id_, hit in one.items() if None not in (hit, other[id_]) and hit != other[id_])
            wins += [(metric, id_, "first" if one[id_] else "second") for id_ in differing]
    if not comparisons:
        raise ValueError(f"{first.name} and {second.name} have no image with {' or '.join(COMPARED)} in both")
    print_message(f"first: {first.name}\nsecond: {second.name}")
    print_table(COLUMNS, [_row(comparison) for comparison in comparisons.values()])
    if out is not None:
        sides = {"first": str(first.folder), "second": str(second.folder), "protocol": first.protocol}
        metrics = {metric: asdict(comparison) for metric, comparison in comparisons.items()}
        write_json(out / COMPARISON[0], {**sides, "metrics": metrics})
        with atomic_text(out / COMPARISON[1]) as file:
            csv.writer(file, lineterminator="\n").writerows([("metric", "id", "winner"), *wins])


def _row(item: Comparison) -> list[str]:
    counts = [str(count) for count in (item.images, item.only_first, item.only_second)]
    interval = "{:+.1f} to {:+.1f}".format(*item.difference)
    return [item.metric, counts[0], *percents(item.first, item.second), *counts[1:], f"{item.p_value:.3g}", interval]
