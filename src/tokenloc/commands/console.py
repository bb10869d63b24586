"""What commands share: the console, the progress bar, and the exception for work that could not be finished."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")

console = Console(stderr=True)


class IncompleteError(Exception):
    """The command did what it could; the message names what it could not do. The exit status is 1."""


def print_message(message: str) -> None:
    """Print a message verbatim: no markup, and no line breaks but the terminal's."""
    console.print(message, markup=False, highlight=False, soft_wrap=True)


def progress(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Yield ``items`` with a progress bar on the terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        yield from bar.track(items, total=total, description=label)
