"""The journal of `tokenloc localize`, to resume a run: JSON lines, a header with the settings, and a line per image.

It is read as untrusted input: a damaged line and all after it are dropped, and its images are localized again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tokenloc._files import exclusive_lock, naming, remove_partial_files, require_inside, require_regular
from tokenloc.inference import LocalizationRecord

FORMAT = 3  # the version of the journal's format, in its header


@dataclass(frozen=True)
class FinishedImage:
    """The results of one image: its file, the stem of its output files, its localizations, the most probable first.

    ``version`` is that of the file when it was read, see ``version_of``.
    """

    file: str
    version: str
    stem: str
    records: list[LocalizationRecord]
    outputs: list[dict[str, str]]  # for each record, the files that show it: {"image": "images/x.jpg"}


def version_of(file: Path) -> str:
    """Return a text that changes when a file does: its size and modification time; empty if there is no such file."""
    try:
        status = file.stat()
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


class Journal:
    """An open journal, see ``open_journal``; the header is None without a complete line."""

    def __init__(self, file: BufferedRandom) -> None:
        self.header: dict[str, Any] | None = None
        self._file = file
        self._entries: dict[str, _Entry] = {}
        offset = file.seek(0)
        for line in file:
            try:
                values = _parse(line)
                if self.header is None:
                    self.header = _checked_header(values)
                    if values["format"] != FORMAT:
                        break
                else:
                    self._index(_finished(values), offset)
            except (ValueError, KeyError, TypeError, RecursionError):
                file.truncate(offset)
                break
            offset += len(line)

    def __contains__(self, file: Path) -> bool:
        return str(file) in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def stems(self) -> list[str]:
        """The stems of the output files of all images."""
        return [entry.stem for entry in self._entries.values()]

    def append(self, image: FinishedImage) -> None:
        """Store the results of an image, so that they survive this process."""
        self._index(image, self._write(vars(image)))

    def take_changed(self, files: Iterable[Path]) -> list[FinishedImage]:
        """Remove those of ``files`` that have changed since they were read, and return their results."""
        names = ((file, self._entries.get(str(file))) for file in files)
        changed = [file for file, entry in names if entry is not None and entry.version != version_of(file)]
        outdated = list(self.read(changed))
        for file in changed:
            del self._entries[str(file)]
        return outdated

    def read(self, files: Iterable[Path]) -> Iterator[FinishedImage]:
        """Yield those of ``files`` that are finished, in their order, from disk."""
        for file in files:
            if file in self:
                self._file.seek(self._entries[str(file)].offset)
                yield _finished(_parse(self._file.readline()))

    def restart(self, header: dict[str, Any]) -> None:
        """Drop all results and store a new header."""
        self._file.truncate(0)
        self.header, self._entries = header, {}
        self._write(header)

    def _index(self, image: FinishedImage, offset: int) -> None:
        self._entries[image.file] = _Entry(offset, image.version, image.stem)

    def _write(self, values: Mapping[str, Any]) -> int:
        line = json.dumps(values, allow_nan=False, default=_plain).encode("ascii") + b"\n"
        offset = self._file.seek(0, os.SEEK_END)
        with naming(self._file.name):
            while line:  # without a buffer, whose rest would be written again when the file is closed on a full disk
                line = line[self._file.raw.write(line) or 0 :]
        return offset


class _Entry(NamedTuple):
    offset: int  # of its line in the file
    version: str
    stem: str


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray) else vars(value)


def _record(boxes: Any, confidence: Any, size: Any, **values: Any) -> LocalizationRecord:
    boxes, confidence = np.array(boxes, np.float64).reshape(-1, 4), np.array(confidence, np.float64)
    return LocalizationRecord(boxes=boxes, confidence=confidence, size=tuple(size), **values)


def _parse(line: bytes) -> dict[str, Any]:
    values = json.loads(line, parse_constant=float) if line.endswith(b"\n") else None
    if not isinstance(values, dict):
        raise ValueError("the line is cut off, or no JSON object")
    return values


def _checked_header(values: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(values["settings"], dict):
        raise ValueError("the settings are no JSON object")
    values.setdefault("format", None)  # of versions without a format
    return values


def _finished(values: dict[str, Any]) -> FinishedImage:
    image = FinishedImage(**{**values, "records": [_record(**record) for record in values["records"]]})
    texts = [image.file, image.version, image.stem, *(record.source for record in image.records)]
    numbers = [
        number for record in image.records for number in (*record.boxes.ravel(), *record.confidence, record.score)
    ]
    if not len(image.records) == len(image.outputs) > 0 or not all(isinstance(text, str) for text in texts):
        raise ValueError("fields of the wrong type or length")
    if not np.isfinite(np.array(numbers, dtype=np.float64)).all():
        raise ValueError("values that are not finite")
    require_inside([name for output in image.outputs for name in output.values()], "the journal")
    return image


@contextmanager
def open_journal(path: Path, settings: Mapping[str, Any], overwrite: bool = False) -> Iterator[Journal]:
    """Open the journal of an interrupted run with the same settings, or a new one; lock its folder.

    The journal is removed if the block ends without an error or before any image is finished. If ``settings``, plain
    values that determine the results, or the format differ, ``overwrite`` starts over; otherwise ValueError is raised.
    """
    with suppress(FileNotFoundError):
        require_regular(path)
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
    if stored["format"] != current["format"]:
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
