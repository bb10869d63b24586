"""A table of a paper beside our numbers: Markdown, JSON and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from tokenloc._files import atomic_write, write_json, write_text


class ComparedRow(NamedTuple):
    """A row: the printed and our numbers by column; ``reason`` says why there are none of ours."""

    name: str
    paper: Mapping[str, float]
    ours: Mapping[str, float | None]
    reason: str | None = None


def order_agreement(rows: Sequence[ComparedRow], column: str) -> tuple[int, int]:
    """Return how many pairs of rows are in the order of the paper, and how many pairs both order without a tie.

    >>> order_agreement([ComparedRow("a", {"x": 1}, {"x": 5}), ComparedRow("b", {"x": 2}, {"x": 4})], "x")
    (0, 1)
    """
    both = ((row.paper.get(column), row.ours.get(column)) for row in rows)
    pairs = [(paper, ours) for paper, ours in both if paper is not None and ours is not None]
    products = [(a[0] - b[0]) * (a[1] - b[1]) for a, b in combinations(pairs, 2)]
    return sum(product > 0 for product in products), sum(product != 0 for product in products)


def save_comparison(
    stem: Path, title: str, note: str, columns: Mapping[str, str], rows: Sequence[ComparedRow], about: Mapping[str, Any]
) -> None:
    """Write STEM.md, STEM.json with ``about`` and, if any row has a number of ours, STEM.png.

    Args:
        stem: path without suffix.
        title: of the table.
        note: a sentence on data, protocol and seed.
        columns: headings by metric.
        rows: from top to bottom.
        about: plain values.
    """
    agreement = {column: order_agreement(rows, column) for column in columns}
    lines = [f"# {title}", "", f"{note} Each cell: paper / ours.", ""]
    lines += ["| | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 1) + "|"]
    for row in rows:
        cells = (f"{_number(row.paper.get(key))} / {_number(row.ours.get(key))}" for key in columns)
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    lines.append("")
    for column, (agreeing, pairs) in agreement.items():
        if pairs:
            lines.append(f"- {columns[column]}: {agreeing} of {pairs} pairs of rows are in the order of the paper.")
    lines += [f"- {row.name}: not run, {row.reason}." for row in rows if row.reason]
    write_text(stem.with_suffix(".md"), "\n".join(lines) + "\n")
    order = {column: {"agreeing": agreeing, "pairs": pairs} for column, (agreeing, pairs) in agreement.items()}
    write_json(stem.with_suffix(".json"), {**about, "rows": [row._asdict() for row in rows], "order": order})
    _save_figure(stem.with_suffix(".png"), title, columns, rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _save_figure(path: Path, title: str, columns: Mapping[str, str], rows: Sequence[ComparedRow]) -> None:
    """Draw a panel for each column: a row's printed number as a circle, ours as a dot, joined by a line."""
    drawn = [column for column in columns if any(row.ours.get(column) is not None for row in rows)]
    if not drawn:
        return
    size = (2.2 + 2.4 * len(drawn), 1.2 + 0.3 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(drawn), squeeze=False, sharey=True)[0]
    for axes, column in zip(panels, drawn, strict=True):
        for y, row in enumerate(rows):
            paper, ours = row.paper.get(column), row.ours.get(column)
            if paper is not None and ours is not None:
                axes.plot([paper, ours], [y, y], color="lightgray", zorder=1)
            for value, face, label in ((paper, "none", "paper"), (ours, "C0", "ours")):
                if value is not None:
                    axes.scatter([value], [y], facecolors=face, edgecolors="C0", zorder=2, label=label)
        axes.set(title=columns[column], yticks=range(len(rows)), yticklabels=[row.name for row in rows])
        axes.grid(axis="x", alpha=0.3)
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), loc="outside lower right", ncols=2)
    figure.suptitle(title, fontsize="medium")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)
