"""``tokenloc.train``: training on a folder of photographs from Python, as `tokenloc train PHOTOS` does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from tokenloc._names import unknown_name
from tokenloc.commands.recipes import SHORT, folder_recipe
from tokenloc.commands.train import train as train_model
from tokenloc.training.config import DataConfig, ModelChoice, Optimisation

_GROUPS: dict[str, Any] = {"data": DataConfig, "model": ModelChoice, "optimisation": Optimisation}


def train(
    photos: str | Path,
    *,
    method: str | None = None,
    backbone: str | None = None,
    epochs: int | None = None,
    batch: int | None = None,
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Train on images and their class labels; return the best checkpoint, for ``Localizer.from_checkpoint``.

    It does what `tokenloc train PHOTOS` does. Settings that are None are those of recipes/folder.yaml.

    Args:
        photos: a folder with a folder of images for each class.
        method: one of ``list_methods()``.
        backbone: one of ``list_backbones()``.
        epochs: passes over the training images.
        batch: images in a batch.
        out: the run's folder; None for runs/METHOD, runs/METHOD-2 …
        settings: others by the name of their flag, such as ``{"optimisation.lr": 1e-4}``.
        options: further arguments of ``tokenloc.commands.train.train``, such as ``seed`` or ``device``.

    Raises:
        ValueError, FileNotFoundError: for an invalid value, or a folder without images.
    """
    groups = folder_recipe()
    valid = [f"{group}.{each.name}" for group, kind in _GROUPS.items() for each in fields(kind)]
    short = {"method": method, "backbone": backbone, "epochs": epochs, "batch": batch}
    given = {SHORT[name]: value for name, value in short.items() if value is not None}
    for name, value in {**given, **(settings or {})}.items():
        if name not in valid:
            raise unknown_name("setting", name, valid)
        group, _, key = name.partition(".")
        groups[group][key] = value
    arguments = {name: kind(**groups[name]) for name, kind in _GROUPS.items()}
    return train_model(Path(photos), **arguments, out=None if out is None else Path(out), **options)
