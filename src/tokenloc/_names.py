"""Registries of methods, datasets and protocols: registration, lookup, listing with wildcards."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any, Generic, TypeVar, get_args

T = TypeVar("T")

MOST_NAMES = 200  # that a message lists; ImageNet has a thousand classes


def unknown_name(kind: str, name: object, valid: Iterable[str]) -> ValueError:
    """Return the error for a name that is not in ``valid``; it lists ``valid`` (up to ``MOST_NAMES``) and the nearest.

    >>> str(unknown_name("method", "tscan", ["tscam", "sat"]))
    "unknown method 'tscan'; did you mean 'tscam'? Valid: sat, tscam"
    """
    names = sorted(valid)
    nearest = difflib.get_close_matches(str(name), names, n=1)
    hint = f"; did you mean '{nearest[0]}'?" if nearest else "."
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ValueError(f"unknown {kind} {name!r}{hint} Valid: {', '.join(names[:MOST_NAMES]) or 'none'}{more}")


def counted(count: int, noun: str) -> str:
    """Return a number with a noun, in the plural unless it is 1.

    >>> counted(1, "image"), counted(3, "class"), counted(0, "box")
    ('1 image', '3 classes', '0 boxes')
    """
    return f"{count} {noun}" + ("" if count == 1 else "es" if noun.endswith(("s", "x")) else "s")


def matching(names: Iterable[str], pattern: str | None) -> list[str]:
    """Return the sorted ``names`` that match the shell wildcard ``pattern`` (None: all)."""
    return sorted(name for name in names if pattern is None or fnmatchcase(name, pattern))


def one_of(option: str, value: T, choices: Any) -> T:
    """Return ``value`` if it is one of the Literal type ``choices``; raise ValueError otherwise."""
    if value not in get_args(choices):
        raise unknown_name(option, value, get_args(choices))
    return value


class Registry(Generic[T]):
    """Items of one kind, each under a unique name."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, T] = {}

    def add(self, name: str, item: T) -> T:
        """Register ``item``; raise ValueError if the name is taken."""
        if self._items.get(name, item) is not item:
            raise ValueError(f"{self.kind} {name!r} is already registered: {self._items[name]!r}")
        self._items[name] = item
        return item

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers its argument."""
        return lambda item: self.add(name, item)

    def names(self, pattern: str | None = None) -> list[str]:
        """Return the registered names, sorted; ``pattern`` is a shell wildcard."""
        return matching(self._items, pattern)

    def __getitem__(self, name: str) -> T:
        if name not in self._items:
            raise unknown_name(self.kind, name, self._items)
        return self._items[name]
