"""Benchmarks take a device, and all of them run on a GPU in bounded time."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "benchmarks"
CPU_ONLY = {"report", "stream_maps", "wsol_eval"}  # they run no network: drawings, files and boxes of existing maps


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    sys.path.insert(0, str(FOLDER))
    specification = importlib.util.spec_from_file_location("_gpu", FOLDER / "_gpu.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    try:
        specification.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


def test_every_benchmark_takes_a_device_and_runs_on_a_gpu(gpu: ModuleType) -> None:
    scripts = {path.stem: path.read_text() for path in FOLDER.glob("[!_]*.py")}
    taking = {name for name, source in scripts.items() if '"--device"' in source}
    assert taking == scripts.keys() - CPU_ONLY
    assert {command.partition(".py")[0] for command in gpu.COMMANDS} == taking
    for command in gpu.COMMANDS:
        name, *words = shlex.split(command)
        assert all(f'"{word}"' in scripts[Path(name).stem] for word in words if word.startswith("--")), command


def test_a_page_shows_what_ran_and_what_did_not(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = "import subprocess, sys; print('begun', flush=True); subprocess.run([sys.executable, '-c', WAIT])"
    scripts = {
        "good": "import sys; print(*sys.argv[1:])",
        "bad": "sys.exit(3)",
        "slow": slow.replace("WAIT", repr("import time; time.sleep(600)")),
    }
    for name, source in scripts.items():
        (tmp_path / f"{name}.py").write_text(f"import sys\n{source}")
    monkeypatch.setattr(gpu, "__file__", str(tmp_path / "_gpu.py"))
    commands = {"good.py --batch 2": 60, "bad.py": 60, "slow.py": 2, "good.py late": 0}
    outcomes = list(gpu.run(commands, 120, "cuda"))
    assert [(each.printed, each.problem) for each in outcomes] == [
        ("--batch 2 --device cuda\n", ""),
        ("", "failed with status 3"),
        ("begun\n", "stopped after 2 s"),
        ("", "not started: no time was left"),
    ]
    text = gpu.page(outcomes, "a card, driver 1, torch 2, 2026-01-01")
    assert text.startswith("# On a GPU\n\nWritten by `make bench-gpu` on a card, driver 1, torch 2, 2026-01-01.")
    assert "## `good.py --batch 2`\n\n```text\n--batch 2 --device cuda\n```\n" in text
    assert "begun\n```\n\n**stopped after 2 s**\n" in text
    (only,) = gpu.run({"good.py": 60}, 0, "cuda")
    assert only.problem == "not started: no time was left"
