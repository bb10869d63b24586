"""What commands share: the console, the progress bar, and how a command says that it was not all done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")

console = Console(stderr=True)


def print_message(message: str) -> None:
    """Print a message as it is: nothing in it is markup, and the terminal alone breaks its lines."""
    console.print(message, markup=False, highlight=False, soft_wrap=True)


class IncompleteError(Exception):
    """The command finished what it could; the message names what it could not do. The exit status is 1."""


def progress(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Yield ``items`` with a progress bar on the terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=False) as bar:
        yield from bar.track(items, total=total, description=label)
