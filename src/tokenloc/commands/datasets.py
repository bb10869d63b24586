"""Which images an evaluation is of, as plain values that ``metrics.json`` keeps, and opening them by these."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenloc.data import ImageDataset, create_dataset
from tokenloc.data.registry import Role, split_of
from tokenloc.models.metadata import ModelMetadata
from tokenloc.training.config import DataSource


def data_of(metadata: ModelMetadata | None, data: DataSource, split: str | None, role: Role) -> dict[str, Any]:
    """Return which images are meant: the named dataset's, or those that the checkpoint was trained on.

    Returns:
        name, root, split and options of the dataset, as plain values. Unless another dataset is named, the options of
        the training hold, but for those that are given. Where no split is named it is the one that has the role.
    """
    trained = (metadata.data if metadata else None) or {}
    name = data.name or trained.get("name") or "folder"
    root = data.root or trained.get("root")
    kept = trained.get("options") or {} if data.name is None else {}
    options = {**kept, **(data.options or {})}  # so that a split stays what it was in training
    place = None if root is None else str(Path(root).absolute())
    return {"name": name, "root": place, "split": split or split_of(name, role), "options": options}


def open_data(described: dict[str, Any], classes: Sequence[str] | None) -> ImageDataset:
    """Open the images of ``data_of``, with ``classes`` in their order, or all of them.

    Raises:
        ValueError: where the dataset has other classes.
    """
    name, root, split = described["name"], described["root"], described["split"]
    dataset = create_dataset(name, root, split, classes, **described["options"])
    return dataset if classes is None else dataset.in_class_order(classes)
