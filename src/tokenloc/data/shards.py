"""TrainingData in tar shards, WebDataset's form, read by random access: a few large files in place of a million."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tokenloc.boxes.frame import Size
from tokenloc.data.base import NO_BOXES, Sample, named, require_root, select_classes
from tokenloc.data.fingerprints import file_fingerprint
from tokenloc.data.images import read_image
from tokenloc.data.listed import ColumnDataset, SampleColumns
from tokenloc.data.registry import DATASETS
from tokenloc.data.shard_index import Integers, ShardIndex, read_part
from tokenloc.data.webdataset import scan

DESCRIPTION = "shards.json"
FORMAT = 1
CLASSES = "classes.txt"
SOURCE = (
    "a folder of `tokenloc shards`, or of WebDataset tars: DIR/train/*.tar, or DIR/*train*.tar, and so for val, test"
)
"""What is expected on disk."""

_STARTS = {b"\xff\xd8": "jpg", b"\x89PNG": "png"}
_OTHER_WORDS = {"val": ("valid", "validation")}


class ShardTable(SampleColumns):
    """Samples of several shards as columns, each made when it is asked for: a million take seconds, little memory.

    Args:
        ids: the samples' ids, [N].
        labels: class indices, [N].
        place: (number of the shard, offset, size) of each image's file, [N, 3].
        box_ends: where the boxes of each sample end among ``boxes``, [N].
        boxes: [G, 4] float64 xyxy, original pixels.
    """

    def __init__(
        self, ids: Sequence[str], labels: Integers, place: Integers, box_ends: Integers, boxes: NDArray[np.float64]
    ) -> None:
        self.ids, self.labels, self.place, self.box_ends, self.boxes = ids, labels, place, box_ends, boxes
        self.boxes.setflags(write=False)

    @classmethod
    def of(cls, shards: Sequence[ShardIndex]) -> ShardTable:
        """Return the samples of all ``shards``, in their order."""
        numbers = np.repeat(np.arange(len(shards)), [len(shard) for shard in shards])
        offsets, sizes = (np.concatenate([getattr(one, name) for one in shards]) for name in ("offsets", "sizes"))
        return cls(
            [name for shard in shards for name in shard.ids],
            np.concatenate([shard.labels for shard in shards]),
            np.stack([numbers, offsets, sizes], axis=1),
            np.cumsum(np.concatenate([shard.box_counts for shard in shards])),
            np.concatenate([shard.boxes for shard in shards]),
        )

    def selected(self, labels: Integers) -> ShardTable:
        """Return the samples whose new label is not negative; ``labels`` [C] are the new ones, by the old."""
        if np.array_equal(labels, np.arange(len(labels))):
            return self
        rows = np.flatnonzero(labels[self.labels] >= 0)
        counts = np.diff(self.box_ends, prepend=0)
        boxes = self.boxes[np.repeat(labels[self.labels] >= 0, counts)]
        ids = [self.ids[row] for row in rows.tolist()]
        return ShardTable(ids, labels[self.labels[rows]], self.place[rows], np.cumsum(counts[rows]), boxes)

    def sample(self, index: int) -> Sample:
        """See ``SampleColumns.sample``."""
        end = int(self.box_ends[index])
        start = int(self.box_ends[index - 1]) if index % len(self) else 0
        boxes = self.boxes[start:end] if end > start else NO_BOXES
        return Sample(self.ids[index], None, int(self.labels[index]), boxes)


@DATASETS.register("shards")
class ShardsDataset(ColumnDataset):
    """Images in tar files, found by an index of offsets and read one by one; nothing is ever extracted.

    A folder of `tokenloc shards` has the ids, classes, boxes and order of the dataset that it was written from, so
    that a training is the same, bit by bit (unless the images were resized). Masks are not in it.

    WebDataset tars of any origin are read as well: samples of one image (KEY.jpg or another suffix) and the number
    of its class (KEY.cls), without boxes. Their headers are scanned each time. Classes are called by the lines of a
    file classes.txt in the folder, or by their numbers.

    Args:
        root: the folder that has a folder of tars for each split, or tars with the split's name in their own.
        split: "train", "val", "test" or another for which there are tars.
        classes: names to select; labels follow the selection, in the shards' order.

    Raises:
        FileNotFoundError: where a shard or its index is missing.
        ValueError: where shards are cut short, damaged or unfinished, name what they do not hold, or where two splits
            have other classes.
    """

    name = "shards"
    splits = ("train", "val", "val2", "trainval", "test", "all")
    samples: ShardTable

    def __init__(self, root: str | Path | None, split: str, classes: Sequence[str] | None = None) -> None:
        self.require_split(split)
        folder = require_root(root, self.name, SOURCE)
        if (folder / split / DESCRIPTION).is_file():
            self._shards, indices, names = _written(folder, split)
        else:
            self._shards, indices, names = _foreign(folder, split)
        chosen = select_classes(names, classes)
        label_of = {name: label for label, name in enumerate(chosen)}
        labels = np.array([label_of.get(name, -1) for name in names])
        super().__init__(split, chosen, ShardTable.of(indices).selected(labels))

    @property
    def has_boxes(self) -> bool:
        """Whether a box is known for any sample."""
        return len(self.samples.boxes) > 0

    def image(self, index: int, min_size: Size | None = None) -> Image.Image:
        """See ``ImageDataset.image``; messages name the shard and the image."""
        name = f"{self._shard(index)}: {self.samples.ids[index]}"
        return read_image(self._content(index), min_size=min_size, name=name)

    def file(self, index: int) -> tuple[str, bytes]:
        """See ``ImageDataset.file``; the suffix is that of the content, or else of the id."""
        content = self._content(index)
        of_content = (suffix for start, suffix in _STARTS.items() if content.startswith(start))
        return next(of_content, self.samples.ids[index].rpartition(".")[2].lower()), content

    def fingerprint(self, index: int) -> str:
        """See ``ImageDataset.fingerprint``: that of the shard, and the image's place in it."""
        return f"{file_fingerprint(self._shard(index))} {self.samples.place[index].tolist()}"

    def _shard(self, index: int) -> Path:
        return self._shards[int(self.samples.place[index, 0])]

    def _content(self, index: int) -> bytes:
        _, offset, size = self.samples.place[index].tolist()
        return read_part(self._shard(index), offset, size)


