"""Reading regular files only, atomic writes (complete or absent), locks, and unique names."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

if sys.platform != "win32":
    import fcntl

_PREFIX = ".partial-"
_LEADS_OUT = re.compile(r"(?:^|[/\\])\.\.(?:[/\\]|$)|^[/\\]" + (r"|^[A-Za-z]:" if sys.platform == "win32" else ""))
_MACHINE = hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def require_regular(path: str | Path) -> Path:
    """Return ``path`` if it is a regular file, or a link to one, for readers that open it by its name.

    Pipes, sockets and devices may block forever, and are a ValueError. Raises OSError if there is no such file.
    """
    path = Path(path)
    _refuse_special(path.stat().st_mode, path)
    return path


def open_regular(path: str | Path) -> IO[bytes]:
    """Open a regular file for reading; raises as ``require_regular``."""
    require_regular(path)  # before it is opened, which may already act on a device
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # no wait for a pipe's writer
    file = os.fdopen(os.open(path, flags), "rb")
    try:
        _refuse_special(os.fstat(file.fileno()).st_mode, path)  # if it was replaced meanwhile
    except ValueError:
        file.close()
        raise
    return file


def read_text(path: str | Path, encoding: str = "utf-8") -> str:
    """Return the text of a regular file; raises as ``require_regular``, and UnicodeDecodeError."""
    with open_regular(path) as file:
        return file.read().decode(encoding)


def _refuse_special(mode: int, path: str | Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path}: a folder, not a file")
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path}: a pipe, socket or device, not a regular file; remove it, or copy its content to one")


def require_inside(names: Iterable[str], source: object) -> None:
    """Raise ValueError, naming the ``source`` that lists them, if ``names`` of files may lead out of their folder.

    They must be relative and free of ``..``. Symbolic links are followed: they belong to the folder, not to the list.

    >>> require_inside(["cat/1.jpg", "../1.jpg"], "images.txt")
    Traceback (most recent call last):
    ValueError: images.txt names '../1.jpg', which is outside its folder; expected relative paths without '..'
    """
    for name in names:
        if _LEADS_OUT.search(name):
            outside = f"{source} names {name!r}, which is outside its folder"
            raise ValueError(f"{outside}; expected relative paths without '..'")


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary file next to ``path`` and rename it to ``path`` if the block succeeds.

    The folder is created. After an error an existing ``path`` is unchanged. The temporary file has the same suffix.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_partial()}{secrets.token_hex(8)}{path.suffix}")
    temporary.touch(exist_ok=False)
    mode = temporary.stat().st_mode
    try:
        with naming(path):
            yield temporary
        temporary.chmod(mode)  # safetensors replaces the file by a private one
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Name ``path`` in errors of the system that name no file, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, f"cannot write {path} ({error.strerror})") from error


def reserve(file: IO[bytes], size: int) -> None:
    """Reserve disk space for a file that is written through memory: there a full disk would end the process."""
    if size and sys.platform == "linux":
        with naming("a temporary file"):
            os.posix_fallocate(file.fileno(), 0, size)


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
        cause: object = error.__cause__ if isinstance(error, OSError) and error.__cause__ else error
        cause = cause if isinstance(cause, OSError) else error.__context__  # torch hides an OSError behind its own
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
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=_partial()) as name:
        new, old = Path(name) / "new", Path(name) / "old"
        new.mkdir()
        with naming(path):
            yield new
        if path.exists():
            path.rename(old)
        new.rename(path)


@contextmanager
def atomic_files(folder: str | Path, last: str, obsolete: Sequence[str] = ()) -> Iterator[Path]:
    """Yield an empty temporary folder; if the block succeeds, its files, ``last`` among them, move into ``folder``.

    ``last`` is removed before the others move, and moves after them: where it exists, all files are of one block.
    Files and folders of an earlier block, ``obsolete`` (shell wildcards), are removed; others in ``folder`` remain.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=_partial()) as name:
        new, old = Path(name) / "new", Path(name) / "old"
        new.mkdir()
        old.mkdir()
        yield new
        (folder / last).unlink(missing_ok=True)
        for number, path in enumerate([path for pattern in obsolete for path in folder.glob(pattern)]):
            path.rename(old / str(number))
        (new / last).rename(old / last)
        _move(new, folder)
        (old / last).rename(folder / last)


def _move(source: Path, target: Path) -> None:
    """Move a file or folder; merge a folder with an existing one."""
    if source.is_dir() and target.is_dir():
        for path in sorted(source.iterdir()):
            _move(path, target / path.name)
    else:
        source.replace(target)


def remove_partial_files(folder: str | Path, locked: bool = True) -> None:
    """Remove the temporary files that killed processes left in ``folder`` and its direct subfolders.

    Without a lock of the folder, only those of processes of this machine that have ended: others may be at work.
    """
    for partial in (*Path(folder).glob(f"{_PREFIX}*"), *Path(folder).glob(f"*/{_PREFIX}*")):
        if not (locked or _is_abandoned(partial.name)):
            continue
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink()


def _partial() -> str:
    """Return the start of the name of a temporary file of this process."""
    return f"{_PREFIX}{_MACHINE}-{os.getpid()}-"


def _is_abandoned(name: str) -> bool:
    machine, _, rest = name.removeprefix(_PREFIX).partition("-")
    process = rest.partition("-")[0]
    if machine != _MACHINE or not process.isdecimal() or sys.platform == "win32":  # where signal 0 is Ctrl-C
        return False
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass
    return False


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


def free_folder(path: Path, resumes: Callable[[Path], bool]) -> Path:
    """Return the first of PATH, PATH-2, PATH-3 … that does not exist, or the one before if a run ``resumes`` there."""
    last, count = path, 1
    while (folder := path if count == 1 else path.with_name(f"{path.name}-{count}")).exists():
        last, count = folder, count + 1
    return last if last.exists() and resumes(last) else folder


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
def exclusive_lock(folder: str | Path, wait: bool = False) -> Iterator[None]:
    """Hold an exclusive lock on a folder, which is created if missing.

    While another process holds it, ``wait`` for that, or else raise ValueError. It is a POSIX record lock on
    FOLDER/.lock, which also works on NFS. The system releases it when this process ends, even if processes that it
    started still run. Nothing is locked on Windows and on file systems without locks.
    """
    path = Path(folder) / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        yield
        return
    while True:
        with path.open("a+", encoding="utf-8") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
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
