"""The journal of a run over many images: what is finished is on disk, and an interrupted run goes on from it.

JSON lines: first the settings, then a line for each finished image. A line that was half written when the run
ended is dropped. The open file is locked, so that two runs never write to one folder; the lock ends with its process.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from tokenloc._files import remove_partial_files
from tokenloc.inference import LocalizationRecord

if sys.platform != "win32":
    import fcntl


@dataclass(frozen=True)
class Finished:
    """An image that is done.

    Attributes:
        file: its path.
        stem: by which the files that show it are called.
        findings: what was found, the most probable class first.
        shown: the files that show it, for each of ``findings``: ``{"image": "images/x.jpg"}``.
    """

    file: str
    stem: str
    findings: list[LocalizationRecord]
    shown: list[dict[str, str]] = field(default_factory=list)

    def line(self) -> dict[str, Any]:
        """Return plain values, exact."""
        findings = [
            {**vars(finding), "boxes": finding.boxes.tolist(), "confidence": finding.confidence.tolist()}
            for finding in self.findings
        ]
        return {"file": self.file, "stem": self.stem, "findings": findings, "shown": self.shown}

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> Finished:
        """Read what ``line`` gave."""
        return cls(line["file"], line["stem"], [_finding(one) for one in line["findings"]], line["shown"])


def _finding(plain: Mapping[str, Any]) -> LocalizationRecord:
    boxes, confidence = (np.array(plain[name], np.float64) for name in ("boxes", "confidence"))
    return LocalizationRecord(
        **{**plain, "boxes": boxes.reshape(-1, 4), "confidence": confidence, "size": tuple(plain["size"])}
    )


class Journal:
    """An open journal; see ``open_journal``.

    Attributes:
        stems: of the finished images.
    """

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self.path = path
        self.settings: dict[str, Any] | None = None
        self.stems: list[str] = []
        self._file = file
        self._places: dict[str, int] = {}
        self._read()

    def __contains__(self, file: Path) -> bool:
        return str(file) in self._places

    def __len__(self) -> int:
        return len(self._places)

    def add(self, finished: Finished) -> None:
        """Keep an image's results: from here on they survive the process."""
        self._note(finished.line(), self.write(finished.line()))

    def finished(self, files: Iterable[Path]) -> Iterator[Finished]:
        """Yield those of ``files`` that are finished, in their order, from the disk."""
        for file in files:
            if file in self:
                self._file.seek(self._places[str(file)])
                yield Finished.of(json.loads(self._file.readline()))

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Forget what is there, and begin a run with these settings."""
        self._cut(0)
        self.stems, self._places = [], {}
        self._note({"settings": dict(settings)}, self.write({"settings": dict(settings)}))

    def _read(self) -> None:
        end = 0
        for content, place, end_of_line in _lines(self._file):
            if not self._note(content, place):
                break
            end = end_of_line
        self._cut(end)

    def _note(self, content: Mapping[str, Any], place: int) -> bool:
        """Take a line in; tell whether it is one of ours."""
        if "findings" in content and place:
            self._places[content["file"]] = place
            self.stems.append(content["stem"])
        elif "settings" in content and not place:
            self.settings = content["settings"]
        else:
            return "process" in content
        return True

    def write(self, content: Mapping[str, Any]) -> int:
        """Append a line to the file; return its place in the file."""
        place = self._file.seek(0, os.SEEK_END)
        self._file.write(json.dumps(content, allow_nan=False).encode("ascii") + b"\n")
        self._file.flush()
        return place

    def _cut(self, place: int) -> None:
        self._file.seek(place)
        self._file.truncate()


@contextmanager
def open_journal(path: Path, settings: Mapping[str, Any], overwrite: bool = False) -> Iterator[Journal]:
    """Open a journal, taking up what an interrupted run with the same settings finished, or begin one.

    When the block ends without an error the journal is removed; otherwise it stays, unless nothing is in it.

    Args:
        path: of the journal; its folder is created.
        settings: all that the results depend on, plain values.
        overwrite: begin anew where the settings are others.

    Raises:
        ValueError: a run with other settings was interrupted here, naming them; or another process is writing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path) as file:
        journal = Journal(file, path)
        plain = json.loads(json.dumps(settings))
        if journal.settings is not None and journal.settings != plain and len(journal) and not overwrite:
            raise ValueError(_refusal(journal, plain))
        if journal.settings is not None:
            remove_partial_files(path.parent)
        if journal.settings != plain:
            journal.begin(plain)
        journal.write({"process": os.getpid()})
        try:
            yield journal
        except BaseException:
            if not len(journal):
                _remove(file, path)
            raise
        _remove(file, path)


def _refusal(journal: Journal, settings: Mapping[str, Any]) -> str:
    old = journal.settings or {}
    names = [name for name in dict.fromkeys([*old, *settings]) if old.get(name) != settings.get(name)]
    lines = "\n".join(f"  {name}: {old.get(name)} there, {settings.get(name)} now" for name in names)
    return (
        f"{journal.path}: an interrupted run with other settings finished {len(journal)} images:\n{lines}\n"
        "give those settings to go on with it, another --out, or --overwrite to begin anew"
    )


@contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """Yield ``path``, open for reading and appending; no other process has it."""
    while True:
        with path.open("a+b") as file:
            _lock(file, path)
            if _is_at(file, path):
                yield file
                return
            # Its run ended, and removed it, just before it was locked: there is a new one to make.


def _lock(file: IO[bytes], path: Path) -> None:
    if sys.platform == "win32":
        return  # two runs are not told apart there
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        process = [content["process"] for content, _, _ in _lines(file) if "process" in content][-1:] or ["unknown"]
        raise ValueError(
            f"another run (process {process[0]}) is writing to {path.parent}; let it end, or give another --out"
        ) from error
    except OSError:
        return  # a file system without locks


def _is_at(file: IO[bytes], path: Path) -> bool:
    return path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())


def _lines(file: IO[bytes]) -> Iterator[tuple[dict[str, Any], int, int]]:
    """Yield what the lines hold, where each begins and where it ends, up to one that was not written to its end."""
    file.seek(0)
    place = 0
    for line in file:
        try:
            content = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            content = None
        if not isinstance(content, dict):
            return
        yield content, place, place + len(line)
        place += len(line)


def _remove(file: IO[bytes], path: Path) -> None:
    if sys.platform == "win32":
        file.close()  # an open file cannot be removed there
    path.unlink(missing_ok=True)
