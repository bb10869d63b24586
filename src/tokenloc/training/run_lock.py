"""One training at a time in a folder."""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

LOCK = ".lock"


@contextmanager
def run_lock(out: Path) -> Iterator[None]:
    """Keep other trainings out of a folder, which is made where it is not there.

    The system gives the claim up with this process, however that ends, even where processes that it started live on:
    nothing stale is left. On network file systems it holds as far as they lock files (NFS does, between machines too);
    where they do not, there is no claim.

    Raises:
        ValueError: where another process trains there, naming it.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / LOCK).open("a+", encoding="utf-8") as file:
        if not _locked(file):
            file.seek(0)
            who = file.read().strip() or "of a process unknown"
            raise ValueError(f"another training, {who}, writes to {out}; wait for its end, or give another --out")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


def _locked(file: IO[str]) -> bool:
    """Lock an open file; say whether that was possible, as it is taken to be where there are no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True
