"""What commands share: messages, tables, the progress bar, and the exception for work that could not be finished."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

T = TypeVar("T")

console = Console(stderr=True)


class IncompleteError(Exception):
    """The command did what it could; the message names what it could not do. The exit status is 1."""


def print_message(message: str) -> None:
    """Print a message verbatim: no markup, and no line breaks but the terminal's."""
    console.print(message, markup=False, highlight=False, soft_wrap=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "", **style: Any) -> None:
    """Print a table; the first column is left-aligned, the others are right-aligned."""
    table = Table(title=title or None, title_justify="left", **style)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", overflow="ellipsis" if index else "fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def percents(*values: float | None) -> list[str]:
    """Return numbers for a table: one decimal, ``-`` for None."""
    return ["-" if value is None else f"{value:.1f}" for value in values]


def progress(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Yield ``items`` with a progress bar on the terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        yield from bar.track(items, total=total, description=label)
