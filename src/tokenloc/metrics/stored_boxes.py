"""``boxes.npz``: the box of every image at every threshold, written beside ``images.csv``.

With it a report can show boxes at another threshold without the maps.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenloc._arrays import read_header, read_member
from tokenloc._files import atomic_write, reserve
from tokenloc._plain import load_json
from tokenloc.boxes import Frame
from tokenloc.metrics.scores import Scorer
from tokenloc.metrics.stored_maps import as_value_error
from tokenloc.metrics.table import ScoreTable

FORMAT = "tokenloc boxes 1"


def save_boxes(path: str | Path, images: ScoreTable, scorer: Scorer) -> None:
    """Write the boxes of all ``images``, scored by ``scorer``, atomically and without holding them in memory."""
    ids, frames, truth = [], [], []
    shape = len(images), len(scorer.thresholds)
    with TemporaryFile() as box_file, TemporaryFile() as iou_file:
        reserve(box_file, 8 * shape[0] * shape[1])
        reserve(iou_file, 4 * shape[0] * shape[1])
        boxes = np.memmap(box_file, np.int16, "w+", shape=(*shape, 4))
        iou = np.memmap(iou_file, np.float32, "w+", shape=shape)
        for index, image in enumerate(images):
            ids.append(image.id)
            frames.append(image.frame.to_array())
            truth.append(image.truth)
            iou[index] = np.nan
            if len(image.truth):
                boxes[index], iou[index] = image.boxes, image.largest
        about = {"format": FORMAT, "protocol": scorer.protocol.name, "ids": ids}
        # NumPy writes no time stamps: equal evaluations give equal files.
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                about=np.frombuffer(json.dumps(about).encode(), np.uint8),
                thresholds=scorer.thresholds,
                frames=np.stack(frames),
                truth=np.concatenate(truth),
                truth_images=np.repeat(np.arange(len(truth)), [len(each) for each in truth]),
                boxes=boxes,
                iou=iou,
            )


class ImageBoxes(NamedTuple):
    """The boxes of one image at T thresholds: [T, 4] xyxy in original pixels, and their IoU [T], NaN without truth."""

    boxes: NDArray[np.float64]
    iou: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class StoredBoxes:
    """The ``boxes.npz`` of an evaluation.

    Attributes:
        ids: of the N images, in the order of images.csv.
        thresholds: [T] float64, see ``Scorer.thresholds``.
        frames: [N, 8] float64, see ``Frame.to_array``.
        truth: ground-truth boxes [G, 4] float64 xyxy of each image, in original pixels.
    """

    path: Path
    protocol: str
    ids: Sequence[str]
    thresholds: NDArray[np.float64]
    frames: NDArray[np.float64]
    truth: Sequence[NDArray[np.float64]]

    def size(self, index: int) -> tuple[int, int]:
        """Return (width, height) of an image in original pixels."""
        return Frame.from_array(self.frames[index]).original_size

    def images(self, wanted: Collection[int]) -> Iterator[tuple[int, ImageBoxes]]:
        """Yield index and boxes of the images in ``wanted``, in order, without loading the others.

        Raises ValueError if the file is damaged.
        """
        last = max(wanted, default=-1)
        with _reading(self.path), zipfile.ZipFile(self.path) as archive:
            shape = len(self.ids), len(self.thresholds)
            rows = zip(_read_rows(archive, "boxes", (*shape, 4)), _read_rows(archive, "iou", shape), strict=True)
            for index, (boxes, iou) in enumerate(rows):
                if index in wanted:
                    yield index, ImageBoxes(Frame.from_array(self.frames[index]).to_original(boxes), iou)
                if index >= last:
                    return


def open_boxes(path: str | Path) -> StoredBoxes:
    """Open a ``boxes.npz``.

    Raises:
        FileNotFoundError: if it does not exist.
        ValueError: if it is damaged or of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: `tokenloc evaluate` writes it")
    with _reading(path), zipfile.ZipFile(path) as archive:
        about = load_json(read_member(archive, "about").tobytes())
        if about["format"] != FORMAT:
            raise ValueError(f"its format is {about['format']!r:.80}")
        names = ("thresholds", "frames", "truth", "truth_images")
        thresholds, frames, truth, owners = (read_member(archive, name) for name in names)
        protocol, ids = str(about["protocol"]), [str(id_) for id_ in about["ids"]]
        fitting = thresholds.ndim == owners.ndim == 1 and truth.shape == (len(owners), 4)
        if not fitting or frames.shape != (len(ids), 8) or np.any(np.diff(owners) < 0):
            raise ValueError(f"{len(ids)} images have frames {frames.shape} and true boxes {truth.shape}")
        split = np.split(truth, np.searchsorted(owners, np.arange(1, len(ids))))
        return StoredBoxes(path, protocol, ids, thresholds, frames, split)


def _reading(path: Path) -> AbstractContextManager[None]:
    return as_value_error(f"{path} is damaged or not of the format {FORMAT!r}; evaluate again with `tokenloc evaluate`")


def _read_rows(archive: zipfile.ZipFile, name: str, expected: tuple[int, ...]) -> Iterator[NDArray[Any]]:
    """Yield the rows [T, …] of an array of the ``expected`` shape [N, T, …] in an .npz file one by one."""
    with archive.open(f"{name}.npy") as member:
        shape, _, dtype = read_header(member)
        if shape != expected:
            raise ValueError(f"{name} has shape {shape}, expected {expected}")
        size = math.prod(shape[1:]) * dtype.itemsize
        for _ in range(shape[0]):
            yield np.frombuffer(member.read(size), dtype).reshape(shape[1:])
