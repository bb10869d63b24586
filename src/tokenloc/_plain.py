"""Plain values, the only ones that recipes, JSON files and checkpoints may hold, and safe reading of YAML and JSON.

Plain values are None, bool, int, float, str, lists, and dictionaries with text keys. Reading them never imports or
calls anything, and neither nesting nor the aliases of YAML can exhaust memory, time or the stack.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import yaml

from tokenloc._files import read_text

MOST_LEVELS = 50  # of nested lists and dictionaries
MOST_CHARACTERS = 1_000_000  # of all values, with YAML's aliases expanded
VALUE = 10  # characters that a value counts as, besides those of a text
LONG = 1000  # characters: shorter text without an alias cannot nest deeply enough to exhaust the stack
LARGEST = 2**64
DIGITS = "0123456789abcdefABCDEFox_:.+-"  # of YAML's numbers, of which some take quadratic time

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of named plain values; raises ValueError if it holds anything else, or OSError."""
    try:
        text = read_text(path)
        check_yaml(text)
        values = plain(yaml.load(text, LOADER))
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is not a valid YAML file of options: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must have lines of `option: value`, not {values!r:.80}")
    return values


def read_json(path: Path) -> Any:
    """Read a JSON file; raises ValueError, which names the file, if it is not valid, and OSError."""
    try:
        return load_json(read_text(path))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def load_json(text: str | bytes) -> Any:
    """Return the value of a JSON text in UTF-8; raises ValueError for invalid or very deeply nested text, and NaN."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _refuse_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is not a JSON number")


def check_yaml(text: str) -> None:
    """Raise ValueError if a YAML text nests too deeply for the parser, or its aliases expand to too many values."""
    sizes: dict[str, int] = {}  # by anchor: characters and values, with aliases expanded
    started: list[tuple[str | None, int]] = []  # anchors of collections that have not ended, and the size before them
    size = 0
    for event in yaml.parse(text, LOADER):
        if isinstance(event, yaml.AliasEvent):
            if any(event.anchor == anchor for anchor, _ in started):
                raise ValueError(f"the alias *{event.anchor:.40} refers to a value that contains it")
            size += sizes.get(str(event.anchor), 0)  # an anchor that does not exist is an error when it is loaded
        elif isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)):
            started.append((event.anchor, size))
            size += VALUE + len(getattr(event, "value", ""))
        if isinstance(event, (yaml.ScalarEvent, yaml.CollectionEndEvent)):
            anchor, before = started.pop()
            if anchor:
                sizes[anchor] = size - before
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > LONG and not event.value.strip(DIGITS):
            raise ValueError(f"the number {event.value:.20}… has {len(event.value)} digits")
        if isinstance(event, yaml.ScalarEvent) and not event.implicit[0]:
            check_text(event.value)  # a quoted text may be parsed, too
        if len(started) > MOST_LEVELS:
            raise ValueError(f"it is nested more than {MOST_LEVELS} levels deep")
        if size > MOST_CHARACTERS:
            raise ValueError(f"it has more than {MOST_CHARACTERS} characters, counting what its aliases repeat")


def check_text(text: str) -> None:
    """Raise ValueError if a text, which jsonargparse may parse as YAML, fails ``check_yaml``; it need not be YAML."""
    if len(text) > LONG or "&" in text:
        with suppress(yaml.YAMLError):
            check_yaml(text)


def plain(value: Any, name: str = "") -> Any:
    """Return a copy of a plain value; raise ValueError, which names the dotted ``name``, if it is not plain.

    >>> plain({"size": 3, "names": ("a", "b")})
    {'size': 3, 'names': ['a', 'b']}
    """
    left = MOST_CHARACTERS

    def _copy(value: Any, name: str, level: int) -> Any:
        nonlocal left
        left -= VALUE + (len(value) if isinstance(value, str) else 0)
        where = f"{name:.200}: " if name else ""
        if level > MOST_LEVELS:
            raise ValueError(f"{where}it is nested more than {MOST_LEVELS} levels deep")
        if left < 0:
            raise ValueError(f"{where}it has more than {MOST_CHARACTERS} characters")
        if isinstance(value, Mapping):
            for key in value:
                if type(key) is not str:
                    raise ValueError(f"{where}the key {key!r:.80} must be text; write it in quotes")
            return {key: _copy(item, f"{name}.{key}" if name else key, level + 1) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [_copy(item, name, level + 1) for item in value]
        if isinstance(value, str):
            check_text(value)
        elif not (value is None or type(value) is bool or _is_number(value)):
            kinds = "a finite number, text, true, false, null, a list or a dictionary"
            raise ValueError(f"{where}expected {kinds}; got {type(value).__name__} {_shortened(value)}")
        return value

    return _copy(value, name, 0)


def require_types(values: Any, types: Mapping[str, Any]) -> None:
    """Raise ValueError unless ``values`` is a dictionary with values of the ``types`` by key; a missing one is None.

    A type is built of None, bool, int, float (which an int is, too), str, ``list[…]``, ``dict[str, …]``, ``|`` and Any.

    >>> require_types({"ids": ["a", 1]}, {"ids": list[str]})
    Traceback (most recent call last):
    ValueError: ids must be list[str], not ['a', 1]
    """
    if not isinstance(values, dict):
        raise ValueError(f"it must be a dictionary, not {values!r:.80}")
    for name, kind in types.items():
        if not _fits(value := values.get(name), kind):
            raise ValueError(f"{name} must be {kind if get_args(kind) else kind.__name__}, not {value!r:.80}")


def _fits(value: Any, kind: Any) -> bool:
    origin, items = get_origin(kind) or kind, get_args(kind)
    if origin is UnionType:
        return any(_fits(value, choice) for choice in items)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, items[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(item, items[1]) for item in value.values())
    return kind is Any or (_is_number(value) if kind is float else type(value) is kind)


def _is_number(value: Any) -> bool:
    return (type(value) is int and abs(value) <= LARGEST) or (type(value) is float and math.isfinite(value))


def _shortened(value: Any) -> str:
    return "of more than 64 bits" if type(value) is int else f"{value!r:.80}"
