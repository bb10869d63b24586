"""The curves of an evaluation, drawn and as data."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tokenloc.metrics.images import ImageRow
from tokenloc.reporting.curves import save_curves

CURVE = {"threshold": [0.0, 0.5], "0.3": [50.0, 100.0], "0.5": [0.0, 25.0]}
ROWS = [
    ImageRow("a", 0, largest=0.55, object_fraction=0.05),
    ImageRow("b", 0, largest=0.95, object_fraction=0.35),
    ImageRow("c", 0, largest=0.2, object_fraction=0.31),
    ImageRow("d", 0),
]


def columns(path: Path) -> dict[str, list[float]]:
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    return {name: [float(line[name] or "nan") for line in lines] for name in lines[0]}


def test_curves_are_drawn_and_written(tmp_path: Path) -> None:
    save_curves(CURVE, ROWS, tmp_path)
    assert columns(tmp_path / "threshold.csv") == CURVE
    spread = columns(tmp_path / "iou.csv")
    assert (spread["from"][0], spread["to"][-1], sum(spread["images"])) == (0.5, 1.0, 2)
    assert [round(low, 2) for low, images in zip(spread["from"], spread["images"], strict=True) if images] == [
        0.54,
        0.94,
    ]
    sizes = columns(tmp_path / "iou_by_size.csv")
    expected = np.full(10, np.nan)
    expected[0], expected[3] = 0.55, 0.575
    np.testing.assert_allclose(sizes["mean_iou"], expected)
    with Image.open(tmp_path / "curves.png") as image:
        assert np.asarray(image.convert("L")).std() > 5


@pytest.mark.parametrize(("curve", "rows"), [(None, ROWS), (CURVE, ROWS[3:])])
def test_without_boxes_there_are_no_curves(
    tmp_path: Path, curve: dict[str, list[float]] | None, rows: list[ImageRow]
) -> None:
    save_curves(curve, rows, tmp_path)
    assert not list(tmp_path.iterdir())
