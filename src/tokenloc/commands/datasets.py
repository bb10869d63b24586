"""The images of an evaluation, described by plain values in ``metrics.json``, and opening them from these."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenloc.data import ImageDataset, create_dataset
from tokenloc.data.registry import Role, split_of
from tokenloc.models.metadata import ModelMetadata
from tokenloc.training.config import DataSource


def data_of(metadata: ModelMetadata | None, data: DataSource, split: str | None, role: Role) -> dict[str, Any]:
    """Return name, root, split (by default that of the role) and options of the given dataset, or of the training's."""
    trained = (metadata.data if metadata else None) or {}
    name = data.name or trained.get("name") or "folder"
    root = data.root or trained.get("root")
    defaults = trained.get("options") or {} if data.name is None else {}  # a stratified split stays the same
    options = {**defaults, **(data.options or {})}
    path = None if root is None else str(Path(root).absolute())
    return {"name": name, "root": path, "split": split or split_of(name, role), "options": options}


def open_data(described: dict[str, Any], classes: Sequence[str] | None) -> ImageDataset:
    """Open the dataset of ``data_of`` with ``classes`` in their order, or its own; ValueError if it has others."""
    dataset = create_dataset(described["name"], described["root"], described["split"], classes, **described["options"])
    return dataset if classes is None else dataset.in_class_order(classes)
