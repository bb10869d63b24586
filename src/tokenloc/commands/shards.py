"""``tokenloc shards``: a split of any dataset as a few large tar files."""

from __future__ import annotations

from pathlib import Path

from tokenloc.commands.console import print_message, progress
from tokenloc.data import create_dataset
from tokenloc.data.fingerprints import digest_of_images
from tokenloc.data.shard_writing import QUALITY, write_shards
from tokenloc.training.config import DataSource

GIGABYTE = 10**9


def shards(
    *,
    data: DataSource,
    out: Path,
    split: str = "train",
    classes: list[str] | None = None,
    size: float = 1.0,
    resize: int | None = None,
    workers: int = 0,
) -> Path:
    """Write a split as tar shards in WebDataset's form, which the dataset `shards` and other tools read.

    Each image's file goes in as it is, with its class, boxes and id. What was interrupted goes on with the same
    command.

    Args:
        data: the images: --data.name (folder where it is not given), --data.root, --data.options.
        out: the folder; the split gets a folder of its own in it.
        split: the split of the dataset.
        classes: the classes to keep, by name; all by default. Give the same for every split.
        size: gigabytes of a shard, about.
        resize: pixels of the shorter side: larger images are made so small, with their boxes, and stored as JPEG
            of quality 95 with full colour resolution; by default every file stays as it is.
        workers: processes that read the images.

    Returns:
        the split's folder.
    """
    if size <= 0:
        raise ValueError(f"--size must be above 0 gigabytes; got {size}")
    if resize is not None and resize < 1:
        raise ValueError(f"--resize must be at least 1 pixel; got {resize}")
    name, options = data.name or "folder", data.options or {}
    dataset = create_dataset(name, data.root, split, classes, **options)
    source = {
        "dataset": name,
        "split": split,
        "digest": digest_of_images(dataset, options, labels=True),
        "size": size,
        "resize": resize,
        "quality": None if resize is None else QUALITY,
    }
    folder = out / split
    before = write_shards(dataset, folder, round(size * GIGABYTE), source, resize, workers, progress)
    print_message(f"{len(dataset)} images in {folder}" + (f", {before} of them from before" if before else ""))
    if dataset.has_masks:
        print_message(f"the masks of {name} are not in the shards: measure by them on the dataset itself")
    return folder
