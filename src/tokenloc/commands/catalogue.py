"""``tokenloc list`` and ``tokenloc info``: what there is, and what a checkpoint or dataset holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from tokenloc.backbones import list_backbones
from tokenloc.boxes import list_protocols
from tokenloc.commands.console import IncompleteError
from tokenloc.commands.recipes import list_recipes
from tokenloc.data import create_dataset, list_datasets
from tokenloc.methods import list_methods
from tokenloc.models.checkpoint import read_metadata
from tokenloc.models.metadata import versions
from tokenloc.training.config import DataConfig

Kind = Literal["methods", "backbones", "datasets", "protocols", "recipes"]
SHOWN_PROBLEMS = 20


LISTS: dict[str, Callable[[str | None], list[str]]] = {
    "methods": list_methods,
    "backbones": list_backbones,
    "datasets": list_datasets,
    "protocols": list_protocols,
    "recipes": list_recipes,
}


def list_names(kind: Kind | None = None, pattern: str | None = None) -> None:
    """List the methods, backbones, datasets, protocols or recipes by name.

    Args:
        kind: what to list; by default everything but the backbones, of which there are hundreds.
        pattern: a shell wildcard, such as 'deit*'.
    """
    if kind is not None:
        print("\n".join(LISTS[kind](pattern)))
        return
    for name in get_args(Kind):
        found = LISTS[name](pattern)
        shown = f"{len(found)}; `tokenloc list backbones` names them" if name == "backbones" else ", ".join(found)
        print(f"{name}: {shown or 'none'}")


def info(checkpoint: Path | None = None, *, data: DataConfig | None = None, split: str = "train") -> None:
    """Show what a checkpoint holds, or check a dataset and list its broken files; without either, the versions.

    Args:
        checkpoint: a checkpoint of `tokenloc train`, a folder that was saved for sharing, or hf-hub:USER/NAME.
        data: the dataset to check, --data.name and --data.root.
        split: the split of the dataset to check.
    """
    if checkpoint is not None:
        _show_checkpoint(checkpoint)
    if data is not None:
        _check_dataset(data, split)
    if checkpoint is None and data is None:
        print("\n".join(f"{name} {version}" for name, version in versions().items()))


def _show_checkpoint(path: Path) -> None:
    metadata = read_metadata(path)
    threshold = f"{metadata.threshold.value:g}, {metadata.threshold.source}" if metadata.threshold else "not calibrated"
    print(f"method: {metadata.model.method} {metadata.model.options or ''}".rstrip())
    print(f"backbone: {metadata.model.backbone}")
    print(f"preprocessing: {metadata.preprocessing}")
    print(f"threshold: {threshold}")
    print(f"classes ({len(metadata.classes)}): {', '.join(metadata.classes)}")


def _check_dataset(data: DataConfig, split: str) -> None:
    dataset = create_dataset(data.name, data.root, split, data.classes, **data.options)
    boxes = sum(len(sample.boxes) for sample in dataset)
    truth = f"{boxes} boxes, masks" if dataset.has_masks else f"{boxes} boxes"
    print(f"{data.name}, {split}: {len(dataset)} images of {len(dataset.classes)} classes, {truth}")
    problems = dataset.check()
    for problem in problems[:SHOWN_PROBLEMS]:
        print(f"  {problem}")
    if len(problems) > SHOWN_PROBLEMS:
        print(f"  … and {len(problems) - SHOWN_PROBLEMS} more")
    if problems:
        raise IncompleteError(f"{len(problems)} problems in {data.name}, {split}: correct or remove these files")
    print("no problems")
