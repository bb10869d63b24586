"""The images of an evaluation, described by plain values in ``metrics.json``, and opening them from these."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenloc.data import ImageDataset, create_dataset
from tokenloc.data.base import UnknownClassError
from tokenloc.data.registry import Role, split_of
from tokenloc.models.metadata import ModelMetadata
from tokenloc.training.config import DataSource


def data_of(metadata: ModelMetadata | None, data: DataSource, split: str | None, role: Role) -> dict[str, Any]:
    """Return name, root, split (by default that of the role) and options of the given dataset, or of the training's.

    With ``data.classes`` also these.
    """
    trained = (metadata.data if metadata else None) or {}
    name = data.name or trained.get("name") or "folder"
    root = data.root or trained.get("root")
    defaults = trained.get("options") or {} if data.name is None else {}  # a stratified split stays the same
    options = DataSource(options={**defaults, **(data.options or {})}).options  # those of a checkpoint are untrusted
    path = None if root is None else str(Path(root).absolute())
    described = {"name": name, "root": path, "split": split or split_of(name, role), "options": options}
    return {**described, **({} if data.classes is None else {"classes": data.classes})}


def open_data(described: dict[str, Any], classes: Sequence[str] | None) -> ImageDataset:
    """Open the dataset of ``data_of``, with labels among ``classes`` in their order, or among its own for None.

    Raises:
        ValueError: if it has other classes, or lacks some, unless it is ``described`` with those that it has.
    """
    chosen = described.get("classes")
    opened = (described["name"], described["root"], described["split"], chosen or classes)
    try:
        dataset = create_dataset(*opened, **described["options"])
    except UnknownClassError as error:
        if chosen is not None or classes is None:
            raise
        remedy = "to evaluate images of some of the model's classes, name these: --data.classes '[CLASS, CLASS]'"
        raise ValueError(f"{error}; {remedy}") from error
    return dataset if classes is None else dataset.in_class_order(classes, chosen is None)
