"""``tokenloc compare``: whether one run is really better than another."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from rich.table import Table

from tokenloc._files import write_json, write_text
from tokenloc.commands.console import console
from tokenloc.commands.results import IMAGES, METRICS
from tokenloc.metrics.confidence import Comparison, compare
from tokenloc.metrics.images import read_table

COMPARED = ("gt_known", "top1_loc")
Hits = dict[str, float | None]


def compare_runs(first: Path, second: Path, *, out: Path | None = None) -> list[Comparison]:
    """Compare two runs image by image: which one wins where, and if the difference is more than chance.

    The test is McNemar's exact test on the images that one run alone gets right, for GT-known and for Top-1 Loc.

    Args:
        first: the folder of a run, or of an evaluation, with metrics.json and images.csv.
        second: the folder of another, on the same images and under the same protocol.
        out: a folder to write comparison.json and comparison.csv to (images that one run alone gets right).

    Returns:
        the comparisons; none of a metric that a run lacks.
    """
    protocols = [_protocol(folder) for folder in (first, second)]
    if protocols[0] != protocols[1]:
        raise ValueError(f"{first} is under protocol {protocols[0]!r}, {second} under {protocols[1]!r}: expected one")
    one, other = (read_table(folder / IMAGES) for folder in (first, second))
    hits = {metric: (_column(one, metric), _column(other, metric)) for metric in COMPARED}
    compared = [compare(*pair, metric=metric) for metric, pair in hits.items()]
    found = [comparison for comparison in compared if comparison is not None]
    if not found:
        raise ValueError(f"{first} and {second} have no image with {' or '.join(COMPARED)} in both: there are no boxes")
    _print(found, first, second)
    if out is not None:
        runs = {"first": str(first), "second": str(second), "protocol": protocols[0]}
        write_json(out / "comparison.json", {**runs, "metrics": {item.metric: item.to_dict() for item in found}})
        write_text(out / "comparison.csv", _wins(hits))
    return found


def _protocol(folder: Path) -> str:
    path = folder / METRICS
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: expected the folder of a run or of an evaluation")
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["protocol"])
    except (ValueError, KeyError, TypeError) as error:
        reason = f"names no protocol ({type(error).__name__}: {error})"
        raise ValueError(f"{path} {reason}; measure the run with `tokenloc evaluate`") from error


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
    console.print(f"first: {first}\nsecond: {second}", highlight=False, markup=False)
    table = Table()
    for column in ("", "images", "first", "second", "only first", "only second", "p", "difference, 95 %"):
        table.add_column(column, justify="right" if column else "left")
    for item in found:
        percents = (f"{item.first:.1f}", f"{item.second:.1f}")
        counts = (str(item.only_first), str(item.only_second))
        interval = "{:+.1f} to {:+.1f}".format(*item.difference)
        table.add_row(item.metric, str(item.images), *percents, *counts, f"{item.p_value:.3g}", interval)
    console.print(table)
