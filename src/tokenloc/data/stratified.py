"""Seeded splits in which every class is in every part."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from tokenloc.data.base import ImageDataset, Subset, shorten


def stratified_indices(
    ids: Sequence[str], names: Sequence[str], fractions: Sequence[float], seed: int = 0
) -> list[NDArray[np.int64]]:
    """Split samples into parts, class by class.

    The samples of a class are ordered by a hash of seed and id. So a split is the same on every machine, adding or
    removing a class does not affect the others, and adding an image moves hardly any other.

    Args:
        ids: [N].
        names: class names, [N].
        fractions: of each part, above 0, with a sum below 1; rounded for each class to at least one sample.
        seed: of the split.

    Returns:
        Sorted indices, int64, of each part and last of the rest. They are disjoint and cover 0…N-1.

    >>> [part.tolist() for part in stratified_indices(["a", "b", "c", "d", "e"], ["x", "x", "x", "y", "y"], [0.5])]
    [[0, 2, 3], [1, 4]]
    """
    if not all(fraction > 0 for fraction in fractions) or sum(fractions) >= 1:
        raise ValueError(f"fractions must be above 0 and sum up to less than 1, got {list(fractions)}")
    members: dict[str, list[int]] = {}
    for index in sorted(range(len(ids)), key=lambda index: _hash(ids[index], seed)):
        members.setdefault(names[index], []).append(index)
    sizes = {name: _sizes(len(indices), fractions) for name, indices in members.items()}
    scarce = [f"{name} with {len(members[name])}" for name in members if sum(sizes[name]) >= len(members[name])]
    if scarce:
        report = f"too few images to have every class in all {len(fractions) + 1} parts: {shorten(sorted(scarce))}"
        raise ValueError(f"{report}; add images, or choose other fractions than {list(fractions)}")
    parts = [np.split(np.array(members[name], np.int64), np.cumsum(sizes[name])) for name in members]
    return [np.sort(np.concatenate(part)) for part in zip(*parts, strict=True)]


def few_shot(dataset: ImageDataset, per_class: int, draw: int = 0) -> Subset:
    """Return ``per_class`` samples of every class in the dataset's order, drawn by a hash of ``draw`` and id.

    A draw is the same on every machine, and a smaller draw is a part of a larger one.

    >>> from tokenloc.data import create_dataset
    >>> scenes = create_dataset("scenes", None, "train", length=12)
    >>> [scene.label for scene in few_shot(scenes, 1)]
    [0, 1, 2, 3, 4, 5]
    """
    if per_class < 1:
        raise ValueError(f"data.per_class must be at least 1; got {per_class}")
    members = [np.flatnonzero(dataset.labels == label).tolist() for label in range(len(dataset.classes))]
    counts = zip(dataset.classes, map(len, members), strict=True)
    scarce = [f"{name} with {count}" for name, count in counts if count < per_class]
    if scarce:
        report = (
            f"data.per_class asks for {per_class} images of each class; {dataset.name} {dataset.split} has fewer of"
        )
        raise ValueError(f"{report} {shorten(scarce)}; ask for fewer, or select other classes with data.classes")
    drawn = [sorted(part, key=lambda index: _hash(dataset.ids[index], draw))[:per_class] for part in members]
    return dataset.subset(sorted(index for part in drawn for index in part))


def _sizes(count: int, fractions: Sequence[float]) -> list[int]:
    """Return the number of ``count`` samples in each part; if rounding leaves no rest, the largest part gives one."""
    sizes = [max(1, round(fraction * count)) for fraction in fractions]
    while sum(sizes) >= count and max(sizes) > 1:
        sizes[sizes.index(max(sizes))] -= 1
    return sizes


def _hash(sample_id: str, seed: int) -> bytes:
    return blake2b(f"{seed}/{sample_id}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
