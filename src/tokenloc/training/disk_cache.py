"""What is computed once from images and kept on disk, in parts, under the name of all that it depends on.

So several runs may share a folder and none takes what is not its own; a kill costs a part at most.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenloc._files import durable_write, refuse_unwritable, write_json
from tokenloc.data.fingerprints import digest

SOURCES = "sources.json"

Progress = Callable[[Iterable[int], str], Iterator[int]]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class DiskCache:
    """Records of images on disk: FOLDER/KEY/NAME/P.npy, ``part_length`` images each.

    Attributes:
        folder: FOLDER; runs may share it.
        sources: digests of what the records depend on, by name; KEY is the digest of them all.
        length: images.
    """

    folder: Path
    sources: Mapping[str, str]
    length: int

    what = "records"
    """What is kept, in words."""

    @property
    def part_length(self) -> int:
        """TrainingData a file: what a kill costs at most."""
        raise NotImplementedError

    @property
    def own(self) -> Path:
        """The folder of these sources, FOLDER/KEY."""
        return self.folder / digest(self.sources)[:16]

    def begin(self, tell: Tell) -> None:
        """Make the folder; where it is new beside others, tell in what each of those differs.

        Raises:
            OSError: where nothing can be written.
        """
        if (self.own / SOURCES).is_file():
            return
        refuse_unwritable(self.folder)
        for path in sorted(self.folder.glob(f"*/{SOURCES}")):
            stored = json.loads(path.read_text(encoding="utf-8"))
            other = ", ".join(name for name in self.sources if stored.get(name) != self.sources[name])
            if stored.keys() == self.sources.keys():  # else it is of another kind
                tell(f"{path.parent} holds {self.what} of other {other}: they are not used, and computed anew beside")
        write_json(self.own / SOURCES, dict(self.sources))

    def rows(self, part: int) -> range:
        """Return the indices of a part's images."""
        return range(part * self.part_length, min((part + 1) * self.part_length, self.length))

    def paths(self, name: str) -> list[Path]:
        """Return the files of the parts, in their order."""
        return [self.own / name / f"{part:05d}.npy" for part in range(-(-self.length // self.part_length))]

    def missing(self, name: str, tell: Tell) -> list[int]:
        """Return the parts that are not there, or not as they were written, which is told."""
        missing = [part for part in range(len(self.paths(name))) if not self.holds(name, part)]
        for path in (self.paths(name)[part] for part in missing):
            if path.exists():
                tell(f"{path} is damaged, and is computed anew")
        return missing

    def holds(self, name: str, part: int) -> bool:
        """Tell whether a part is there as it was written."""
        try:
            return len(np.load(self.paths(name)[part], mmap_mode="r")) == len(self.rows(part))
        except (OSError, ValueError, TypeError, EOFError):
            return False

    def write(self, name: str, part: int, records: NDArray[np.void]) -> None:
        """Write the records of a part's images [M], whole and down to the disk or not at all.

        Raises:
            OSError: where it cannot be written, as on a full disk.
        """
        remedy = "make room, or give another folder by --data.cache, then go on with --resume"
        content = io.BytesIO()
        np.save(content, records)  # into a file it would not say why it cannot
        with durable_write(self.paths(name)[part], remedy) as file:
            file.write(content.getbuffer())
