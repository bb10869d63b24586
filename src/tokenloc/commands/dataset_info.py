"""What `tokenloc info` prints about a dataset: classes, duplicates, the splits of a training, problems."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import TypeVar

import numpy as np

from tokenloc._files import open_regular
from tokenloc._names import counted
from tokenloc.commands.console import IncompleteError
from tokenloc.data import ImageDataset, create_dataset
from tokenloc.data.base import shorten
from tokenloc.training.config import DataConfig
from tokenloc.training.data import open_split, open_training_images

PROBLEMS = 20  # that are printed
CLASSES = 30  # whose numbers of images are printed
IMBALANCE = 3  # times as many images as another class, from which it is mentioned

Key = TypeVar("Key", bound=Hashable)


def print_dataset(data: DataConfig, split: str, plan: bool = False) -> None:
    """Print what a split contains, with ``plan`` the splits of a training, and the problems of the split.

    Raises:
        IncompleteError: if there are problems.
    """
    dataset = create_dataset(data.name, data.root, split, data.classes, **data.options)
    truth = f"{sum(len(sample.boxes) for sample in dataset)} boxes" + (", masks" if dataset.has_masks else "")
    print(
        f"{data.name}, {split}: {counted(len(dataset), 'image')} of {counted(len(dataset.classes), 'class')}, {truth}"
    )
    _print_classes(dataset)
    if plan:
        _print_plan(data)
    _print_duplicates(dataset)
    problems = dataset.check()
    print("\n".join(f"  {problem}" for problem in problems[:PROBLEMS]) or "no problems")
    if len(problems) > PROBLEMS:
        print(f"  … and {len(problems) - PROBLEMS} more")
    if problems:
        raise IncompleteError(f"{len(problems)} problems in {data.name}, {split}: correct or remove these files")


def _print_classes(dataset: ImageDataset) -> None:
    counts = np.bincount(dataset.labels, minlength=len(dataset.classes))
    ordered = np.argsort(counts, kind="stable").tolist()
    few, many = ordered[0], ordered[-1]
    each = ", ".join(f"{dataset.classes[index]} {counts[index]}" for index in ordered)
    listed = f": {each}" if len(ordered) <= CLASSES else ""
    print(f"images a class: {counts[few]} to {counts[many]}, median {np.median(counts):g}{listed}")
    if counts[many] >= IMBALANCE * max(1, counts[few]):
        ratio = counts[many] / max(1, counts[few])
        names = f"{dataset.classes[many]} has {ratio:.1f} times as many images as {dataset.classes[few]}"
        print(f"imbalance: {names}; the classifier will prefer it")


def _print_plan(data: DataConfig) -> None:
    """Print how many images training uses, and how many are held out for what."""
    train, val = open_training_images(data), open_split(data, data.val_split, data.classes)
    held_out = "none held out" if val is None else f"{len(val)} held out to choose the epoch ({data.val_split})"
    print(f"training: {len(train)} images ({data.train_split}), {held_out}")


def _print_duplicates(dataset: ImageDataset) -> None:
    for group in duplicates(dataset):
        samples = [dataset[index] for index in group]
        names = {dataset.classes[sample.label] for sample in samples}
        note = f", in different classes: {', '.join(sorted(names))}" if len(names) > 1 else ""
        print(f"identical files: {shorten([sample.id for sample in samples])}{note}")


def duplicates(dataset: ImageDataset) -> list[list[int]]:
    """Return the indices of images whose files are identical, group by group; unreadable files are left out."""
    paths = {index: sample.path for index, sample in enumerate(dataset) if sample.path and sample.path.is_file()}
    same_size = _groups((path.stat().st_size, index) for index, path in paths.items())
    return [group for indices in same_size for group in _groups((_digest(paths[index]), index) for index in indices)]


def _groups(keys: Iterable[tuple[Key, int]]) -> list[list[int]]:
    """Return the indices that share a key, of at least two each."""
    groups: dict[Key, list[int]] = defaultdict(list)
    for key, index in keys:
        groups[key].append(index)
    return [group for group in groups.values() if len(group) > 1]


def _digest(path: Path) -> bytes:
    digest = hashlib.blake2b()
    with open_regular(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()
