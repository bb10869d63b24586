"""What a checkpoint says of itself may come from anyone: it is looked at before anything is made from it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm

from tokenloc._names import unknown_name
from tokenloc.methods import list_methods

Kinds = Mapping[str, tuple[type, ...]]

NOTHING = type(None)
LIST = (list, tuple)
CARD: Kinds = {
    "format": (int,),
    "versions": (dict,),
    "model": (dict,),
    "classes": LIST,
    "preprocessing": (dict,),
    "threshold": (dict, NOTHING),
    "data": (dict, NOTHING),
}
MODEL: Kinds = {
    "method": (str,),
    "backbone": (str,),
    "num_classes": (int,),
    "image_size": (list, tuple, NOTHING),
    "options": (dict,),
    "backbone_options": (dict,),
}
THRESHOLD: Kinds = {"value": (int, float), "source": (str,), "options": (str,), "images": (str,)}
DATA: Kinds = {"name": (str,), "root": (str, NOTHING), "options": (dict, NOTHING)}
RENAMED = {"viewing": "options", "photographs": "images"}
"""Names that files of tokenloc 0.1 before 2026-12 have for entries of a threshold."""
LATER = frozenset(("options", "images"))  # entries that older files do not have

# Timm opens files or downloads for these, and they belong to no network.
NOT_OF_A_NETWORK = frozenset(
    name for name, one in inspect.signature(timm.create_model).parameters.items() if one.kind is not one.VAR_KEYWORD
)


def renamed(threshold: Mapping[str, Any]) -> dict[str, Any]:
    """Return a threshold's entries under today's names."""
    return {RENAMED.get(name, name): value for name, value in threshold.items()}


def check_metadata(entry: Mapping[str, Any], path: str | Path) -> None:
    """Check the names, kinds and sizes of all that ``ModelMetadata.entry`` holds.

    Raises:
        ValueError: where one is missing, unknown or of another kind, quoting it and naming ``path``.
    """
    model, threshold, data = (entry.get(name) for name in ("model", "threshold", "data"))
    if isinstance(model, dict) and isinstance(model.get("method"), str) and model["method"] not in list_methods():
        raise unknown_name(f"method (in {path})", model["method"], list_methods())
    _check_kinds(entry, CARD, f"{path}: tokenloc")
    _check_kinds(entry["model"], MODEL, f"{path}: model")
    if threshold is not None:
        _check_kinds(renamed(threshold), THRESHOLD, f"{path}: threshold")
        if not 0 <= threshold["value"] <= 1:
            raise ValueError(f"{path}: the threshold must lie in [0, 1]; got {threshold['value']}")
    if data is not None:
        _check_kinds(data, DATA, f"{path}: data")
    _check_model(entry["model"], path)
    _check_classes(entry["classes"], entry["model"]["num_classes"], path)


def _check_kinds(values: Mapping[str, Any], kinds: Kinds, where: str) -> None:
    for name in values:
        if name not in kinds:
            raise unknown_name(f"entry ({where})", name, kinds)
    for name, kind in kinds.items():
        if name not in values and name not in LATER:
            raise ValueError(f"{where} lacks the entry {name!r}; is the file damaged?")
        value = values.get(name)
        if name in values and (not isinstance(value, kind) or isinstance(value, bool)):
            wanted = " or ".join(one.__name__ for one in kind)
            raise ValueError(f"{where}: {name} must be {wanted}, not {value!r:.80}")


def _check_model(model: Mapping[str, Any], path: str | Path) -> None:
    for name in model["backbone_options"]:
        if name in NOT_OF_A_NETWORK:
            raise ValueError(f"{path}: backbone_options must describe a network; {name!r} does not, and was refused")
    size = model["image_size"]
    if size is not None and not (len(size) == 2 and all(type(side) is int and side > 0 for side in size)):
        raise ValueError(f"{path}: image_size must be two whole numbers above 0; got {size!r:.80}")


def _check_classes(classes: Any, count: int, path: str | Path) -> None:
    if not all(isinstance(name, str) for name in classes):
        wrong = next(name for name in classes if not isinstance(name, str))
        raise ValueError(f"{path}: class names must be text, not {wrong!r:.80}")
    if len(classes) != count:
        raise ValueError(f"{path}: {len(classes)} class names for a model of {count} classes")
