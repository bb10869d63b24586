"""Charts of evaluations and trainings: their data, PNG files and SVG paths."""

from __future__ import annotations

import csv
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.runs import tiny_run, tiny_settings
from tokenloc._files import write_json, write_text
from tokenloc.metrics.images import ImageRow, write_rows
from tokenloc.reporting import charts
from tokenloc.reporting.charts import Chart, evaluation_charts, read_curves, save_curves, save_training_curves
from tokenloc.reporting.runs import Run, read_run
from tokenloc.training.config import ModelChoice, Optimisation

CURVE = {"threshold": [0.0, 0.5], "0.3": [50.0, 100.0], "0.5": [0.0, 25.0], "0.7": [0.0, 5.0], "0.9": [0.0, 0.0]}
ROWS = [
    ImageRow("a", 0, largest=0.55, object_fraction=0.05),
    ImageRow("b", 0, largest=0.95, object_fraction=0.35),
    ImageRow("c", 0, largest=0.2, object_fraction=0.31),
    ImageRow("d", 0),
]


def write_run(folder: Path, rows: list[ImageRow], name: str = "run") -> Run:
    write_rows(folder / "images.csv", rows, ["object"])
    write_json(folder / "metrics.json", {"protocol": "sat", "images": len(rows), "metrics": {}, "threshold": 0.25})
    return read_run(folder, name)


def read_columns(path: Path) -> dict[str, list[float]]:
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    return {name: [float(line[name] or "nan") for line in lines] for name in lines[0]}


def test_curves_of_an_evaluation_are_drawn_and_written_as_csv(tmp_path: Path) -> None:
    write_run(tmp_path, ROWS)
    save_curves(tmp_path, CURVE)
    figures = tmp_path / "figures"
    assert read_columns(figures / "threshold.csv") == CURVE
    spread = read_columns(figures / "iou.csv")
    assert (spread["from"][0], spread["to"][-1], sum(spread["images"])) == (0.5, 1.0, 2)
    counted = [round(low, 2) for low, images in zip(spread["from"], spread["images"], strict=True) if images]
    assert counted == [0.54, 0.94]
    expected = np.full(10, np.nan)
    expected[0], expected[3] = 0.55, 0.575
    np.testing.assert_allclose(read_columns(figures / "iou_by_size.csv")["mean_iou"], expected)
    with Image.open(figures / "curves.png") as image:
        assert np.asarray(image.convert("L")).std() > 5


def test_iou_by_size_of_masks_is_drawn_and_written(tmp_path: Path) -> None:
    """SAT, Fig. 6, here of images without boxes."""
    sizes = {"a": (0.4, 0.05), "b": (0.8, 0.31), "c": (0.6, 0.39)}
    write_run(tmp_path, [ImageRow(name, 0, mask_iou=iou, mask_fraction=size) for name, (iou, size) in sizes.items()])
    save_curves(tmp_path, None)
    expected = np.full(10, np.nan)
    expected[0], expected[3] = 0.4, 0.7
    np.testing.assert_allclose(read_columns(tmp_path / "figures/mask_iou_by_size.csv")["mean_iou"], expected)
    with Image.open(tmp_path / "figures/mask_iou_by_size.png") as image:
        assert np.asarray(image.convert("L")).std() > 5


@pytest.mark.parametrize(("curve", "rows"), [(None, ROWS), (CURVE, ROWS[3:])])
def test_without_boxes_or_logs_there_are_no_curves(tmp_path: Path, curve: Any, rows: list[ImageRow]) -> None:
    write_run(tmp_path, rows)
    save_curves(tmp_path, curve)
    save_training_curves(tmp_path / "logs", tmp_path / "figures/training.png")
    assert not (tmp_path / "figures").exists()


def test_svg_coordinates_and_notes(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "1", ROWS[:2], "one"), write_run(tmp_path / "2", ROWS[2:3], "two")]
    save_curves(tmp_path / "1", CURVE)
    accuracy, iou, size = evaluation_charts(runs)
    assert accuracy.svg_path(accuracy.lines[0]) == "M34.0 190.0L192.0 144.5"
    assert [(line.run, line.dash) for line in accuracy.lines] == [(0, 0), (0, 1), (0, 2)]
    assert [(run, accuracy.svg_x(x)) for run, x in accuracy.markers] == [(0, 113.0)]
    assert iou.notes == ["one: median 0.75", "two: median 0.20"]
    assert (iou.ymax, max(iou.lines[0].y), max(iou.lines[1].y)) == (100.0, 50.0, 100.0)
    assert size.notes == ["one: 0.55 at 5 %, 0.95 at 35 %", "two: 0.20 at 35 %"]
    assert size.svg_path(size.lines[1]).endswith("h0")


def test_logged_values_are_averaged_by_epoch_and_later_versions_win(tmp_path: Path) -> None:
    first = "epoch,step,train/total,val/top1_cls\n0,1,2.0,\n0,2,4.0,\n0,2,,50.0\n1,3,1.0,\n"
    write_text(tmp_path / "version_0/metrics.csv", first)
    write_text(tmp_path / "version_2/metrics.csv", "epoch,step,train/total\n1,3,0.5\n2,4,0.25\n")
    write_text(tmp_path / "version_10/metrics.csv", "epoch,step,train/total\n2,4,0.125\n")
    assert read_curves(tmp_path) == {
        "train/total": [(0.0, 3.0), (1.0, 0.5), (2.0, 0.125)],
        "val/top1_cls": [(0.0, 50.0)],
    }


def test_training_is_drawn_for_every_epoch_with_distinct_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps an epoch, fewer than Lightning's usual logging interval of ten."""
    drawn: list[Chart] = []
    monkeypatch.setattr(charts, "_save_charts", lambda made, _: drawn.extend(made))
    data = replace(tiny_settings(tmp_path)["data"], calibration_split=None, test_split=None)
    tiny_run(tmp_path, data=data, optimisation=Optimisation(epochs=4, batch_size=8))
    assert {chart.title for chart in drawn} == {"train", "accuracy, %", "val"}
    for chart in drawn:
        assert all(list(line.x) == [1, 2, 3, 4] for line in chart.lines)
        assert len({line.label for line in chart.lines}) == len(chart.lines)


@pytest.mark.slow
def test_learned_parameters_of_scm_are_drawn_for_every_block(tmp_path: Path) -> None:
    vit = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    model = ModelChoice("scm", "vit_tiny_patch16_224", False, {"blocks": 2}, vit)
    tiny_run(tmp_path, model=model, optimisation=Optimisation(epochs=3, batch_size=8, lr=1e-3))
    curves = read_curves(tmp_path / "logs")
    for name, block in product(("similarity_weight", "threshold"), (1, 2)):
        epochs, values = zip(*curves[f"learned/{name}/block_{block}"], strict=True)
        assert epochs == (0, 1, 2)
        assert len(set(values)) == 3
    with Image.open(tmp_path / "figures/training.png") as image:
        assert image.width > image.height * 3  # five charts side by side
