"""The tables of the papers: files in ``recipes/tables`` whose rows are a recipe, changes to it, and printed numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenloc._names import matching, unknown_name
from tokenloc._plain import read_yaml
from tokenloc.boxes import get_protocol
from tokenloc.commands.recipes import FOLDER, TABLES, recipes_root


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        name: as printed in the paper.
        recipe: path under ``recipes``, without ``.yaml``.
        train: flags of ``tokenloc train`` that differ from the recipe, by dotted name.
        test: flags of ``tokenloc evaluate``; rows with the same recipe and ``train`` share a checkpoint.
        paper: the printed numbers by column.
        unavailable: why the row cannot be run; None if it can.
        start: ``recipe`` and ``train`` of the run whose checkpoint is the pretrained weights of this one.
        maps: name under which maps of other code can be given, so that a row without a method of ours can be evaluated.
    """

    name: str
    recipe: str
    train: Mapping[str, Any] = field(default_factory=dict)
    test: Mapping[str, Any] = field(default_factory=dict)
    paper: Mapping[str, float] = field(default_factory=dict)
    unavailable: str | None = None
    start: Mapping[str, Any] | None = None
    maps: str | None = None


@dataclass(frozen=True)
class PaperTable:
    """A table, or a figure that can be measured, of a paper.

    Attributes:
        title: the caption, shortened.
        protocol: the protocol of the paper's numbers; a row may have another one in ``test``.
        columns: dotted names in metrics.json, in its "metrics" or at its top, or ``info.`` and a field of
            ``models.cost.Cost``, and their headings.
        rows: from top to bottom.
    """

    title: str
    protocol: str
    columns: Mapping[str, str]
    rows: tuple[Row, ...]


def list_tables(pattern: str | None = None) -> list[str]:
    """Return the names of the tables, such as ``sat/8`` or ``sat/figure_6``; ``pattern`` is a shell wildcard.

    >>> list_tables("tscam/5")
    ['tscam/5']
    """
    return matching(_files(), pattern)


def read_table(name: str) -> PaperTable:
    """Read a table by name; ValueError for an unknown name, or an invalid file."""
    files = _files()
    if name not in files:
        raise unknown_name("table", name, files)
    path = files[name]
    try:
        content = read_yaml(path)
        rows = tuple(_row(each) for each in content.pop("rows"))
        table = PaperTable(**content, rows=rows)
        get_protocol(table.protocol)
        for row in rows:
            for column in row.paper:
                if column not in table.columns:
                    raise unknown_name(f"column of row {row.name!r}", column, table.columns)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a valid table: {error}") from error
    return table


def _files() -> dict[str, Path]:
    root = recipes_root() / TABLES
    paths = sorted(root.glob("*/*.yaml"))
    return {f"{path.parent.name}/{path.stem.removeprefix('table_')}": path for path in paths}


def _row(content: Mapping[str, Any]) -> Row:
    row = Row(**content)
    if not (recipes_root() / f"{row.recipe}.yaml").is_file():
        raise ValueError(f"row {row.name!r} names {FOLDER}/{row.recipe}.yaml, which does not exist")
    return row
