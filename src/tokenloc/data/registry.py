"""Datasets by name."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

import tokenloc.data
from tokenloc._names import Registry, unknown_name
from tokenloc.data.base import AnyPath, Classes, ImageDataset

DATASETS = Registry[type[ImageDataset]]("dataset")
"""All datasets; modules of this package that register one are found automatically."""

Role = Literal["measured", "held_out"]


def create_dataset(name: str, root: AnyPath, split: str, classes: Classes = None, **options: Any) -> ImageDataset:
    """Return one split of a dataset.

    Args:
        name: one of ``list_datasets()``.
        root: the dataset's own folder or the one above it; generated datasets ignore it.
        split: mostly "train", "val" or "test".
        classes: names of the classes to keep (None: all); labels follow this selection, in the dataset's own order.
        options: see the dataset's class.

    Raises:
        ValueError: for an unknown dataset, split, class or option, and for damaged or contradictory files.
        FileNotFoundError: if files are missing; the message states which, and where to get them.
    """
    _discover()
    dataset = DATASETS[name]
    parameters = inspect.signature(dataset).parameters.values()
    valid = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    for option in options:
        if option not in valid:
            raise unknown_name(f"option of dataset {name!r}:", option, valid)
    _check_types(name, options, get_type_hints(dataset.__init__))
    create: Callable[..., ImageDataset] = dataset
    return create(root, split, classes, **options)


def _check_types(name: str, options: dict[str, Any], hints: dict[str, Any]) -> None:
    """Raise ValueError for an option of the wrong type; those of generic types are left to the dataset."""
    for option, value in options.items():
        kinds = get_args(hints[option]) or (hints[option],)
        if any(get_origin(kind) is not None for kind in kinds):
            continue
        fits = isinstance(value, kinds) or (type(value) is int and float in kinds)
        if not fits or (isinstance(value, bool) and bool not in kinds):
            expected = " or ".join("none" if kind is type(None) else kind.__name__ for kind in kinds)
            raise ValueError(f"option {option!r} of dataset {name!r} must be {expected}; got {value!r:.80}")


def split_of(name: str, role: Role) -> str:
    """Return the split on which papers report results ("measured"), or the one for choosing thresholds ("held_out").

    >>> split_of("cub", "measured"), split_of("imagenet", "measured"), split_of("imagenet", "held_out")
    ('test', 'val', 'val2')
    """
    _discover()
    dataset = DATASETS[name]
    return dataset.measured_split if role == "measured" else dataset.held_out_split


def list_datasets(pattern: str | None = None) -> list[str]:
    """Return the sorted names of all datasets that match the shell wildcard ``pattern`` (None: all).

    >>> list_datasets("c*")
    ['cub']
    """
    _discover()
    return DATASETS.names(pattern)


@cache
def _discover() -> None:
    """Import every module of this package, so that datasets register themselves."""
    for module in pkgutil.iter_modules(tokenloc.data.__path__):
        importlib.import_module(f"tokenloc.data.{module.name}")
