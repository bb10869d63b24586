"""Where the images of a tar shard lie in it, and what is known of them: columns, kept beside the shard."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenloc._files import durable_write

Integers = NDArray[np.int64]

NO_ROOM = "make room, then give the same command again"


@dataclass(frozen=True)
class ShardIndex:
    """The samples of one shard, [M], in their order.

    Attributes:
        ids: the samples' ids.
        labels: class indices, [M].
        offsets: first byte of each image's file in the tar, [M].
        sizes: bytes of each image's file, [M].
        box_counts: boxes of each sample, [M].
        boxes: of all samples, one after the other: [G, 4] float64 xyxy, original pixels, half-open.
        tar_bytes: size of the tar.
    """

    ids: Sequence[str]
    labels: Integers
    offsets: Integers
    sizes: Integers
    box_counts: Integers
    boxes: NDArray[np.float64]
    tar_bytes: int

    def __len__(self) -> int:
        return len(self.ids)

    def save(self, path: Path) -> None:
        """Write it, whole and down to the disk or not at all; raises OSError where it cannot be written."""
        text = np.frombuffer("\0".join(self.ids).encode("utf-8", "surrogateescape"), np.uint8)
        with durable_write(path, NO_ROOM) as file:
            np.savez(
                file,
                ids=text,
                labels=self.labels,
                offsets=self.offsets,
                sizes=self.sizes,
                box_counts=self.box_counts,
                boxes=self.boxes,
                tar_bytes=self.tar_bytes,
            )

    @classmethod
    def load(cls, path: Path, tar: Path) -> ShardIndex:
        """Read the index of a shard; nothing in it is run.

        Raises:
            FileNotFoundError: where the index or the tar is not there.
            ValueError: where the index is damaged, or the tar is not of the size that it had.
        """
        for needed in (tar, path):
            if not needed.is_file():
                raise FileNotFoundError(f"{needed} is missing; copy it again from where the shards were written")
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                index = cls._of({name: stored[name] for name in stored.files})
        except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is damaged ({error}); copy it again, or write the shards anew") from error
        found = tar.stat().st_size
        if found != index.tar_bytes:
            raise ValueError(f"{tar} has {found:,} bytes, {index.tar_bytes:,} were written; copy it again")
        return index

    @classmethod
    def _of(cls, stored: dict[str, NDArray[np.generic]]) -> ShardIndex:
        """Return an index of what a file holds; raise ValueError where it cannot be one."""
        text = stored["ids"].astype(np.uint8, casting="safe").tobytes().decode("utf-8", "surrogateescape")
        ids = text.split("\0")
        labels, offsets, sizes, counts = (
            stored[name].astype(np.int64, casting="safe") for name in ("labels", "offsets", "sizes", "box_counts")
        )
        boxes = stored["boxes"].astype(np.float64, casting="safe")
        tar_bytes = int(stored["tar_bytes"].astype(np.int64, casting="safe"))
        if any(column.shape != (len(ids),) for column in (labels, offsets, sizes, counts)):
            raise ValueError("its columns are not of one length")
        if counts.min() < 0 or boxes.shape != (counts.sum(), 4):
            raise ValueError("its boxes are not as many as it says")
        if offsets.min() < 0 or sizes.min() < 0 or (offsets > tar_bytes - sizes).any():
            raise ValueError("it names bytes that are not in the shard")
        return cls(ids, labels, offsets, sizes, counts, boxes, tar_bytes)


def read_part(tar: Path, offset: int, size: int) -> bytes:
    """Return ``size`` bytes of a tar; raises OSError where it is gone, ValueError where it ends before."""
    with tar.open("rb") as file:  # opened for each: nothing is shared among processes
        file.seek(offset)
        content = file.read(size)
    if len(content) < size:
        raise ValueError(f"{tar} is cut short; copy it again")
    return content
