"""Two processes never write to one folder."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runs import tiny_run
from tokenloc._files import exclusive_lock

HOLDING = """
import os, sys, time
from pathlib import Path
from tokenloc._files import exclusive_lock
with exclusive_lock(Path(sys.argv[1])):
    if os.fork():  # the child runs on for a while, as a data loader's worker may
        print("holding", flush=True)
    time.sleep(20)
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which holds the lock of the folder ``run``."""
    words = [sys.executable, "-c", HOLDING, str(tmp_path / "run")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holding\n"
        yield process
        process.kill()


def test_a_second_run_is_refused_until_the_first_is_killed(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    expected = rf"run is in use by another run \(process {other.pid} on .*\); wait until it ends"
    with pytest.raises(ValueError, match=expected):
        tiny_run(tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    with exclusive_lock(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").read_text().startswith(f"process {os.getpid()} on ")
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refusing)
    with exclusive_lock(tmp_path):
        assert (tmp_path / ".lock").is_file()
