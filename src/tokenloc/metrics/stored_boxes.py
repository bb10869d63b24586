"""``boxes.npz``: the box of every image at every threshold, written beside ``images.csv``.

With it a report can show boxes at another threshold without the maps.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenloc._files import atomic_write
from tokenloc.boxes import Frame
from tokenloc.metrics.scores import Scorer
from tokenloc.metrics.stored_maps import as_value_error
from tokenloc.metrics.table import ScoreTable

FORMAT = "tokenloc boxes 1"


def save_boxes(path: str | Path, images: ScoreTable, scorer: Scorer) -> None:
    """Write the boxes of all images atomically, without holding them in memory.

    Args:
        path: of the ``.npz`` file.
        images: scored by ``scorer``.
        scorer: of the images.
    """
    ids: list[str] = []
    frames, truth, owners = bytearray(), bytearray(), bytearray()
    for index, image in enumerate(images):
        ids.append(image.id)
        frames += image.frame.to_array().tobytes()
        truth += image.truth.tobytes()
        owners += np.full(len(image.truth), index, np.int64).tobytes()
    about = {"format": FORMAT, "protocol": scorer.protocol.name, "ids": ids}
    small: dict[str, NDArray[Any]] = {
        "about": np.frombuffer(json.dumps(about).encode(), np.uint8),
        "thresholds": scorer.thresholds,
        "frames": np.frombuffer(frames).reshape(-1, 8),
        "truth": np.frombuffer(truth).reshape(-1, 4),
        "truth_images": np.frombuffer(owners, np.int64),
    }
    thresholds = len(scorer.thresholds)
    no_boxes, no_iou = np.zeros((thresholds, 4), np.int16), np.full(thresholds, np.nan, np.float32)
    boxes = (image.boxes if len(image.truth) else no_boxes for image in images)
    iou = (image.largest.astype(np.float32) if len(image.truth) else no_iou for image in images)
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in small.items():
            _write_array(archive, name, array.shape, array.dtype, [array])
        _write_array(archive, "boxes", (len(ids), *no_boxes.shape), no_boxes.dtype, boxes)
        _write_array(archive, "iou", (len(ids), *no_iou.shape), no_iou.dtype, iou)


def _write_array(
    archive: zipfile.ZipFile,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    parts: Iterable[NDArray[Any]],
) -> None:
    """Write an array in NumPy's .npz format, part by part."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    entry = zipfile.ZipInfo(f"{name}.npy")  # no time stamp: equal evaluations give equal files
    entry.compress_type = zipfile.ZIP_DEFLATED
    with archive.open(entry, "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        for part in parts:
            member.write(part.tobytes())


class ImageBoxes(NamedTuple):
    """The boxes of one image at T thresholds: [T, 4] xyxy in original pixels, and their IoU [T], NaN without truth."""

    boxes: NDArray[np.float64]
    iou: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class StoredBoxes:
    """The ``boxes.npz`` of an evaluation.

    Attributes:
        path: of the file.
        protocol: name of the protocol.
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

        Raises:
            ValueError: if the file is damaged.
        """
        last = max(wanted, default=-1)
        with _reading(self.path), zipfile.ZipFile(self.path) as archive:
            rows = zip(_read_rows(archive, "boxes", (4,)), _read_rows(archive, "iou", ()), strict=True)
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
    with path.open("rb") as file, _reading(path), np.load(file, allow_pickle=False) as arrays:
        about = json.loads(arrays["about"].tobytes())
        if about["format"] != FORMAT:
            raise ValueError(f"its format is {about['format']!r}")
        starts = np.searchsorted(arrays["truth_images"], np.arange(1, len(about["ids"])))
        truth = np.split(arrays["truth"], starts)
        return StoredBoxes(path, about["protocol"], about["ids"], arrays["thresholds"], arrays["frames"], truth)


def _reading(path: Path) -> AbstractContextManager[None]:
    return as_value_error(f"{path} is damaged or not of the format {FORMAT!r}; evaluate again with `tokenloc evaluate`")


def _read_rows(archive: zipfile.ZipFile, name: str, last: tuple[int, ...]) -> Iterator[NDArray[Any]]:
    """Yield the rows [T, *last] of an array in an .npz file one by one."""
    with archive.open(f"{name}.npy") as member:
        np.lib.format.read_magic(member)
        shape, _, dtype = np.lib.format.read_array_header_1_0(member)
        if dtype.hasobject or shape[2:] != last:
            raise ValueError(f"{name} has dtype {dtype} and shape {shape}")
        size = int(np.prod(shape[1:])) * dtype.itemsize
        for _ in range(shape[0]):
            yield np.frombuffer(member.read(size), dtype).reshape(shape[1:])
