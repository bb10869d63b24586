"""``tokenloc compare``: runs side by side, and whether one of two is really better than the other."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from rich.table import Table

from tokenloc._files import write_json, write_text
from tokenloc.commands.console import console, print_message
from tokenloc.commands.results import IMAGES
from tokenloc.commands.runs import Run, groups_to_json, print_runs, read_runs, require_one_protocol
from tokenloc.metrics.images import read_table
from tokenloc.metrics.intervals import Comparison, compare

COMPARED = ("gt_known", "top1_loc")
Hits = dict[str, float | None]


def compare_runs(runs: list[Path], *, out: Path | None = None) -> list[Comparison]:
    """Put runs side by side, with the mean and spread of repeats; of two, tell which one wins where, and if by chance.

    Two runs on the same images are compared image by image. The test is McNemar's exact test on the images that one
    run alone gets right, for GT-known and for Top-1 Loc.

    Args:
        runs: folders of runs, or of evaluations, with metrics.json and, of two, images.csv; or the folder of a
            `tokenloc train --seeds`, with a run for each seed. All under the same protocol.
        out: a folder to write runs.json to; of two runs also comparison.json and comparison.csv (images that one run
            alone gets right).

    Returns:
        the comparisons of two runs; none of a metric that one lacks.
    """
    groups = {str(folder): read_runs(folder) for folder in runs}
    every = [run for group in groups.values() for run in group]
    require_one_protocol(every)
    print_runs(groups)
    if out is not None:
        write_json(out / "runs.json", {"protocol": every[0].protocol, "groups": groups_to_json(groups)})
    return _compared(every[0], every[1], out) if len(every) == len(groups) == 2 else []


def _compared(first: Run, second: Run, out: Path | None) -> list[Comparison]:
    one, other = (read_table(run.folder / IMAGES) for run in (first, second))
    hits = {metric: (_column(one, metric), _column(other, metric)) for metric in COMPARED}
    compared = [compare(*pair, metric=metric) for metric, pair in hits.items()]
    found = [comparison for comparison in compared if comparison is not None]
    if not found:
        raise ValueError(
            f"{first.folder} and {second.folder} have no image with {' or '.join(COMPARED)} in both: there are no boxes"
        )
    _print(found, first.folder, second.folder)
    if out is not None:
        sides = {"first": str(first.folder), "second": str(second.folder), "protocol": first.protocol}
        write_json(out / "comparison.json", {**sides, "metrics": {item.metric: item.to_dict() for item in found}})
        write_text(out / "comparison.csv", _wins(hits))
    return found


def _column(table: list[dict[str, Any]], name: str) -> Hits:
    return {line["id"]: line[name] for line in table}


def _wins(hits: dict[str, tuple[Hits, Hits]]) -> str:
    """Return a line for each image and metric that one run alone gets right."""
    lines = [["metric", "id", "winner"]]
    for metric, (one, other) in hits.items():
        pairs = ((id_, one[id_], other[id_]) for id_ in one)
        wins = {id_: "first" if a else "second" for id_, a, b in pairs if None not in (a, b) and a != b}
        lines += [[metric, id_, winner] for id_, winner in wins.items()]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _print(found: list[Comparison], first: Path, second: Path) -> None:
    print_message(f"first: {first}\nsecond: {second}")
    table = Table()
    for column in ("", "images", "first", "second", "only first", "only second", "p", "difference, 95 %"):
        table.add_column(column, justify="right" if column else "left")
    for item in found:
        percents = (f"{item.first:.1f}", f"{item.second:.1f}")
        counts = (str(item.only_first), str(item.only_second))
        interval = "{:+.1f} to {:+.1f}".format(*item.difference)
        table.add_row(item.metric, str(item.images), *percents, *counts, f"{item.p_value:.3g}", interval)
    console.print(table)
