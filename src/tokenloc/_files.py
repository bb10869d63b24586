"""Atomic writes: a file or folder is complete or does not appear."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_PREFIX = ".partial-"
_UMASK_LOCK = threading.Lock()
_PROBE_SIZE = 1 << 16  # bytes


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path`` and rename it to ``path`` if the block succeeds.

    The folder is created. After an error the temporary file is removed and an existing ``path`` is unchanged. The
    temporary name has the same suffix, for writers that choose a format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_PREFIX, suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp creates private files
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def durable_write(path: str | Path, remedy: str) -> Iterator[IO[bytes]]:
    """Yield a binary file that is flushed to disk and renamed to ``path`` if the block succeeds.

    Raises:
        OSError: with the ``remedy``, if the file cannot be written, for example on a full disk; ``path`` is unchanged.
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

    After an error nothing remains of it. With ``replace`` an existing ``path`` is removed once the new one is complete.

    Raises:
        FileExistsError: if ``path`` exists and is not to be replaced.
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


def _umask() -> int:
    with _UMASK_LOCK:  # reading the umask means setting it, for all threads
        umask = os.umask(0)
        os.umask(umask)
    return umask


def existing_part(path: str | Path) -> Path:
    """Return ``path`` or its nearest existing parent."""
    existing = Path(path)
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    return existing


def refuse_unwritable(folder: str | Path) -> None:
    """Raise OSError if ``folder`` cannot be created and written to; leave no trace.

    The check writes a temporary file to ``folder`` or its nearest existing parent.
    """
    try:
        with tempfile.TemporaryFile(dir=existing_part(folder)) as file:
            file.write(bytes(_PROBE_SIZE))
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            f"cannot write to {folder} ({reason}); choose another folder, or change its permissions"
        ) from error


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
        """Return ``stem`` with the suffix; a number is added if the name is taken, and long names are cut.

        ``stem`` may contain folders, with forward slashes.
        """
        while True:
            self._counts[stem.lower()] += 1
            count = self._counts[stem.lower()]
            name = self._name(stem, "" if count == 1 else f"-{count}")
            if name.lower() not in self._taken:
                self._taken.add(name.lower())
                return name

    def _name(self, stem: str, number: str) -> str:
        folders, slash, last = stem.rpartition("/")
        ending = number + self.suffix
        cut = last.encode("utf-8", "surrogateescape")[: self.longest - len(ending)]
        return folders + slash + cut.decode("utf-8", "ignore") + ending


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN is an error, as standard readers refuse it."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
