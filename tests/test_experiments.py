"""The preparation of the experiments in docs/results; their trainings take hours and are not run."""

from __future__ import annotations

import csv
import runpy
from pathlib import Path

import numpy as np

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
