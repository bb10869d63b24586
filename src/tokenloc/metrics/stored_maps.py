"""Maps on disk: tokenloc's compact format, and the ``.npy`` files that the `wsol-eval` evaluator (Choe et al.) reads.

tokenloc's format is a folder of ``manifest.json`` and ``maps-NNNNN.npz``: float32 maps as the method computed them,
with their frames and predicted classes, so that scoring them gives identical metrics.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokenloc._arrays import read_member, read_npy
from tokenloc._files import atomic_folder, open_regular, write_json
from tokenloc._plain import read_json, require_types
from tokenloc.boxes import Frame

MANIFEST = "manifest.json"
FORMAT = "tokenloc maps 1"
MAPS_PER_FILE = 1000
_ABOUT: dict[str, Any] = {"input_frame": str | None, "threshold_source": str | None}
_ABOUT |= {"threshold": float | None, "classes": list[str] | None}
_FILE = re.compile(r"maps-\d+\.npz")


class StoredMap(NamedTuple):
    """The map [h, w] of one image's true class; what the format does not store is None.

    ``predicted`` are the predicted classes [P] int64, best first, and ``probability`` is that of the first.
    """

    map_: NDArray[np.floating]
    predicted: NDArray[np.int64] | None = None
    frame: Frame | None = None
    probability: float | None = None


class StoredMaps:
    """A folder of maps of any code: one ``.npy`` file per image, named by its id; slashes in ids are folders.

    Attributes:
        folder: of the maps.
        ids: of all maps.
        about: how they were made; empty for maps of other code.
        ready: whether maps are already in [0, 1] and of the network's input size.
    """

    ready = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ids = sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.npy"))
        self.about: dict[str, Any] = {}

    def load(self, id_: str) -> StoredMap:
        """Return a map; raises ValueError or OSError naming the file if it is broken."""
        path = self.folder / f"{id_}.npy"
        with open_regular(path) as file, as_value_error(f"{path} is not a .npy file of numbers"):
            array = read_npy(file)
        if array.ndim != 2 or array.dtype.kind != "f":
            raise ValueError(
                f"{path} has shape {array.shape}, {array.dtype}; expected one map [height, width] of floats"
            )
        return StoredMap(array)


class TokenlocMaps(StoredMaps):
    """Maps written by ``writing_maps``; loading them in the order of ``ids`` reads each file once."""

    ready = False

    def __init__(self, folder: Path) -> None:
        with as_value_error(f"{folder / MANIFEST} is not of the format {FORMAT!r}; save the maps again"):
            manifest = read_json(folder / MANIFEST)
            if manifest["format"] != FORMAT:
                raise ValueError(f"its format is {manifest['format']!r:.80}")
            require_types(manifest, {"files": dict[str, list[str]], "about": dict[str, Any]})
            files, self.about = manifest["files"], manifest["about"]
            require_types(self.about, _ABOUT)
            for name in files:
                if not _FILE.fullmatch(name):
                    raise ValueError(f"it lists {name!r:.80}; expected names such as maps-00000.npz")
        self._positions = {id_: (name, row) for name, ids in files.items() for row, id_ in enumerate(ids)}
        self._cached: tuple[str, list[StoredMap]] = ("", [])
        self.folder, self.ids = folder, list(self._positions)

    def load(self, id_: str) -> StoredMap:
        """See ``StoredMaps.load``."""
        name, row = self._positions[id_]
        if self._cached[0] != name:
            self._cached = name, _read_maps(self.folder / name)
        maps = self._cached[1]
        if row >= len(maps):
            raise ValueError(f"{self.folder / name} has {len(maps)} maps, fewer than {MANIFEST} lists")
        return maps[row]


def _read_maps(path: Path) -> list[StoredMap]:
    message = f"{path} is not a .npz file of maps; save the maps again"
    with open_regular(path) as file, as_value_error(message), zipfile.ZipFile(file) as archive:
        maps, predicted, frames = (read_member(archive, name) for name in ("maps", "predicted", "frames"))
        # Older files have no probabilities.
        stored = "probabilities.npy" in archive.namelist()
        probabilities = read_member(archive, "probabilities") if stored else np.full(len(maps), np.nan)
        if (maps.ndim, maps.dtype.kind, predicted.ndim, predicted.dtype.kind) != (3, "f", 2, "i"):
            raise ValueError(f"maps have {maps.shape}, {maps.dtype}, predicted {predicted.shape}, {predicted.dtype}")
        rows = zip(maps, predicted, frames, probabilities.tolist(), strict=True)
        return [
            StoredMap(map_, predicted, Frame.from_array(frame), None if np.isnan(probability) else probability)
            for map_, predicted, frame, probability in rows
        ]


class MapWriter:
    """Writes maps in files of a thousand of equal shape; created by ``writing_maps``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pending: dict[str, tuple[NDArray[Any], ...]] = {}
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
        arrays = (
            np.asarray(map_, dtype=np.float32),
            np.asarray(predicted, dtype=np.int64),
            frame.to_array(),
            np.array(np.nan if probability is None else probability),
        )
        last = next(reversed(self._pending.values()), arrays)
        if len(self._pending) == MAPS_PER_FILE or [a.shape for a in last] != [a.shape for a in arrays]:
            self.flush()
        self._pending[id_] = arrays

    def flush(self) -> None:
        """Write the pending maps."""
        if self._pending:
            name = f"maps-{len(self.files):05d}.npz"
            maps, predicted, frames, probabilities = map(np.stack, zip(*self._pending.values(), strict=True))
            np.savez_compressed(
                self._folder / name, maps=maps, predicted=predicted, frames=frames, probabilities=probabilities
            )
            self.files[name] = list(self._pending)
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
    maps = TokenlocMaps(folder) if (folder / MANIFEST).is_file() else StoredMaps(folder)
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
