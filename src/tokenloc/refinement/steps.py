"""The refinement steps by name, and their settings as plain values: one form for YAML, flags, Python and text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, is_dataclass, replace
from typing import Any

import yaml
from torch import Tensor

from tokenloc._names import Registry, unknown_name
from tokenloc.refinement.affinity import AffinityRefinement
from tokenloc.refinement.reprediction import Reprediction

Step = Callable[[Tensor, Tensor], Tensor]
"""From maps [B, K, H, W] in [0, 1] and images [B, 3, H, W] (RGB in [0, 1]), float32, to refined maps of that shape."""
StepChoice = str | Mapping[str, Any]
"""A step's name, such as ``affinity`` or ``reprediction@0.1``, or ``{name: {setting: value}}``, or that as YAML."""
STEPS: Registry[Step] = Registry("refinement step")
"""The steps by name; ``STEPS.add(name, step)`` adds one. The fields of a dataclass are its settings."""
STEPS.add("affinity", AffinityRefinement())
STEPS.add("affinity_wide", AffinityRefinement.wide())
STEPS.add("reprediction", Reprediction())

EXAMPLE = "affinity,reprediction: {stride: 1, vote: false}"
KINDS = {bool: "true or false", int: "an integer", float: "a finite number", tuple: "a list of integers"}


def list_steps(pattern: str | None = None) -> list[str]:
    """Return the sorted names of the refinement steps; ``pattern`` is a shell wildcard.

    >>> list_steps("aff*")
    ['affinity', 'affinity_wide']
    """
    return STEPS.names(pattern)


def find_steps(steps: Iterable[StepChoice | Step] | StepChoice) -> list[Step]:
    """Return ``steps`` with names and settings replaced by the steps; ValueError if invalid.

    >>> find_steps([{"affinity": {"iterations": 5}}]) == find_steps("affinity: {iterations: 5}")
    True
    """
    return [each if callable(each) else _find(*each) for each in _choices(steps)]


def describe_steps(steps: Iterable[StepChoice] | StepChoice) -> tuple[str, ...]:
    """Return ``steps`` as text, one line of YAML each, without the settings that are defaults; ValueError if invalid.

    >>> describe_steps(["affinity", {"reprediction@0.1": {"vote": False, "stride": 2}}])
    ('affinity', 'reprediction@0.1: {vote: false}')
    """
    return tuple(_describe(*each) for each in _choices(steps) if not callable(each))


def _describe(name: str, settings: Mapping[str, Any]) -> str:
    default, chosen = _settings(_find(name, {})), _settings(_find(name, settings))
    changed = {key: value for key, value in chosen.items() if value != default[key]}
    if not changed:
        return name
    line = yaml.safe_dump({name: changed}, default_flow_style=True, sort_keys=False, width=math.inf)
    return line.strip()[1:-1]  # without braces, as in the flow sequence that _parsed reads


def _choices(steps: Iterable[StepChoice | Step] | StepChoice) -> Iterator[tuple[str, Mapping[str, Any]] | Step]:
    """Yield each step as an object, or as its name and settings; the name ``none``, alone, stands for no steps."""
    given: list[Any] = [steps] if isinstance(steps, (str, Mapping)) else list(steps)
    parsed = [each for step in given for each in (_parsed(step) if isinstance(step, str) else [step])]
    for step in [] if parsed == ["none"] else parsed:
        if callable(step):
            yield step
        elif isinstance(step, str):
            yield step, {}
        elif isinstance(step, Mapping) and [isinstance(settings, Mapping) for settings in step.values()] == [True]:
            ((names, settings),) = step.items()
            *before, last = str(names).split(",")  # jsonargparse reads EXAMPLE as a mapping with one key
            yield from ((name, {}) for name in before)
            yield last, settings
        else:
            raise ValueError(f"a refinement step is a name or {{name: {{setting: value}}}}; got {step!r}")


def _parsed(text: str) -> list[Any]:
    """Return the elements of ``text``, a YAML flow sequence with or without brackets, such as ``EXAMPLE``."""
    try:
        if set(text) & set("&*!"):
            raise ValueError("anchors, aliases and tags are not accepted")
        values: list[Any] = yaml.safe_load(text if text.lstrip().startswith("[") else f"[{text}]")
    except (yaml.YAMLError, ValueError) as error:
        reason = getattr(error, "problem", error)
        raise ValueError(f"invalid refinement steps {text!r}; expected text like {EXAMPLE!r}: {reason}") from None
    return values


def _find(name: str, settings: Mapping[str, Any]) -> Step:
    step, given = _named(name), {}
    defaults = _settings(step)
    for key, value in settings.items():
        if key not in defaults:
            raise unknown_name(f"setting of the refinement step {name!r}", key, defaults)
        given[key] = _checked(key, value, defaults[key])
    return replace(step, **given) if is_dataclass(step) and not isinstance(step, type) else step


def _named(name: str) -> Step:
    step, at, threshold = name.partition("@")
    if not at:
        return STEPS[step]
    if not isinstance(STEPS[step], Reprediction):
        raise ValueError(f"the refinement step {step!r} takes no threshold; remove {at + threshold!r}")
    try:
        return Reprediction.at(float(threshold))
    except ValueError as error:
        raise ValueError(f"invalid refinement step {name!r}; expected one like 'reprediction@0.1': {error}") from None


def _settings(step: Step) -> dict[str, Any]:
    return asdict(step) if is_dataclass(step) and not isinstance(step, type) else {}


def _checked(name: str, value: Any, default: Any) -> Any:
    """Return ``value`` in the type of ``default``; raise ValueError if it has another."""
    if isinstance(default, tuple) and isinstance(value, (list, tuple)):
        return tuple(_checked(name, each, default[0]) for each in value)
    if isinstance(default, float) and isinstance(value, (float, int, str)) and not isinstance(value, bool):
        with suppress(ValueError):
            if math.isfinite(number := float(value)):  # YAML reads 1e-3, without a point, as text
                return number
    elif type(value) is type(default):
        return value
    raise ValueError(f"the setting {name} of a refinement step must be {KINDS[type(default)]}; got {value!r}")
