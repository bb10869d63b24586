"""A dataset's split as tar shards: each image's file as it is, or smaller, with its class, boxes and id."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from tokenloc._files import durable_write, refuse_unwritable, remove_partial_files, write_json
from tokenloc.boxes.frame import Frame
from tokenloc.data.base import ImageDataset, Sample
from tokenloc.data.loading import in_order
from tokenloc.data.shard_index import NO_ROOM, ShardIndex
from tokenloc.data.shards import DESCRIPTION, Description, shard_name

QUALITY = 95
"""Of resized JPEGs, whose colours keep the full resolution: see the page on the speed of loading."""

_BLOCK = 512  # bytes of a tar's header, for the names that are written here


@dataclass(frozen=True)
class Stored:
    """An image as it goes into a shard: its file's suffix and content, and boxes [G, 4] of its pixels."""

    suffix: str
    content: bytes
    boxes: NDArray[np.float64]


class Storing(Dataset["Stored | ValueError"]):
    """TrainingData on their way into shards; an error is given, not raised, so that it comes as it is from a worker.

    Args:
        dataset: the images.
        resize: pixels of the shorter side; None leaves the files as they are. None is made larger.
    """

    def __init__(self, dataset: ImageDataset, resize: int | None) -> None:
        self.dataset, self.resize = dataset, resize

    def __getitem__(self, index: int) -> Stored | ValueError:
        sample = self.dataset.samples[index]
        try:
            if self.resize is not None and (smaller := self._smaller(index, sample, self.resize)):
                return smaller
            file = self.dataset.file(index) or ("png", _encoded(self.dataset.image(index), "PNG"))
        except (OSError, ValueError) as error:
            return ValueError(f"{sample.path or sample.id} cannot be read ({error}); mend or remove it")
        return Stored(*file, sample.boxes)

    def _smaller(self, index: int, sample: Sample, side: int) -> Stored | None:
        """Return an image resized; None where it is small enough, or broken: then it stays as it is."""
        try:
            image = self.dataset.image(index)
        except ValueError:  # whoever trains with it is told, and is so without shards
            return None
        factor = side / min(image.size)
        if factor >= 1:
            return None
        width, height = (max(1, round(factor * length)) for length in image.size)
        small = image.resize((width, height), Image.Resampling.BILINEAR)
        boxes = Frame.resized(image.size, small.size).to_input(sample.boxes)
        return Stored("jpg", _encoded(small, "JPEG", quality=QUALITY, subsampling=0), boxes)


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def write_shards(
    dataset: ImageDataset,
    folder: Path,
    shard_bytes: int,
    source: dict[str, Any],
    resize: int | None = None,
    workers: int = 0,
    progress: Callable[[Iterable[Any], str, int], Iterator[Any]] = lambda items, *_: iter(items),
) -> int:
    """Write a split as shards of about ``shard_bytes``; what was begun from the same source is gone on with.

    A shard has, for each image, KEY.jpg (or its own suffix), KEY.cls (the number of its class) and KEY.json (id,
    class, boxes), KEY being its number. Beside it lies its index. Each file is written whole or not at all, and
    shards.json says at last that all are there.

    Args:
        dataset: the split.
        folder: where to.
        shard_bytes: a shard is closed once it is as large.
        source: what the shards depend on, as plain values.
        resize: of ``Storing``.
        workers: processes that read.
        progress: yields what it is given, with a label and the number.

    Returns:
        how many images had been there before.

    Raises:
        FileExistsError: where the folder holds finished shards.
        ValueError: where the folder holds other things or shards of another source, or a file cannot be read.
        OSError: where nothing can be written.
    """
    told = Description(dataset.classes, len(dataset), source)
    _begin(folder, told)
    done = _whole_shards(folder)
    first = sum(map(len, done))
    rows = range(first, len(dataset))
    items = iter(progress(in_order(Storing(dataset, resize), rows, workers), f"{dataset.split} shards", len(rows)))
    numbers = count(len(done))
    written = first
    while written < len(dataset):
        written += _write_shard(dataset, written, items, folder / shard_name(next(numbers)), shard_bytes)
    next(items, None)  # so that the progress ends
    write_json(folder / DESCRIPTION, replace(told, shards=next(numbers)).to_dict())
    return first


def _begin(folder: Path, told: Description) -> None:
    """Describe what is to be written; raise where there is something else already."""
    if not (folder / DESCRIPTION).is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise FileExistsError(f"{folder} holds files that are no shards; give another --out")
        refuse_unwritable(folder)
        write_json(folder / DESCRIPTION, told.to_dict())
        return
    begun = Description.read(folder)
    if begun.shards is not None:
        raise FileExistsError(f"{folder} holds shards already; give another --out, or remove it")
    before, now = ({**one.source, "classes": one.classes, "images": one.images} for one in (begun, told))
    differing = [name for name in now if before.get(name) != now[name]]
    if differing:
        raise ValueError(
            f"{folder} was begun with other {', '.join(differing)}; go on with what it began with, or remove it"
        )
    remove_partial_files(folder)


def _whole_shards(folder: Path) -> list[ShardIndex]:
    """Return the indices of the shards that were written before."""
    done: list[ShardIndex] = []
    for number in count():
        tar = folder / shard_name(number)
        if not (tar.is_file() and tar.with_suffix(".npz").is_file()):
            return done
        done.append(ShardIndex.load(tar.with_suffix(".npz"), tar))
    return done


def _write_shard(
    dataset: ImageDataset, first: int, items: Iterator[Stored | ValueError], path: Path, shard_bytes: int
) -> int:
    """Write a shard of the next ``items``, which begin with the sample ``first``; return how many it took."""
    shard = _Shard()
    with durable_write(path, NO_ROOM) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(first, len(dataset)):
            item = next(items)
            if isinstance(item, ValueError):
                raise item
            shard.add(tar, number, dataset, item)
            if tar.offset >= shard_bytes:
                break
    shard.index(path.stat().st_size).save(path.with_suffix(".npz"))
    return len(shard.ids)


@dataclass
class _Shard:
    """The columns of a shard that is being written."""

    ids: list[str] = field(default_factory=list)
    rows: list[tuple[int, int, int, int]] = field(default_factory=list)
    boxes: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, tar: tarfile.TarFile, number: int, dataset: ImageDataset, item: Stored) -> None:
        """Write an image into the tar, and note where it lies."""
        sample, key = dataset.samples[number], f"{number:09d}"
        name = dataset.classes[sample.label]
        known = {"id": sample.id, "class": name, "label": sample.label, "boxes": item.boxes.tolist()}
        _add(tar, f"{key}.cls", str(sample.label).encode())
        _add(tar, f"{key}.json", json.dumps(known).encode())
        offset = _add(tar, f"{key}.{item.suffix or 'jpg'}", item.content)
        self.ids.append(sample.id)
        self.rows.append((sample.label, offset, len(item.content), len(item.boxes)))
        self.boxes.append(item.boxes)

    def index(self, tar_bytes: int) -> ShardIndex:
        labels, offsets, sizes, counts = np.array(self.rows, np.int64).T
        return ShardIndex(self.ids, labels, offsets, sizes, counts, np.concatenate(self.boxes), tar_bytes)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> int:
    """Add a file without owner and time, so that shards of the same images are the same; return its offset."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    offset = tar.offset + _BLOCK
    tar.addfile(member, io.BytesIO(content))
    return offset
