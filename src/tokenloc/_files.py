"""Atomic writes (a file or folder is complete or does not appear), locks, and unique names."""

from __future__ import annotations

import csv
import json
import os
import platform
import secrets
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

if sys.platform != "win32":
    import fcntl

_PREFIX = ".partial-"


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary file next to ``path`` and rename it to ``path`` if the block succeeds.

    The folder is created. After an error an existing ``path`` is unchanged. The temporary file has the same suffix.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_PREFIX}{secrets.token_hex(8)}{path.suffix}")
    temporary.touch(exist_ok=False)
    mode = temporary.stat().st_mode
    try:
        yield temporary
        temporary.chmod(mode)  # safetensors replaces the file by a private one
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def durable_write(path: str | Path, remedy: str) -> Iterator[IO[bytes]]:
    """Yield a binary file that is flushed to disk and renamed to ``path`` if the block succeeds.

    If it cannot be written, for example on a full disk, an OSError names the ``remedy`` and ``path`` is unchanged.
    """
    try:
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch hides an OSError behind its own
        if not isinstance(cause, OSError):
            raise
        raise OSError(f"cannot write {path} ({cause.strerror or cause}); it is unchanged; {remedy}") from error


@contextmanager
def atomic_folder(path: str | Path, replace: bool = False) -> Iterator[Path]:
    """Yield an empty temporary folder next to ``path`` and rename it to ``path`` if the block succeeds.

    After an error nothing remains of it. An existing ``path`` is an error, or removed at the end with ``replace``.
    """
    path = Path(path)
    if path.exists() and not replace:
        raise FileExistsError(f"{path} already exists; remove it, or choose another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=_PREFIX) as name:
        new, old = Path(name) / "new", Path(name) / "old"
        new.mkdir()
        yield new
        if path.exists():
            path.rename(old)
        new.rename(path)


def remove_partial_files(folder: str | Path) -> None:
    """Remove the temporary files that a killed process left in ``folder`` and its direct subfolders."""
    for partial in (*Path(folder).glob(f"{_PREFIX}*"), *Path(folder).glob(f"*/{_PREFIX}*")):
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink()


def refuse_unwritable(folder: str | Path) -> None:
    """Raise OSError if ``folder`` cannot be created and written to; leave no trace."""
    existing = Path(folder)
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(bytes(1 << 16))
    except OSError as error:
        reason = error.strerror or error
        message = f"cannot write to {folder} ({reason}); choose another folder, or change its permissions"
        raise OSError(message) from error


class UniqueNames:
    """Unique file names, also on file systems that ignore case.

    >>> names = UniqueNames(".txt")
    >>> names.take("a/x"), names.take("a/X"), names.take("b/x")
    ('a/x.txt', 'a/X-2.txt', 'b/x.txt')
    """

    def __init__(self, suffix: str, longest: int = 255) -> None:
        self.suffix = suffix
        self.longest = longest  # in bytes; 255 is the limit of file systems
        self._taken: set[str] = set()
        self._counts: Counter[str] = Counter()

    def take(self, stem: str) -> str:
        """Return ``stem`` (may contain folders) with the suffix, cut if too long, and a number if the name is taken."""
        folders, slash, last = stem.rpartition("/")
        while True:
            self._counts[stem.lower()] += 1
            count = self._counts[stem.lower()]
            ending = (f"-{count}" if count > 1 else "") + self.suffix
            cut = last.encode("utf-8", "surrogateescape")[: self.longest - len(ending)].decode("utf-8", "ignore")
            name = f"{folders}{slash}{cut}{ending}"
            if name.lower() not in self._taken:
                self._taken.add(name.lower())
                return name


@contextmanager
def atomic_text(path: str | Path) -> Iterator[IO[str]]:
    """Yield a UTF-8 text file, whose line breaks are written as they are; see ``atomic_write``."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        yield file


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN is an error, as standard readers refuse it."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_csv(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the columns, which the first line names, and the rows of a table in UTF-8; ValueError if it is none."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            return list(reader.fieldnames or ()), list(reader)
    except (csv.Error, ValueError) as error:
        raise ValueError(f"{path} is not a CSV table: {error}") from error


@contextmanager
def exclusive_lock(folder: str | Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder, which is created if missing; raise ValueError if another process holds it.

    It is a POSIX record lock on FOLDER/.lock, which also works on NFS. The system releases it when this process ends,
    even if processes that it started still run. Nothing is locked on Windows and on file systems without locks.
    """
    path = Path(folder) / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        yield
        return
    while True:
        with path.open("a+", encoding="utf-8") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:
                file.seek(0)
                owner = f"{path.parent} is in use by another run ({file.read().strip() or 'unknown process'})"
                raise ValueError(f"{owner}; wait until it ends, or choose another --out") from error
            except OSError:
                pass  # the file system has no locks
            if not (path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())):
                continue  # its holder ended and removed it before it was locked here
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}\n")
            file.flush()
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return