@dataclass(frozen=True)
class Description:
    """What shards.json tells of a split's folder.

    Attributes:
        classes: class names, in the order of their labels.
        images: how many there are in all shards.
        source: what the shards were made of, and how, as plain values.
        shards: how many there are; None until all are written.
    """

    classes: tuple[str, ...]
    images: int
    source: dict[str, Any]
    shards: int | None = None

    @classmethod
    def read(cls, folder: Path) -> Description:
        """Read it; raises ValueError where it is damaged or of another format."""
        path = folder / DESCRIPTION
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("format") != FORMAT:
                raise ValueError(f"another format than {FORMAT}")
            classes = tuple(str(name) for name in content.pop("classes"))
            found = cls(classes, **content)
            if not (isinstance(found.images, int) and isinstance(found.source, dict)):
                raise ValueError("images must be a number and source a mapping")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged ({error}); copy it again, or write the shards anew") from error
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that ``read`` reads from JSON."""
        return {"format": FORMAT, **self.__dict__, "classes": list(self.classes)}


def shard_name(number: int) -> str:
    """Return the name of a shard's tar.

    >>> shard_name(7)
    '00007.tar'
    """
    return f"{number:05d}.tar"


def _written(folder: Path, split: str) -> tuple[list[Path], list[ShardIndex], tuple[str, ...]]:
    """Return tars, their indices and the classes of a folder of ``tokenloc shards``."""
    place = folder / split
    told = Description.read(place)
    if told.shards is None:
        raise ValueError(f"{place} is not finished: give the command again that writes it (tokenloc shards …)")
    _refuse_same_names(told.classes, place / DESCRIPTION)
    _refuse_other_classes(folder, place, told.classes)
    tars = [place / shard_name(number) for number in range(told.shards)]
    indices = [ShardIndex.load(tar.with_suffix(".npz"), tar) for tar in tars]
    found = sum(map(len, indices))
    if found != told.images:
        raise ValueError(f"{place}: its shards hold {found} images, {DESCRIPTION} says {told.images}")
    for tar, index in zip(tars, indices, strict=True):
        _refuse_labels(tar, index, len(told.classes), place / DESCRIPTION)
    return tars, indices, told.classes


def _foreign(folder: Path, split: str) -> tuple[list[Path], list[ShardIndex], tuple[str, ...]]:
    """Return WebDataset tars, their indices and the classes."""
    inside = folder / split
    tars = _tars(inside) if inside.is_dir() else list(_of_split(folder, split))
    if not tars:
        packed = [path.name for path in sorted([*folder.glob("*.tar.*"), *inside.glob("*.tar.*")])]
        remark = f"; {named(packed)} must be unpacked to .tar" if packed else ""
        raise FileNotFoundError(f"{folder} has no shard of split {split}: expected {SOURCE}{remark}")
    indices = [scan(tar) for tar in tars]
    listed = folder / CLASSES
    if not listed.is_file():
        return tars, indices, tuple(map(str, range(1 + max(int(index.labels.max()) for index in indices))))
    names = tuple(listed.read_text(encoding="utf-8").rstrip().split("\n"))
    _refuse_same_names(names, listed)
    for tar, index in zip(tars, indices, strict=True):
        _refuse_labels(tar, index, len(names), listed)
    return tars, indices, names


def _tars(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.tar") if not path.name.startswith("."))


def _of_split(folder: Path, split: str) -> Iterator[Path]:
    """Yield the tars in a folder with the split among the words of their names."""
    words = {split, *_OTHER_WORDS.get(split, ())}
    for path in _tars(folder):
        if words & set(re.split("[^a-z0-9]+", path.stem.lower())):
            yield path


def _refuse_other_classes(folder: Path, place: Path, classes: tuple[str, ...]) -> None:
    """Raise ValueError where another split's shards have other classes, or in another order."""
    for path in sorted(folder.glob(f"*/{DESCRIPTION}")):
        others = Description.read(path.parent).classes
        if others != classes:
            differing = sorted(set(others) ^ set(classes))
            raise ValueError(
                f"{place / DESCRIPTION} and {path} have other classes, or in another order ({len(classes)} and "
                f"{len(others)}{'; in one alone: ' + named(differing) if differing else ''}): write both from one "
                "dataset, with the same --classes"
            )


def _refuse_same_names(names: Sequence[str], listed: Path) -> None:
    """Raise ValueError where a class has no name, or that of another."""
    again = sorted(name for name, count in Counter(names).items() if count > 1 or not name.strip())
    if again:
        raise ValueError(f"{listed} must name each class, and no two alike; correct {named(list(map(repr, again)))}")


def _refuse_labels(tar: Path, index: ShardIndex, classes: int, listed: Path) -> None:
    strays = np.flatnonzero((index.labels < 0) | (index.labels >= classes))
    if len(strays):
        first = int(strays[0])
        raise ValueError(
            f"{tar}: {index.ids[first]} has class number {index.labels[first]}, but {listed} names {classes} classes"
        )
