"""The boxes of every image at every threshold, on disk: ``boxes.npz``, beside an evaluation's ``images.csv``.

A box at another threshold is then known without the map, so that a report can show what another threshold would do.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenloc._files import atomic_write
from tokenloc.boxes import Frame, Protocol, possible_boxes
from tokenloc.metrics.scores import ImageScores, scored_thresholds
from tokenloc.metrics.stored_maps import frame_numbers, frame_of, told

FORMAT = "tokenloc boxes 1"
_BOX, _IOU = np.dtype(np.int16), np.dtype(np.float32)


class BoxWriter:
    """Takes the boxes of images as they come; made by :func:`writing_boxes`.

    They wait in a file: in memory there is a hundred bytes or two of each image.

    Args:
        protocol: Of the scores.
        threshold: The fixed one of the scores, see :func:`scored_thresholds`.
        scratch: An empty temporary file, open for writing and reading.
    """

    def __init__(self, protocol: Protocol, threshold: float | None, scratch: IO[bytes]) -> None:
        self._protocol, self._thresholds = protocol, scored_thresholds(protocol, threshold)
        self._scratch = scratch
        self._lengths: list[int] = []
        self._ids: list[str] = []
        self._frames = bytearray()
        self._truth, self._owners = bytearray(), bytearray()

    def add(self, id_: str, frame: Frame, truth: NDArray[np.float64], scores: ImageScores) -> None:
        """Add an image: its true boxes [G, 4] in original pixels (impossible ones are left out), and its scores."""
        count = len(self._thresholds)
        found = np.zeros((count, 4), _BOX) if scores.boxes is None else scores.boxes.found.astype(_BOX)
        iou = np.full(count, np.nan, _IOU) if scores.boxes is None else scores.boxes.largest.astype(_IOU)
        packed = zlib.compress(found.tobytes() + iou.tobytes(), level=1)
        self._scratch.write(packed)
        self._lengths.append(len(packed))
        truth = possible_boxes(truth, frame)
        self._owners += np.full(len(truth), len(self._ids), np.int64).tobytes()
        self._truth += truth.tobytes()
        self._frames += frame_numbers(frame).tobytes()
        self._ids.append(id_)

    def save(self, path: Path) -> None:
        """Write the file, one image after the other; whole or not at all."""
        about = {"format": FORMAT, "protocol": self._protocol.name, "ids": self._ids}
        small: dict[str, NDArray[Any]] = {
            "about": np.frombuffer(json.dumps(about).encode(), np.uint8),
            "thresholds": self._thresholds,
            "frames": np.frombuffer(self._frames).reshape(-1, 8),
            "truth": np.frombuffer(self._truth).reshape(-1, 4),
            "truth_images": np.frombuffer(self._owners, np.int64),
        }
        images, count = len(self._ids), len(self._thresholds)
        boxes = count * 4 * _BOX.itemsize  # of an image's bytes, those before its IoU
        with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for name, array in small.items():
                _write_rows(archive, name, array.shape, array.dtype, [array.tobytes()])
            _write_rows(archive, "boxes", (images, count, 4), _BOX, (raw[:boxes] for raw in self._unpacked()))
            _write_rows(archive, "iou", (images, count), _IOU, (raw[boxes:] for raw in self._unpacked()))

    def _unpacked(self) -> Iterator[bytes]:
        self._scratch.seek(0)
        for length in self._lengths:
            yield zlib.decompress(self._scratch.read(length))


def _write_rows(
    archive: zipfile.ZipFile,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    rows: Iterable[bytes],
) -> None:
    """Write an array to an .npz of numpy's form without ever holding it whole."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    entry = zipfile.ZipInfo(f"{name}.npy")  # without the time, so that equal evaluations give equal files
    entry.compress_type = zipfile.ZIP_DEFLATED
    with archive.open(entry, "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        for row in rows:
            member.write(row)


@contextmanager
def writing_boxes(path: str | Path, protocol: Protocol, threshold: float | None) -> Iterator[BoxWriter]:
    """Yield a writer; when the block ends without an error ``path`` is there, whole, otherwise it is as it was.

    Args:
        path: Of the file, an .npz.
        protocol: Of the scores that will be added.
        threshold: The fixed map threshold of these scores; None for the protocol's own rule.
    """
    with TemporaryFile() as scratch:
        writer = BoxWriter(protocol, threshold, scratch)
        yield writer
        writer.save(Path(path))


class SweptImage(NamedTuple):
    """One image's boxes at T thresholds: [T, 4] xyxy in original pixels, and their IoU [T], NaN without a true box."""

    boxes: NDArray[np.float64]
    iou: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class StoredBoxes:
    """The ``boxes.npz`` of an evaluation.

    Args:
        path: Of the file.
        protocol: Name of the protocol.
        ids: Of the N images, in the order of images.csv.
        thresholds: [T] float64: the protocol's grid, at its end the fixed one where there is one.
        frames: [N, 8] float64, see ``frame_numbers``.
        truth: For each image its true boxes [G, 4] float64 xyxy, original pixels.
    """

    path: Path
    protocol: str
    ids: Sequence[str]
    thresholds: NDArray[np.float64]
    frames: NDArray[np.float64]
    truth: Sequence[NDArray[np.float64]]

    def size(self, index: int) -> tuple[int, int]:
        """Return (width, height) of an image in original pixels."""
        return frame_of(self.frames[index]).original_size

    def images(self, wanted: Collection[int]) -> Iterator[tuple[int, SweptImage]]:
        """Yield those of the images whose indices are ``wanted``, in order; the others are never in memory.

        Raises:
            ValueError: where the file is damaged.
        """
        last = max(wanted, default=-1)
        with _reading(self.path), zipfile.ZipFile(self.path) as archive:
            rows = zip(_rows(archive, "boxes", (4,)), _rows(archive, "iou", ()), strict=True)
            for index, (boxes, iou) in enumerate(rows):
                if index in wanted:
                    yield index, SweptImage(frame_of(self.frames[index]).to_original(boxes), iou)
                if index >= last:
                    return


def open_boxes(path: str | Path) -> StoredBoxes:
    """Open a ``boxes.npz``.

    Raises:
        FileNotFoundError: where there is none.
        ValueError: where it is damaged, or of another form.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: measure the run with `tokenloc evaluate`, which writes it")
    with path.open("rb") as file, _reading(path), np.load(file, allow_pickle=False) as arrays:
        about = json.loads(arrays["about"].tobytes())
        if about["format"] != FORMAT:
            raise ValueError(f"it is of the form {about['format']!r}")
        truth = np.split(arrays["truth"], _ends(arrays["truth_images"], len(about["ids"])))
        return StoredBoxes(path, about["protocol"], about["ids"], arrays["thresholds"], arrays["frames"], truth)


def _reading(path: Path) -> AbstractContextManager[None]:
    return told(f"{path} is damaged, or not of the form {FORMAT!r}; measure again with `tokenloc evaluate`")


def _ends(owners: NDArray[np.int64], images: int) -> NDArray[np.int64]:
    """Return where among the true boxes each image's begin, but for the first's."""
    return np.searchsorted(owners, np.arange(1, images))


def _rows(archive: zipfile.ZipFile, name: str, last: tuple[int, ...]) -> Iterator[NDArray[Any]]:
    """Yield the rows [T, *last] of an array in an .npz one by one."""
    with archive.open(f"{name}.npy") as member:
        np.lib.format.read_magic(member)
        shape, _, dtype = np.lib.format.read_array_header_1_0(member)
        if dtype.hasobject or shape[2:] != last:
            raise ValueError(f"{name} is of {dtype} and shape {shape}")
        size = int(np.prod(shape[1:])) * dtype.itemsize
        for _ in range(shape[0]):
            yield np.frombuffer(member.read(size), dtype).reshape(shape[1:])
