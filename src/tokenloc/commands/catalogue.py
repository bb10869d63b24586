"""``tokenloc list`` and ``tokenloc info``: available names, and the content of a checkpoint or a dataset."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch

from tokenloc.backbones import list_backbones
from tokenloc.boxes import list_protocols
from tokenloc.commands.dataset_info import print_dataset
from tokenloc.commands.paper_tables import list_tables, read_table
from tokenloc.commands.recipes import folder_recipe, list_recipes
from tokenloc.data import list_datasets
from tokenloc.methods import METHODS, ModelConfig, list_methods
from tokenloc.methods.base import Frozen
from tokenloc.models import create_model
from tokenloc.models.checkpoint import read_metadata
from tokenloc.models.cost import Cost, model_cost
from tokenloc.models.hub import is_model
from tokenloc.models.metadata import versions
from tokenloc.training.config import DataConfig, Freeze, ModelChoice
from tokenloc.training.freezing import freeze as freeze_part

Kind = Literal["methods", "backbones", "datasets", "protocols", "recipes", "tables"]
LISTS: dict[Kind, Callable[[str | None], list[str]]] = {
    "methods": list_methods,
    "backbones": list_backbones,
    "datasets": list_datasets,
    "protocols": list_protocols,
    "recipes": list_recipes,
    "tables": list_tables,
}


COMMON_BACKBONE = "deit_small_patch16_224"  # on which the cost of every method is counted


def list_names(kind: Kind | None = None, pattern: str | None = None) -> None:
    """List methods, backbones, datasets, protocols, recipes or tables of the papers by name.

    Args:
        kind: what to list; by default everything except the hundreds of backbones.
        pattern: a shell wildcard, such as 'deit*'.
    """
    if kind == "tables":
        _print_tables(list_tables(pattern))
    elif kind == "methods":
        _print_methods(list_methods(pattern))
    elif kind is not None:
        print("\n".join(LISTS[kind](pattern)))
    else:
        for name, names_of in LISTS.items():
            names, long = names_of(pattern), name in ("backbones", "tables")
            text = f"{len(names)}; list them with `tokenloc list {name}`" if long else ", ".join(names)
            print(f"{name}: {text or 'none'}")


def _print_methods(names: list[str]) -> None:
    """Print the paper, the cost and the advice of each method."""
    for name in names:
        method = METHODS[name]
        described = (sys.modules[method.__module__].__doc__ or method.__doc__ or "").partition("\n")[0]
        cost = model_cost(ModelConfig(name, COMMON_BACKBONE, 1000))
        trained = "only the head is trained" if issubclass(method, Frozen) else "all weights are trained"
        size = f"{cost.parameters:.1f} M parameters, {cost.macs:.1f} G multiply-accumulates on {COMMON_BACKBONE}"
        print("\n  ".join(line for line in (name, described, f"{size}; {trained}", method.advice) if line))


def _print_tables(names: list[str]) -> None:
    """Print the caption of each table, and why rows cannot be run."""
    for name in names:
        table = read_table(name)
        print(f"{name}: {table.title} ({len(table.rows)} rows, protocol {table.protocol})")
        for row in table.rows:
            if row.unavailable is not None:
                print(f"  cannot be run: {row.name}: {row.unavailable}")


def info(
    checkpoint: Path | None = None,
    *,
    model: ModelChoice | None = None,
    num_classes: int = 1000,
    size: int = 224,
    freeze: Freeze = "none",
    data: DataConfig | None = None,
    split: str = "train",
) -> None:
    """Describe a checkpoint or a model, or check a dataset for broken files; without any, print versions.

    Args:
        checkpoint: a checkpoint of `tokenloc train`, a run's folder, a folder that was saved for sharing, or
            hf-hub:USER/NAME; or a folder of photographs, to check as `tokenloc train PHOTOS` uses it.
        model: a model to describe, --model.method and --model.backbone: its parameters and multiply-accumulates.
        num_classes: of this model.
        size: side in pixels of the images of this model.
        freeze: the frozen part of this model, see --optimisation.freeze of `tokenloc train` (SAT, Table 14).
        data: the dataset to check, --data.name and --data.root.
        split: the split of the dataset to check.
    """
    if checkpoint is not None and checkpoint.is_dir() and not is_model(checkpoint):
        print_dataset(DataConfig(**{**folder_recipe()["data"], "root": checkpoint}), "all", plan=True)
    elif checkpoint is not None:
        metadata = read_metadata(checkpoint)
        chosen = metadata.threshold
        print(f"method: {metadata.model.method} {metadata.model.options or ''}".rstrip())
        print(f"backbone: {metadata.model.backbone}")
        print(f"preprocessing: {metadata.preprocessing}")
        print(f"threshold: {f'{chosen.value:g}, {chosen.source}' if chosen else 'not calibrated'}")
        print(f"classes ({len(metadata.classes)}): {', '.join(metadata.classes)}")
        _print_cost(model_cost(metadata.model, metadata.preprocessing.size), metadata.preprocessing.size)
    if model is not None:
        chosen_model = (model.method, model.backbone, num_classes, (size, size), model.options, model.backbone_options)
        _print_cost(model_cost(ModelConfig(*chosen_model), (size, size)), (size, size))
        with torch.device("meta"):
            options = {**model.options, "backbone_options": model.backbone_options}
            network = create_model(model.method, model.backbone, num_classes, False, size, **options)
        print(freeze_part(network, freeze))
    if data is not None:
        print_dataset(data, split)
    if checkpoint is None and model is None and data is None:
        print("\n".join(f"{name} {version}" for name, version in versions().items()))


def _print_cost(cost: Cost, size: tuple[int, int]) -> None:
    image = f"{size[0]} x {size[1]} image"
    print(f"parameters: {cost.parameters:.2f} M")
    print(f"multiply-accumulates of a {image}: {cost.macs:.2f} G ({cost.layer_macs:.2f} G without attention products)")
