"""The best epoch: by labels, by held-out boxes, and said where it was by the images that are measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.runs import tiny_run, tiny_settings
from tokenloc.boxes import get_protocol
from tokenloc.commands import train as command
from tokenloc.data import create_dataset
from tokenloc.inference.evaluation import evaluate_model
from tokenloc.metrics import Scorer
from tokenloc.models.checkpoint import load_checkpoint, read_checkpoint
from tokenloc.reporting.charts import read_curves
from tokenloc.training.config import DataConfig, Optimisation


def by_boxes(**changes: Any) -> DataConfig:
    return replace(tiny_settings(Path())["data"], **{"select": "max_box_acc_v1", **changes})


def test_by_boxes_the_epoch_with_the_best_boxes_is_kept(tmp_path: Path) -> None:
    best = tiny_run(tmp_path / "run", data=by_boxes(), optimisation=Optimisation(epochs=3, batch_size=8, lr=3e-3))
    curve = dict(read_curves(tmp_path / "run/logs")["val/max_box_acc_v1"])
    assert list(curve) == [0, 1, 2]
    epoch = read_checkpoint(best)["epoch"]
    assert epoch == max(curve, key=lambda epoch: (curve[epoch], -epoch))
    model, metadata = load_checkpoint(best)
    val = create_dataset("scenes", None, "val", metadata.classes, size=40, length=24)
    found = evaluate_model(
        model, val, metadata.preprocessing, Scorer(get_protocol("standard"))
    ).evaluation.max_box_acc_v1
    assert curve[epoch] == pytest.approx(found)
    content = json.loads((tmp_path / "run/metrics.json").read_text())
    assert (content["epoch"], content["epoch_source"]) == (epoch + 1, "the best max_box_acc_v1 on val of scenes")


def test_it_is_not_the_last_one_nor_the_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([10.0, 30.0, 20.0])

    def told(*_: Any, **__: Any) -> Any:
        return SimpleNamespace(evaluation=SimpleNamespace(max_box_acc_v2=next(values)))

    monkeypatch.setattr(command, "evaluate_model", told)
    data = by_boxes(select="max_box_acc_v2", calibration_split=None, test_split=None)
    best = tiny_run(tmp_path / "run", data=data, optimisation=Optimisation(epochs=3, batch_size=8))
    assert read_checkpoint(best)["epoch"] == 1
    assert read_checkpoint(best.with_name("last.ckpt"))["epoch"] == 2


def test_selection_on_the_measured_images_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = Optimisation(epochs=1, batch_size=8)
    tiny_run(tmp_path / "run", data=by_boxes(val_split="test", select="top1_cls"), optimisation=one)
    source = json.loads((tmp_path / "run/metrics.json").read_text())["epoch_source"]
    said = "the best top1_cls on test of scenes; chosen on the very images that are measured, as an oracle"
    assert source == said
    assert f"epoch 1: {said}" in capsys.readouterr().err
    tiny_run(tmp_path / "last", data=by_boxes(val_split=None, select="top1_cls"), optimisation=one)
    assert json.loads((tmp_path / "last/metrics.json").read_text())["epoch_source"] == "the last one"


def test_boxes_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"'max_box_acc_v1' chooses .* by held-out boxes, and data\.val_split is not given"
    ):
        tiny_run(tmp_path / "run", data=by_boxes(val_split=None))
    scenes = create_dataset("scenes", None, "train", size=40, length=24)
    for index, sample in enumerate(scenes):
        folder = tmp_path / "images" / scenes.classes[sample.label]
        folder.mkdir(parents=True, exist_ok=True)
        scenes.image(index).save(folder / f"{index}.png")
    options = {"val_fraction": 0.25, "test_fraction": 0}
    data = DataConfig("folder", tmp_path / "images", val_split="val", select="max_box_acc_v2", options=options)
    with pytest.raises(ValueError, match="by held-out boxes, and val of folder has none"):
        tiny_run(tmp_path / "run", data=data)
    assert not (tmp_path / "run").exists()
