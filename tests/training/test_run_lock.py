"""Two trainings never write to one folder."""

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
from tokenloc.training.run_lock import run_lock

HOLDING = """
import os, sys, time
from pathlib import Path
from tokenloc.training.run_lock import run_lock
with run_lock(Path(sys.argv[1])):
    if os.fork():  # both go on, as a reader of images may for a while
        print("holding", flush=True)
    time.sleep(20)
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which claims the folder ``run``."""
    words = [sys.executable, "-c", HOLDING, str(tmp_path / "run")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holding\n"
        yield process
        process.kill()


def test_a_second_training_is_refused_until_the_first_is_killed(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    with pytest.raises(ValueError, match=f"another training, process {other.pid} on .*, writes to .*run; wait for its"):
        tiny_run(tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    with run_lock(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").read_text().startswith(f"process {os.getpid()} on ")


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refusing)
    with run_lock(tmp_path):
        assert (tmp_path / ".lock").is_file()
