"""Maps on disk: tokenloc's compact format, and the ``.npy`` files that the `wsol-eval` evaluator (Choe et al.) reads.

tokenloc's format is a folder of ``manifest.json`` and ``maps-NNNNN.npz``: float32 maps as the method computed them,
with their frames and predicted classes, so that scoring them gives identical metrics.
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
MAPS_PER_FILE = 1000


@dataclass(frozen=True, eq=False)
class StoredMap:
    """The map of one image's true class; what the format does not store is None.

    Attributes:
        map_: [h, w] float.
        predicted: [P] int64 predicted classes, best first.
        frame: between the image and the network input.
        probability: of the first predicted class.
    """

    map_: NDArray[np.floating]
    predicted: NDArray[np.int64] | None = None
    frame: Frame | None = None
    probability: float | None = None


class StoredMaps(ABC):
    """A folder of maps.

    Args:
        folder: of the maps.
        ids: of all maps.
        about: how they were made; empty for maps of other code.
    """

    def __init__(self, folder: Path, ids: Sequence[str], about: Mapping[str, Any] = MappingProxyType({})) -> None:
        self.folder, self.ids, self.about = folder, ids, dict(about)

    @property
    def ready(self) -> bool:
        """Whether maps are already in [0, 1] and of the network's input size."""
        return not self.about

    @abstractmethod
    def load(self, id_: str) -> StoredMap:
        """Return a map; raises ValueError or OSError naming the file if it is broken."""


class NpyMaps(StoredMaps):
    """Maps of any code: one ``.npy`` file per image, named by its id; slashes in ids are folders."""

    def __init__(self, folder: Path) -> None:
        ids = sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.npy"))
        super().__init__(folder, ids)

    def load(self, id_: str) -> StoredMap:
        """See ``StoredMaps.load``."""
        path = self.folder / f"{id_}.npy"
        with path.open("rb") as file, as_value_error(f"{path} is not a .npy file of numbers"):
            array = np.lib.format.read_array(file, allow_pickle=False)
        if array.ndim != 2 or array.dtype.kind != "f":
            raise ValueError(
                f"{path} has shape {array.shape}, {array.dtype}; expected one map [height, width] of floats"
            )
        return StoredMap(array)


class TokenlocMaps(StoredMaps):
    """Maps written by ``writing_maps``."""

    def __init__(self, folder: Path) -> None:
        with as_value_error(f"{folder / MANIFEST} is not of the format {FORMAT!r}; save the maps again"):
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            if manifest["format"] != FORMAT:
                raise ValueError(f"its format is {manifest['format']!r}")
            files, about = manifest["files"], manifest["about"]
        self._positions = {id_: (name, row) for name, ids in files.items() for row, id_ in enumerate(ids)}
        self._cached: tuple[str, list[StoredMap]] = ("", [])
        super().__init__(folder, list(self._positions), about)

    def load(self, id_: str) -> StoredMap:
        """See ``StoredMaps.load``; loading in the order of ``ids`` reads each file once."""
        name, row = self._positions[id_]
        if self._cached[0] != name:
            self._cached = name, self._read(self.folder / name)
        maps = self._cached[1]
        if row >= len(maps):
            raise ValueError(f"{self.folder / name} has {len(maps)} maps, fewer than {MANIFEST} lists")
        return maps[row]

    def _read(self, path: Path) -> list[StoredMap]:
        message = f"{path} is not a .npz file of maps; save the maps again"
        with path.open("rb") as file, as_value_error(message), np.load(file, allow_pickle=False) as arrays:
            maps = arrays["maps"]
            # Older files have no probabilities.
            probabilities = arrays["probabilities"] if "probabilities" in arrays else np.full(len(maps), np.nan)
            rows = zip(maps, arrays["predicted"], arrays["frames"], probabilities.tolist(), strict=True)
            return [
                StoredMap(map_, predicted, Frame.from_array(frame), None if np.isnan(probability) else probability)
                for map_, predicted, frame, probability in rows
            ]


class MapWriter:
    """Writes maps in files of a thousand; created by ``writing_maps``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pending: list[tuple[str, NDArray[np.float32], NDArray[np.int64], NDArray[np.float64], float]] = []
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
        """Add the map of an image; see ``StoredMap`` for the arguments."""
        map_, classes = np.asarray(map_, dtype=np.float32), np.asarray(predicted, dtype=np.int64)
        shapes = map_.shape, classes.shape
        if self._pending and shapes != self._shapes:
            self.flush()
        self._shapes = shapes
        self._pending.append((id_, map_, classes, frame.to_array(), np.nan if probability is None else probability))
        if len(self._pending) == MAPS_PER_FILE:
            self.flush()

    def flush(self) -> None:
        """Write the pending maps."""
        if not self._pending:
            return
        name = f"maps-{len(self.files):05d}.npz"
        ids, maps, predicted, frames, probabilities = zip(*self._pending, strict=True)
        np.savez_compressed(
            self._folder / name,
            maps=np.stack(maps),
            predicted=np.stack(predicted),
            frames=np.stack(frames),
            probabilities=np.array(probabilities),
        )
        self.files[name] = list(ids)
        self._pending.clear()


@contextmanager
def writing_maps(folder: str | Path, about: Mapping[str, Any]) -> Iterator[MapWriter]:
    """Yield a writer for a new folder, which appears only if the block ends without an error.

    Args:
        folder: must not exist.
        about: plain values describing how the maps were made, ``input_frame`` among them.

    Raises:
        FileExistsError: if the folder exists.
    """
    with atomic_folder(folder) as temporary:
        writer = MapWriter(temporary)
        yield writer
        writer.flush()
        write_json(temporary / MANIFEST, {"format": FORMAT, "about": dict(about), "files": writer.files})


def open_maps(folder: str | Path) -> StoredMaps:
    """Open a folder of maps of either format.

    Raises:
        FileNotFoundError: if the folder does not exist or contains no map.
        ValueError: if its manifest is of another format.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: no such folder; expected maps of `tokenloc evaluate --save-maps`, or .npy files"
        )
    maps: StoredMaps = TokenlocMaps(folder) if (folder / MANIFEST).is_file() else NpyMaps(folder)
    if not maps.ids:
        raise FileNotFoundError(f"no map in {folder}: expected {MANIFEST} and .npz files, or ID.npy for each image")
    return maps


@contextmanager
def as_value_error(message: str) -> Iterator[None]:
    """Turn any error into a ValueError: NumPy and zipfile raise a dozen types for damaged files."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{message} ({type(error).__name__}: {error})") from error
