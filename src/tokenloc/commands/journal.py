"""The journal of `tokenloc localize`, to resume a run: JSON lines, a header with the settings, and a line per image."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from tokenloc._files import exclusive_lock, remove_partial_files
from tokenloc.inference import LocalizationRecord

FORMAT = 2  # the version of the journal's format, in its header


@dataclass(frozen=True)
class FinishedImage:
    """The results of one image: its file, the stem of its output files, its localizations, the most probable first."""

    file: str
    stem: str
    records: list[LocalizationRecord]
    outputs: list[dict[str, str]]  # for each record, the files that show it: {"image": "images/x.jpg"}


class Journal:
    """An open journal, see ``open_journal``; the header is None without a complete line. A cut-off line is dropped."""

    def __init__(self, file: IO[bytes]) -> None:
        self.header: dict[str, Any] | None = None
        self.stems: list[str] = []
        self._file = file
        self._offsets: dict[str, int] = {}
        offset = file.seek(0)
        for line in file:
            values = _parse(line)
            if values is None:
                file.truncate(offset)
                break
            if self.header is None:
                self.header = values
                if values.get("format") != FORMAT:
                    break
            else:
                self._index(values, offset)
            offset += len(line)

    def __contains__(self, file: Path) -> bool:
        return str(file) in self._offsets

    def __len__(self) -> int:
        return len(self._offsets)

    def append(self, image: FinishedImage) -> None:
        """Store the results of an image, so that they survive this process."""
        self._index(vars(image), self._write(vars(image)))

    def read(self, files: Iterable[Path]) -> Iterator[FinishedImage]:
        """Yield those of ``files`` that are finished, in their order, from disk."""
        for file in files:
            if file in self:
                self._file.seek(self._offsets[str(file)])
                values = json.loads(self._file.readline())
                yield FinishedImage(**{**values, "records": [_record(**record) for record in values["records"]]})

    def restart(self, header: dict[str, Any]) -> None:
        """Drop all results and store a new header."""
        self._file.truncate(0)
        self.header, self.stems, self._offsets = header, [], {}
        self._write(header)

    def _index(self, values: Mapping[str, Any], offset: int) -> None:
        self._offsets[values["file"]] = offset
        self.stems.append(values["stem"])

    def _write(self, values: Mapping[str, Any]) -> int:
        offset = self._file.seek(0, os.SEEK_END)
        self._file.write(json.dumps(values, allow_nan=False, default=_plain).encode("ascii") + b"\n")
        self._file.flush()
        return offset


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray) else vars(value)


def _record(boxes: Any, confidence: Any, size: Any, **values: Any) -> LocalizationRecord:
    boxes, confidence = np.array(boxes, np.float64).reshape(-1, 4), np.array(confidence, np.float64)
    return LocalizationRecord(boxes=boxes, confidence=confidence, size=tuple(size), **values)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        values = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


@contextmanager
def open_journal(path: Path, settings: Mapping[str, Any], overwrite: bool = False) -> Iterator[Journal]:
    """Open the journal of an interrupted run with the same settings, or a new one; lock its folder.

    The journal is removed if the block ends without an error or before any image is finished. If ``settings``, plain
    values that determine the results, or the format differ, ``overwrite`` starts over; otherwise ValueError is raised.
    """
    header = {"format": FORMAT, "settings": json.loads(json.dumps(settings))}
    with exclusive_lock(path.parent), path.open("a+b") as file:
        journal = Journal(file)
        if journal.header is not None:
            if not overwrite:
                _check_header(journal, journal.header, header, path)
            remove_partial_files(path.parent)
        if journal.header != header:
            journal.restart(header)
        completed = False
        try:
            yield journal
            completed = True
        finally:
            if completed or not len(journal):
                file.close()  # Windows cannot remove an open file
                path.unlink(missing_ok=True)


def _check_header(journal: Journal, stored: Mapping[str, Any], current: Mapping[str, Any], path: Path) -> None:
    remedy = "choose another --out, or give --overwrite to start over"
    if stored.get("format") != current["format"]:
        other = "the journal of an interrupted run, written by another version of tokenloc"
        raise ValueError(f"{path}: {other}; finish the run with that version, {remedy}")
    old, new = stored["settings"], current["settings"]
    if len(journal) and old != new:
        names = [name for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name)]
        lines = "\n".join(f"  {name}: {old.get(name)} then, {new.get(name)} now" for name in names)
        raise ValueError(
            f"{path}: an interrupted run with other settings finished {len(journal)} images:\n{lines}\n"
            f"give the same settings to resume it, {remedy}"
        )
