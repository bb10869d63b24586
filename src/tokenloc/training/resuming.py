"""Going on with a run: only with the settings that it began with, so that it ends as if never interrupted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

CONFIG = "config.yaml"
FREE = (
    "out",
    "resume",
    "device",
    "devices",
    "nodes",
    "checkpoint_activations",
    "compile",
    "workers",
    "protocol",
    "save_minutes",
    "data.root",
    "data.cache",
    "data.cached_images",
    "data.calibration_split",
    "data.test_split",
    "optimisation.epochs",
)
"""Settings that may change on the way: no step that was taken would have been another, but for a cosine's epochs."""

ABSENT = "absent"


def flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings under dotted names; lists, and what is empty, stay values.

    >>> flattened({"a": 1, "b": {"c": [2], "d": {}}})
    {'a': 1, 'b.c': [2], 'b.d': {}}
    """
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        nested = isinstance(value, Mapping) and value
        flat |= flattened(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return flat


def differences(stored: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ, by dotted name: (stored, now), ``absent`` where there is none.

    >>> differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3, "d": 4}})
    {'a.c': (2, 3), 'a.d': ('absent', 4)}
    """
    one, other = flattened(stored), flattened(now)
    pairs = {name: (one.get(name, ABSENT), other.get(name, ABSENT)) for name in dict.fromkeys([*other, *one])}
    nothing: tuple[Any, ...] = ({}, ABSENT)  # no options, beside options that the other one has
    return {name: (a, b) for name, (a, b) in pairs.items() if a != b and not (a in nothing and b in nothing)}


def check_settings(out: Path, now: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Compare the settings of a run that is to go on with those in its config.yaml; return what may be told of them.

    Args:
        out: the run's folder.
        now: all settings, plain values.
        defaults: what stands for settings that the run's version of tokenloc did not have.

    Returns:
        a line for each setting that is another and may be.

    Raises:
        ValueError: where one differs that the steps so far depend on.
    """
    path = out / CONFIG
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
        found = differences(_filled(stored, defaults), now)
    except (yaml.YAMLError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as the settings of a run: {error}") from error
    fixed = {name: pair for name, pair in found.items() if name not in FREE}
    if fixed:
        lines = "\n".join(_lines(fixed))
        raise ValueError(
            f"{out} cannot be resumed with another configuration; what differs:\n{lines}\n"
            f"go on with what it began with (--config {path} --resume), or begin anew with another --out"
        )
    return _lines({name: pair for name, pair in found.items() if name not in ("out", "resume")})


def _filled(stored: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``stored`` with the ``defaults`` that it lacks, one level deep: an option of a method has none here."""
    filled = {**defaults, **stored}
    return {
        name: {**defaults[name], **value} if isinstance(value, Mapping) and name in defaults else value
        for name, value in filled.items()
    }


def _lines(found: Mapping[str, tuple[Any, Any]]) -> list[str]:
    return [f"  {name}: {old} there, {new} now" for name, (old, new) in found.items()]
