"""One evaluation by several processes: the same result, to the last bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tokenloc.inference.processes import in_order, joined, share


def test_one_process_alone_takes_everything() -> None:
    with joined() as first:
        assert first
        assert share() == (0, 1)
        assert list(in_order(iter("abc"), 3)) == ["a", "b", "c"]


def evaluate(run: Path, out: Path, processes: int, port: int) -> dict[str, bytes]:
    """Start the command as torchrun does, and return the files that it wrote."""
    command = [sys.executable, "-m", "tokenloc.cli", "evaluate", str(run / "checkpoints/best.ckpt"), "--out", str(out)]
    command += ["--batch_size", "5", "--device", "cpu", "--save_maps", str(out / "maps")]
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    own = [{**common, "RANK": str(rank), "WORLD_SIZE": str(processes)} for rank in range(processes)]
    started = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for env in own]
    for process in started:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    files = [out / "metrics.json", out / "images.csv", *(out / "maps").iterdir()]
    return {path.name: path.read_bytes() for path in files}


@pytest.mark.parametrize("processes", [2, 3])
def test_two_and_three_processes_write_what_one_writes(run: Path, tmp_path: Path, processes: int) -> None:
    """24 photographs in batches of 5 divide evenly among neither."""
    port = 20000 + os.getpid() % 20000 + processes
    alone = evaluate(run, tmp_path / "alone", 1, port)
    together = evaluate(run, tmp_path / "together", processes, port)
    assert set(alone) == {"metrics.json", "images.csv", "manifest.json", "maps-00000.npz"}
    assert alone == together
