"""Seeded splits that keep every class in every part."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from tokenloc.data.base import ImageDataset, Subset, named


def stratified_indices(
    ids: Sequence[str], names: Sequence[str], fractions: Sequence[float], seed: int = 0
) -> list[NDArray[np.int64]]:
    """Deal samples into parts, class by class.

    A class's samples are taken in the order of a hash of seed and id. So a split is the same on every machine, one
    class more or less changes nothing for the others, and one image more moves hardly any other. A part takes the
    nearest whole number of each class, and at least one.

    Args:
        ids: the samples' ids, [N].
        names: the samples' class names, [N].
        fractions: share of each part, above 0; their sum is below 1.
        seed: picks the split.

    Returns:
        An array of sorted indices, int64, for every fraction, and last the rest. They are disjoint, cover 0…N-1, and
        hold every class.

    Raises:
        ValueError: for fractions out of range, or a class with too few samples to be in every part.

    >>> [part.tolist() for part in stratified_indices(["a", "b", "c", "d", "e"], ["x", "x", "x", "y", "y"], [0.5])]
    [[0, 2, 3], [1, 4]]
    """
    if not all(fraction > 0 for fraction in fractions) or sum(fractions) >= 1:
        raise ValueError(f"fractions must be above 0 and sum up to less than 1, got {list(fractions)}")
    members: dict[str, list[int]] = {}
    for index in sorted(range(len(ids)), key=lambda index: _draw(ids[index], seed)):
        members.setdefault(names[index], []).append(index)
    sizes = {name: _sizes(len(all_), fractions) for name, all_ in members.items()}
    scarce = [f"{name} with {len(members[name])}" for name in members if sum(sizes[name]) >= len(members[name])]
    if scarce:
        raise ValueError(
            f"too few images to have every class in all {len(fractions) + 1} parts: {named(sorted(scarce))}; add "
            f"images, or choose other fractions than {list(fractions)}"
        )
    dealt = [np.split(np.array(members[name], np.int64), np.cumsum(sizes[name])) for name in members]
    return [np.sort(np.concatenate(part)) for part in zip(*dealt, strict=True)]


def stratified_split(dataset: ImageDataset, fraction: float, seed: int = 0) -> tuple[Subset, Subset]:
    """Split a dataset in two, disjoint and with every class in both: (the rest, the held-out ``fraction``).

    Raises:
        ValueError: for a fraction not between 0 and 1, or a class with too few images; see ``stratified_indices``.
    """
    ids = [sample.id for sample in dataset]
    names = [dataset.classes[sample.label] for sample in dataset]
    held_out, rest = stratified_indices(ids, names, [fraction], seed)
    return dataset.subset(rest), dataset.subset(held_out)


def few_shot(dataset: ImageDataset, per_class: int, draw: int = 0) -> Subset:
    """Return ``per_class`` samples of every class, drawn by a hash of ``draw`` and id, in the dataset's order.

    So a draw is the same on every machine, and that of few samples is a part of that of more.

    Raises:
        ValueError: for less than one, or more than a class has.

    >>> from tokenloc.data import create_dataset
    >>> scenes = create_dataset("scenes", None, "train", length=12)
    >>> [scene.label for scene in few_shot(scenes, 1)]
    [0, 1, 2, 3, 4, 5]
    """
    if per_class < 1:
        raise ValueError(f"data.per_class must be at least 1; got {per_class}")
    members: dict[int, list[int]] = {label: [] for label in range(len(dataset.classes))}
    for index, sample in enumerate(dataset):
        members[sample.label].append(index)
    scarce = [f"{dataset.classes[label]} with {len(all_)}" for label, all_ in members.items() if len(all_) < per_class]
    if scarce:
        raise ValueError(
            f"data.per_class asks for {per_class} images of each class; {dataset.name} {dataset.split} has fewer of "
            f"these: {named(scarce)}. Ask for less, or choose the other classes with data.classes"
        )
    ids = [sample.id for sample in dataset]
    drawn = [sorted(all_, key=lambda index: _draw(ids[index], draw))[:per_class] for all_ in members.values()]
    return dataset.subset(sorted(index for part in drawn for index in part))


def _sizes(count: int, fractions: Sequence[float]) -> list[int]:
    """Return how many of ``count`` samples each part takes; where rounding leaves no rest, the largest gives one."""
    sizes = [max(1, round(fraction * count)) for fraction in fractions]
    while sum(sizes) >= count and max(sizes) > 1:
        sizes[sizes.index(max(sizes))] -= 1
    return sizes


def _draw(sample_id: str, seed: int) -> bytes:
    return blake2b(f"{seed}/{sample_id}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
