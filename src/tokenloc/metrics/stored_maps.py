"""Maps on disk: tokenloc's own compact form, and the tree of ``.npy`` files that the `wsol-eval` evaluator (Choe et al.) reads.

tokenloc's form is a folder of ``manifest.json`` and ``maps-NNNNN.npz``. The maps are as the method made them, float32
on the patch grid; with each are its frame and the predicted classes, so that scoring them gives the very same numbers.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokenloc._files import atomic_folder, write_json
from tokenloc.boxes import Frame

MANIFEST = "manifest.json"
FORMAT = "tokenloc maps 1"
SHARD = 1000
"""Maps in one file."""


@dataclass(frozen=True, eq=False)
class StoredMap:
    """The map of one image's true class.

    Args:
        map_: [h, w] float.
        predicted: [P] int64 the predicted classes, best first; None where none are stored.
        frame: Of the network that made the map; None where it is not stored.
        probability: Of the first predicted class; None where it is not stored.
    """

    map_: NDArray[np.floating]
    predicted: NDArray[np.int64] | None = None
    frame: Frame | None = None
    probability: float | None = None


class StoredMaps(ABC):
    """A folder of maps, by the id that each is stored under.

    Args:
        folder: Where they are.
        ids: All of them.
        about: What is known of all; empty for maps of other code.
    """

    def __init__(self, folder: Path, ids: Sequence[str], about: Mapping[str, Any] = MappingProxyType({})) -> None:
        self.folder, self.ids, self.about = folder, ids, dict(about)

    @property
    def ready(self) -> bool:
        """Whether maps are in [0, 1] and of the network's size, to be taken as they are."""
        return not self.about

    @abstractmethod
    def load(self, id_: str) -> StoredMap:
        """Return the map stored under ``id_``; raises ValueError or OSError, naming the file, where it is broken."""


class NpyMaps(StoredMaps):
    """Maps of any code: a ``.npy`` file each, named by the image's id and in folders as the id has slashes."""

    def __init__(self, folder: Path) -> None:
        ids = sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.npy"))
        super().__init__(folder, ids)

    def load(self, id_: str) -> StoredMap:
        """See ``StoredMaps.load``."""
        path = self.folder / f"{id_}.npy"
        with path.open("rb") as file, told(f"{path} is no .npy file of numbers"):
            array = np.lib.format.read_array(file, allow_pickle=False)
        if array.ndim != 2 or array.dtype.kind != "f":
            raise ValueError(
                f"{path} has shape {array.shape}, {array.dtype}; expected one map [height, width] of floats"
            )
        return StoredMap(array)


class TokenlocMaps(StoredMaps):
    """Maps that ``writing_maps`` wrote."""

    def __init__(self, folder: Path) -> None:
        with told(f"{folder / MANIFEST} is not of the form {FORMAT!r}; save the maps again"):
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            if manifest["format"] != FORMAT:
                raise ValueError(f"it is of the form {manifest['format']!r}")
            files, about = manifest["files"], manifest["about"]
        self._places = {id_: (name, row) for name, ids in files.items() for row, id_ in enumerate(ids)}
        ids = [id_ for ids in files.values() for id_ in ids]
        super().__init__(folder, ids, about)
        self._open: tuple[str, list[StoredMap]] = ("", [])

    def load(self, id_: str) -> StoredMap:
        """See ``StoredMaps.load``; ids in the order of ``ids`` read each file once."""
        name, row = self._places[id_]
        if self._open[0] != name:
            self._open = name, self._read(self.folder / name)
        if row >= len(self._open[1]):
            raise ValueError(f"{self.folder / name} has {len(self._open[1])} maps, fewer than {MANIFEST} says")
        return self._open[1][row]

    def _read(self, path: Path) -> list[StoredMap]:
        report = f"{path} is no .npz file of maps; save the maps again"
        with path.open("rb") as file, told(report), np.load(file, allow_pickle=False) as arrays:
            maps = arrays["maps"]
            # Files of before there was a confidence have no probabilities.
            likely = arrays["probabilities"] if "probabilities" in arrays else np.full(len(maps), np.nan)
            rows = zip(maps, arrays["predicted"], arrays["frames"], likely.tolist(), strict=True)
            return [
                StoredMap(map_, predicted, frame_of(numbers), None if np.isnan(probability) else probability)
                for map_, predicted, numbers, probability in rows
            ]


