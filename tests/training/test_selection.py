"""The best epoch: by labels or by validation boxes, marked as an oracle if it uses the test images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.runs import tiny_run, tiny_settings
from tokenloc.boxes import get_protocol
from tokenloc.data import create_dataset
from tokenloc.inference.calibration import evidence_tables
from tokenloc.inference.evaluation import evaluate_model
from tokenloc.metrics import Scorer
from tokenloc.models.checkpoint import load_checkpoint, read_checkpoint
from tokenloc.reporting.charts import read_curves
from tokenloc.training import selection
from tokenloc.training.config import DataConfig, Optimisation
from tokenloc.training.module import LocalizationTask


def by_boxes(**changes: Any) -> DataConfig:
    return replace(tiny_settings(Path())["data"], **{"select": "max_box_acc_v1", **changes})


@pytest.mark.slow
def test_the_epoch_with_the_best_boxes_is_saved(tmp_path: Path) -> None:
    best = tiny_run(tmp_path / "run", data=by_boxes(), optimisation=Optimisation(epochs=3, batch_size=8, lr=3e-3))
    curves = {name: dict(curve) for name, curve in read_curves(tmp_path / "run/logs").items()}
    curve, loss = curves["val/max_box_acc_v1"], curves["val/cross_entropy"]
    assert list(curve) == [0, 1, 2]
    epoch = read_checkpoint(best)["epoch"]
    assert epoch == max(curve, key=lambda epoch: (curve[epoch], -loss[epoch], epoch))
    model, metadata = load_checkpoint(best)
    val = create_dataset("scenes", None, "val", metadata.classes, size=40, length=24)
    result = evaluate_model(model, val, metadata.preprocessing, Scorer(get_protocol("standard")))
    assert curve[epoch] == pytest.approx(result.evaluation.max_box_acc_v1)
    content = json.loads((tmp_path / "run/metrics.json").read_text())
    assert (content["epoch"], content["epoch_source"]) == (epoch + 1, "the best max_box_acc_v1 on val of scenes")


@pytest.mark.parametrize(
    ("accuracies", "losses", "best_epoch", "reason"),
    [
        ([10.0, 30.0, 20.0], [0.1, 0.2, 0.1], 2, "has the best max_box_acc_v2"),
        (
            [50.0, 50.0, 50.0],
            [0.3, 0.1, 0.2],
            2,
            "has the lowest validation loss of the 3 epochs with the best max_box",
        ),
        (
            [40.0, 50.0, 50.0],
            [0.1, 0.2, 0.2],
            3,
            "has the lowest validation loss of the 2 epochs with the best max_box",
        ),
    ],
)
def test_of_equal_epochs_the_one_with_the_lower_loss_is_kept(
    accuracies: list[float],
    losses: list[float],
    best_epoch: int,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    values, given_losses = iter(accuracies), iter(losses)

    def log_given_loss(task: LocalizationTask) -> None:
        task.log("val/cross_entropy", next(given_losses))

    monkeypatch.setattr(LocalizationTask, "on_validation_epoch_end", log_given_loss)

    def given(*_: Any, **__: Any) -> Any:
        return SimpleNamespace(evaluation=SimpleNamespace(max_box_acc_v2=next(values)))

    monkeypatch.setattr(selection, "evaluate_model", given)
    data = by_boxes(select="max_box_acc_v2", calibration_split=None, test_split=None)
    best = tiny_run(tmp_path / "run", data=data, optimisation=Optimisation(epochs=3, batch_size=8))
    content = read_checkpoint(best)
    assert content["epoch"] + 1 == best_epoch
    assert "optimizer_states" not in content  # two thirds of last.ckpt
    assert read_checkpoint(best.with_name("last.ckpt"))["epoch"] == 2
    assert f"kept epoch {best_epoch} of 3, because it {reason}" in capsys.readouterr().err


def test_the_epoch_with_the_most_evidence_is_kept_without_boxes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[float] = []

    def tables(*arguments: Any, **settings: Any) -> Any:
        found = evidence_tables(*arguments, **settings)
        inside, outside, area = found.mean(axis=0)
        measured.append(100 * (inside - outside - area).max())
        return found

    monkeypatch.setattr(selection, "evidence_tables", tables)
    data = by_boxes(select="evidence", calibration_split=None, test_split=None)
    best = tiny_run(tmp_path / "run", data=data, optimisation=Optimisation(epochs=3, batch_size=8, lr=3e-3))
    curve = dict(read_curves(tmp_path / "run/logs")["val/evidence"])
    assert list(curve.values()) == pytest.approx(measured)
    epoch = read_checkpoint(best)["epoch"]
    assert curve[epoch] == max(curve.values())
    reason = "has the best evidence on val of scenes"
    assert f"kept epoch {epoch + 1} of 3, because it {reason}" in capsys.readouterr().err


def test_a_selection_on_the_test_images_is_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = by_boxes(val_split="test", select="top1_cls", calibration_split=None)
    tiny_run(tmp_path / "run", data=data, optimisation=Optimisation(epochs=1, batch_size=8))
    expected = "the best top1_cls on test of scenes; chosen on the very images that are measured, as an oracle"
    assert json.loads((tmp_path / "run/metrics.json").read_text())["epoch_source"] == expected
    assert f"kept epoch 1 of 1, because it has {expected}" in capsys.readouterr().err
    assert selection.describe_selection(by_boxes(val_split=None)) == "the last one"


def test_the_selection_of_sats_release_is_an_oracle_of_epoch_and_threshold(tmp_path: Path) -> None:
    data = by_boxes(val_split="test", select="gt_known_plus_top1_loc", calibration_split=None)
    tiny_run(tmp_path / "run", data=data, optimisation=Optimisation(epochs=2, batch_size=8), protocol="sat")
    content = json.loads((tmp_path / "run/metrics.json").read_text())
    assert content["epoch_source"].startswith("the best gt_known_plus_top1_loc on test of scenes; ")
    assert content["epoch_source"].endswith("as an oracle")
    assert content["threshold_source"] == "best GT-known + Top-1 Loc on the evaluated set (oracle)"
    curve = dict(read_curves(tmp_path / "run/logs")["val/gt_known_plus_top1_loc"])
    metrics = content["metrics"]
    assert max(curve.values()) == pytest.approx(metrics["gt_known"] + metrics["top1_loc"])


def test_selection_by_missing_boxes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'evidence' .* by validation images, but data\.val_split is not set"):
        tiny_run(tmp_path / "run", data=by_boxes(select="evidence", val_split=None))
    with pytest.raises(
        ValueError, match=r"'max_box_acc_v1' chooses .* validation boxes, but data\.val_split is not set"
    ):
        tiny_run(tmp_path / "run", data=by_boxes(val_split=None))
    scenes = create_dataset("scenes", None, "train", size=40, length=24)
    for index, sample in enumerate(scenes):
        folder = tmp_path / "images" / scenes.classes[sample.label]
        folder.mkdir(parents=True, exist_ok=True)
        scenes.image(index).save(folder / f"{index}.png")
    options = {"val_fraction": 0.25, "test_fraction": 0}
    data = DataConfig("folder", tmp_path / "images", val_split="val", select="max_box_acc_v2", options=options)
    with pytest.raises(ValueError, match="by validation boxes, but val of folder has no boxes"):
        tiny_run(tmp_path / "run", data=data)
    assert not (tmp_path / "run").exists()
