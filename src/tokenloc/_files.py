"""Artifacts are written whole or not at all."""

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

_UMASK = threading.Lock()
_TRIED = 1 << 16  # bytes


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` when the block ends without an error.

    The folder is created. After an error the temporary file is removed and an older ``path`` stays as it was.
    The temporary name keeps the suffix, so that writers which choose a format by suffix work.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".partial-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp's files are private; ours follow the user's umask
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def durable_write(path: str | Path, remedy: str) -> Iterator[IO[bytes]]:
    """Yield a file that stands at ``path``, whole and down to the disk, when the block ends without an error.

    Raises:
        OSError: in words, with the ``remedy``, where it cannot be written, as on a full disk; what stood at ``path``
            is as it was.
    """
    try:
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch hides the first behind a second
        if not isinstance(cause, OSError):
            raise
        raise OSError(
            f"{path} could not be written ({cause.strerror or cause}), and is as it was before; {remedy}"
        ) from error


@contextmanager
def atomic_folder(path: str | Path, replace: bool = False) -> Iterator[Path]:
    """Yield an empty temporary folder beside ``path``; rename it to ``path`` when the block ends without an error.

    After an error nothing is left of it. With ``replace`` an older ``path`` goes, with all that is in it, once the new
    one is whole.

    Raises:
        FileExistsError: where ``path`` exists already and is not to be replaced.
    """
    path = Path(path)
    if path.exists() and not replace:
        raise FileExistsError(f"{path} exists already; remove it, or give another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".partial-") as name:
        new, old = Path(name) / "new", Path(name) / "old"
        new.mkdir()
        yield new
        if path.exists():
            path.rename(old)
        new.rename(path)


def remove_partial_files(folder: str | Path) -> None:
    """Remove the half-written files that a killed process left in ``folder`` and its subfolders."""
    for partial in (*Path(folder).glob(".partial-*"), *Path(folder).glob("*/.partial-*")):
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink()


def _umask() -> int:
    with _UMASK:  # there is no way to read it but to set it, for all threads
        umask = os.umask(0)
        os.umask(umask)
    return umask


def existing_part(folder: str | Path) -> Path:
    """Return a folder, or the nearest above it that exists."""
    there = Path(folder)
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    return there


def refuse_unwritable(folder: str | Path) -> None:
    """Raise OSError, in words, where ``folder`` could not be made and written to; leave nothing there.

    What is tried is to write a little into it, or into the nearest folder above it that exists.
    """
    try:
        with tempfile.TemporaryFile(dir=existing_part(folder)) as file:
            file.write(bytes(_TRIED))
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            f"{folder}: nothing can be written there ({reason}); choose another folder, or mend it"
        ) from error


class FreeNames:
    """Gives names for files, each once, also where file systems take upper and lower case for the same.

    >>> names = FreeNames(".txt")
    >>> names.take("a/x"), names.take("a/X"), names.take("b/x")
    ('a/x.txt', 'a/X-2.txt', 'b/x.txt')
    """

    def __init__(self, suffix: str, longest: int = 255) -> None:
        self.suffix = suffix
        self.longest = longest  # in bytes; 255 is what file systems take
        self._taken: set[str] = set()
        self._seen: Counter[str] = Counter()

    def take(self, stem: str) -> str:
        """Return ``stem`` with the suffix, and before it a number where the name is taken; cut where it is too long.

        ``stem`` may name folders, with forward slashes.
        """
        while True:
            self._seen[stem.lower()] += 1
            number = self._seen[stem.lower()]
            name = self._name(stem, "" if number == 1 else f"-{number}")
            if name.lower() not in self._taken:
                self._taken.add(name.lower())
                return name

    def _name(self, stem: str, number: str) -> str:
        folders, slash, last = stem.rpartition("/")
        ending = number + self.suffix
        kept = last.encode("utf-8", "surrogateescape")[: self.longest - len(ending)]
        return folders + slash + kept.decode("utf-8", "ignore") + ending


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON (no NaN: standard readers refuse it), whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