class MapWriter:
    """Collects maps and writes them by the thousand; made by ``writing_maps``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: list[tuple[str, NDArray[np.float32], NDArray[np.int64], NDArray[np.float64], float]] = []
        self._shapes: tuple[tuple[int, ...], tuple[int, ...]] = (), ()
        self.files: dict[str, list[str]] = {}

    def add(
        self,
        id_: str,
        map_: NDArray[np.floating],
        predicted: ArrayLike,
        frame: Frame,
        probability: float | None = None,
    ) -> None:
        """Add an image's map; see ``StoredMap`` for the arguments, ``predicted`` must be known."""
        map_, classes = np.asarray(map_, dtype=np.float32), np.asarray(predicted, dtype=np.int64)
        shapes = map_.shape, classes.shape
        if self._waiting and shapes != self._shapes:
            self.flush()
        self._shapes = shapes
        self._waiting.append((id_, map_, classes, frame_numbers(frame), np.nan if probability is None else probability))
        if len(self._waiting) == SHARD:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if not self._waiting:
            return
        name = f"maps-{len(self.files):05d}.npz"
        ids, maps, predicted, frames, probabilities = zip(*self._waiting, strict=True)
        np.savez_compressed(
            self._folder / name,
            maps=np.stack(maps),
            predicted=np.stack(predicted),
            frames=np.stack(frames),
            probabilities=np.array(probabilities),
        )
        self.files[name] = list(ids)
        self._waiting.clear()


@contextmanager
def writing_maps(folder: str | Path, about: Mapping[str, Any]) -> Iterator[MapWriter]:
    """Yield a writer; when the block ends without an error ``folder`` is there, whole, otherwise nothing is.

    Args:
        folder: To be made; must not exist.
        about: Plain values on what made the maps: ``input_frame``, and what else a reader may want to know.

    Raises:
        FileExistsError: where the folder exists.
    """
    if Path(folder).exists():
        raise FileExistsError(f"{folder} exists already; remove it, or give another folder")
    with atomic_folder(folder) as temporary:
        writer = MapWriter(temporary)
        yield writer
        writer.flush()
        write_json(temporary / MANIFEST, {"format": FORMAT, "about": dict(about), "files": writer.files})


def open_maps(folder: str | Path) -> StoredMaps:
    """Open a folder of maps of either form.

    Raises:
        FileNotFoundError: where there is no such folder, or no map in it.
        ValueError: where its manifest is of another form.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: no such folder; expected maps of `tokenloc evaluate --save-maps`, or .npy files"
        )
    maps: StoredMaps = TokenlocMaps(folder) if (folder / MANIFEST).is_file() else NpyMaps(folder)
    if not maps.ids:
        raise FileNotFoundError(
            f"{folder} holds no map: expected {MANIFEST} beside its .npz files, or ID.npy for each image"
        )
    return maps


@contextmanager
def told(report: str) -> Iterator[None]:
    """Turn whatever the readers of files raise, a dozen types where one is damaged, into a ValueError."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{report} ({type(error).__name__}: {error})") from error


def frame_numbers(frame: Frame) -> NDArray[np.float64]:
    """Return a frame as [8] float64: original and network (width, height), scale and offset (x, y)."""
    return np.array([*frame.original_size, *frame.input_size, *frame.scale, *frame.offset], dtype=np.float64)


def frame_of(numbers: NDArray[np.float64]) -> Frame:
    """Return the frame that :func:`frame_numbers` wrote down."""
    width, height, columns, rows, *rest = numbers.tolist()
    scale_x, scale_y, offset_x, offset_y = rest
    return Frame((int(width), int(height)), (int(columns), int(rows)), (scale_x, scale_y), (offset_x, offset_y))
