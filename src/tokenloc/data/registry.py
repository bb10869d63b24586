"""Datasets by name."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import tokenloc.data
from tokenloc._names import Registry, unknown_name
from tokenloc.data.base import ImageDataset

DATASETS = Registry[type[ImageDataset]]("dataset")
"""All datasets; a module of this package that registers one is found by itself."""


def create_dataset(
    name: str,
    root: str | Path | None,
    split: str,
    classes: Sequence[str] | None = None,
    **options: Any,
) -> ImageDataset:
    """Return one split of a dataset.

    Args:
        name: one of ``list_datasets()``.
        root: the dataset's own folder or the one above it; a generated dataset ignores it.
        split: one of the dataset's splits, mostly "train", "val" or "test".
        classes: names of the classes to keep (None: all); labels follow this selection, in the dataset's own order.
        options: the dataset's own options, see its class.

    Raises:
        ValueError: for an unknown dataset, split, class or option, and for files that contradict one another.
        FileNotFoundError: where files of the split are missing; the message says which, and where to get them.
    """
    _discover()
    dataset = DATASETS[name]
    valid = _options(dataset)
    for option in options:
        if option not in valid:
            raise unknown_name(f"option of dataset {name!r}:", option, valid)
    create: Callable[..., ImageDataset] = dataset  # each has options of its own
    return create(root, split, classes, **options)


Role = Literal["measured", "held_out"]


def split_of(name: str, role: Role) -> str:
    """Return the split of a dataset that papers measure on, or the one that is held out to choose thresholds by.

    >>> split_of("cub", "measured"), split_of("imagenet", "measured"), split_of("imagenet", "held_out")
    ('test', 'val', 'val2')
    """
    _discover()
    dataset = DATASETS[name]
    return dataset.measured_split if role == "measured" else dataset.held_out_split


def list_datasets(pattern: str | None = None) -> list[str]:
    """Return the names of all datasets that match the shell wildcard ``pattern`` (None: all), sorted.

    >>> list_datasets("c*")
    ['cub']
    """
    _discover()
    return DATASETS.names(pattern)


def _options(dataset: type[ImageDataset]) -> list[str]:
    parameters = inspect.signature(dataset).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]


@cache
def _discover() -> None:
    """Import every module of this package, so that those which hold a dataset register it."""
    for module in pkgutil.iter_modules(tokenloc.data.__path__):
        importlib.import_module(f"tokenloc.data.{module.name}")
