"""A lock that lets one process at a time write to a folder."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl

LOCK = ".lock"


@contextmanager
def exclusive_lock(folder: str | Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder, which is created if it is missing.

    The lock is a POSIX record lock on FOLDER/.lock. The system releases it when this process ends, however it ends,
    even if processes that it started are still running. It works across the machines of a network file system that
    supports locks, such as NFS. On Windows and on file systems without locks, nothing is locked.

    Raises:
        ValueError: if another process holds the lock; the message names that process.
    """
    path = Path(folder) / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        yield
        return
    while True:
        with path.open("a+", encoding="utf-8") as file:
            _lock(file, path)
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


def _lock(file: IO[str], path: Path) -> None:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.seek(0)
        owner = file.read().strip() or "unknown process"
        message = f"{path.parent} is in use by another run ({owner}); wait until it ends, or choose another --out"
        raise ValueError(message) from error
    except OSError:
        return  # the file system has no locks
