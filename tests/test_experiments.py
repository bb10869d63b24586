"""The preparation of the experiments in docs/results; their trainings take hours and are not run."""

from __future__ import annotations

import csv
import os
import runpy
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tokenloc.data import create_dataset


def test_one_shot_imagenet_has_the_layout_of_ilsvrc(shared_dir: Path, tmp_path: Path) -> None:
    script = runpy.run_path(str(REPOSITORY / "experiments" / "one_shot_imagenet.py"))
    script["lay_out"](shared_dir, tmp_path / "ilsvrc")
    train, val = (create_dataset("imagenet", tmp_path / "ilsvrc", split) for split in ("train", "val"))
    assert train.classes == val.classes
    assert sorted(sample.label for sample in train.samples) == list(range(1000))
    tiny = shared_dir / "data" / "tiny_imagenet"
    with (tiny / "annotations.csv").open(newline="") as file:
        rows = {f"val/{row['file']}": row for row in csv.DictReader(file)}
    assert len(val) == len(rows) == 2020
    for sample in val.samples:
        row = rows[sample.id]
        assert sample.label == int(row["imagenet_index"])
        np.testing.assert_array_equal(sample.boxes, [[float(row[name]) for name in ("x0", "y0", "x1", "y1")]])
    assert val.image(0).size == (64, 64)


@pytest.fixture
def fuzz(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(REPOSITORY / "experiments")
    import fuzz

    return fuzz


def fail_as_told(connection: Any, folder: Path, _: Path) -> None:
    """A worker whose cases say how they fail."""
    connection.send(None)
    while case := connection.recv():
        if case.name == "crash":
            os.abort()
        if case.name == "hang":
            time.sleep(3600)
        if case.name == "executed":
            (folder / "executed.txt").touch()
        connection.send(("Traceback" if case.name == "traceback" else None, 5))


@pytest.mark.slow
def test_fuzz_counts_every_failure_and_goes_on(fuzz: Any, tmp_path: Path) -> None:
    kinds = ["", "crash", "", "hang", "traceback", "executed", ""]
    cases = iter([fuzz.Case(number, "images", kind, b"") for number, kind in enumerate(kinds)])
    with fuzz.Worker(tmp_path, tmp_path, 10, fail_as_told) as worker:
        counts, failures = fuzz.fuzz(cases, worker, tmp_path, 3600)
    assert counts["images"] == fuzz.Count(7, dict.fromkeys(fuzz.FAILURES, 1), 5)
    assert [text.partition(":")[0] for text in failures] == [
        f"{kind} in case {number} (images" for number, kind in enumerate(kinds) if kind
    ]


def test_fuzz_repeats_its_cases(fuzz: Any, tmp_path: Path) -> None:
    first, again, other = (
        list(islice(fuzz.all_cases(seed, ["images", "requests"], tmp_path / name), 100))
        for seed, name in ((0, "first"), (0, "again"), (1, "other"))
    )
    assert first == again
    assert [case.number for case in first] == list(range(100))
    assert first != other


@pytest.mark.slow
def test_a_few_hostile_images_and_requests_do_no_harm(fuzz: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert fuzz.main(["--sources", "images", "requests", "--cases", "40"]) == 0
    assert "| images | 20 | 0 | 0 | 0 | 0 |" in capfd.readouterr().out
