"""Evaluation by several processes gives a bit-identical result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tokenloc.inference.processes import gather_in_order, process_group, rank_and_world


def test_a_single_process_takes_all_batches() -> None:
    with process_group() as first:
        assert first
        assert rank_and_world() == (0, 1)
        assert list(gather_in_order(iter("abc"), 3)) == ["a", "b", "c"]


def test_more_processes_than_gpus_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", chosen.append)
    monkeypatch.setattr("torch.distributed.init_process_group", lambda _: None)
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: None)
    monkeypatch.setenv("WORLD_SIZE", "4")
    for rank in range(4):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        with process_group():
            pass
    assert chosen == [0, 1, 0, 1]


def evaluate(words: list[str], out: Path, processes: int, port: int) -> dict[str, bytes]:
    """Start the command as torchrun does and return the files that it wrote; only the first process prints."""
    command = [sys.executable, "-m", "tokenloc.cli", "evaluate", *words, "--out", str(out)]
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    own = [{**common, "RANK": str(rank), "WORLD_SIZE": str(processes)} for rank in range(processes)]
    started = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for env in own]
    printed = []
    for process in started:
        printed.append(process.communicate(timeout=240)[1])
        assert process.returncode == 0, printed[-1]
    assert ["map threshold" in errors for errors in printed] == [True, *[False] * (processes - 1)]
    return {path.name: path.read_bytes() for path in (out / "metrics.json", out / "images.csv", out / "boxes.npz")}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_write_the_files_of_one(run: Path, tmp_path: Path, processes: int) -> None:
    """24 images in batches of 5 do not divide evenly."""
    port = 20000 + os.getpid() % 20000 + processes
    words = [str(run / "checkpoints/best.ckpt"), "--batch_size", "5", "--device", "cpu", "--save_maps"]
    alone = evaluate([*words, str(tmp_path / "maps")], tmp_path / "alone", 1, port)
    together = evaluate([*words, str(tmp_path / "same")], tmp_path / "together", processes, port)
    assert alone == together
    maps, same = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("maps", "same"))
    assert set(maps) == {"manifest.json", "maps-00000.npz"}
    assert maps == same


@pytest.mark.slow
def test_two_processes_evaluate_maps_as_one_does(run: Path, tmp_path: Path) -> None:
    """70 images are two batches of maps, 64 and 6."""
    data = ["--data.name", "scenes", "--data.options", "{size: 40, length: 70}"]
    port = 20000 + os.getpid() % 20000 + 9
    words = [str(run / "checkpoints/best.ckpt"), *data, "--device", "cpu", "--save_maps", str(tmp_path / "maps")]
    model = evaluate(words, tmp_path / "model", 1, port)
    together = evaluate(["--maps", str(tmp_path / "maps"), *data], tmp_path / "together", 2, port)
    assert together["images.csv"] == model["images.csv"]
    assert json.loads(together["metrics.json"])["metrics"] == json.loads(model["metrics.json"])["metrics"]
