"""A whole run: its folder, its numbers, that it repeats, and what it prints."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from tests.runs import tiny_run, tiny_settings, weights
from tokenloc.boxes import get_protocol
from tokenloc.cli import main
from tokenloc.commands import train as train_command
from tokenloc.commands.results import print_results
from tokenloc.data import create_dataset
from tokenloc.data.base import Subset
from tokenloc.inference.evaluation import evaluate_model
from tokenloc.metrics import Scorer
from tokenloc.models.checkpoint import load_checkpoint, read_checkpoint
from tokenloc.training.config import DataConfig, Optimisation

UNTESTED = DataConfig(name="scenes", resize=36, crop=32, options={"size": 40, "length": 16})
ONE_EPOCH = Optimisation(epochs=1, batch_size=8)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_the_folder_of_a_run(run: Path) -> None:
    files = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    expected = {"config.yaml", "environment.json", "metrics.json", "figures/summary.png"}
    assert expected | {"checkpoints/best.ckpt", "checkpoints/last.ckpt"} <= files
    assert any(name.startswith("logs/") and "tfevents" in name for name in files)
    assert any(name.startswith("logs/") and name.endswith("metrics.csv") for name in files)
    assert not [name for name in files if ".partial" in name or ".lock" in name]
    environment = json.loads((run / "environment.json").read_text())
    assert {"tokenloc", "torch", "timm", "commit"} <= environment.keys()


def test_the_form_of_metrics_json(run: Path) -> None:
    content = json.loads((run / "metrics.json").read_text())
    assert (content["protocol"], content["images"]) == ("standard", 24)
    assert list(content["metrics"]["box_acc"]) == ["0.3", "0.5", "0.7", "0.8", "0.9"]
    assert content["threshold_source"].startswith("calibrated on val of scenes")
    assert set(content["constant_boxes"]) == {"centre 70 % box", "whole-image box"}


def test_the_metrics_are_those_of_the_checkpoint(run: Path) -> None:
    model, metadata = load_checkpoint(run / "checkpoints/best.ckpt")
    test = create_dataset("scenes", None, "test", metadata.classes, size=40, length=24)
    assert metadata.threshold is not None
    scorer = Scorer(get_protocol("standard"), metadata.threshold.value)
    measured = evaluate_model(model, test, metadata.preprocessing, scorer, batch_size=5)
    assert measured.to_dict()["metrics"] == json.loads((run / "metrics.json").read_text())["metrics"]


@pytest.mark.slow
def test_a_run_repeats_and_depends_on_its_seed(run: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["optimisation"]["betas"] == [0.9, 0.99]
    assert config["data"]["options"] == {"size": 40, "length": 24}
    for seed in (0, 1):
        last = tiny_run(tmp_path / str(seed), seed=seed).with_name("last.ckpt")
        assert same(weights(run), weights(last.parents[1])) == (seed == 0)


def test_a_run_is_not_overwritten_and_nothing_is_not_resumed(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="already contains a run; continue it with --resume, or choose another --out"):
        tiny_run(run)
    with pytest.raises(FileNotFoundError, match=r"nothing to resume: .*last\.ckpt does not exist"):
        tiny_run(tmp_path / "none", resume=True)


def test_a_checkpoint_of_another_model_is_not_resumed(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "copy")
    (tmp_path / "copy/config.yaml").unlink()  # it would show the difference first
    settings = tiny_settings(tmp_path / "copy", resume=True)
    settings["model"].options = {"head": "fc"}
    with pytest.raises(ValueError, match=r"with another configuration; differences: model .*'head': 'fc'"):
        tiny_run(tmp_path / "copy", resume=True, model=settings["model"])


def test_without_a_validation_split_the_last_epoch_is_the_best(tmp_path: Path) -> None:
    best = tiny_run(tmp_path / "plain", data=UNTESTED, optimisation=ONE_EPOCH)
    assert same(weights(tmp_path / "plain"), weights(tmp_path / "plain", "best.ckpt"))
    assert not (tmp_path / "plain/metrics.json").exists()
    assert load_checkpoint(best)[1].threshold is None


def test_a_run_with_few_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = DataConfig(name="scenes", per_class=2, draw=3, resize=36, crop=32, options={"size": 40, "length": 24})
    best = tiny_run(tmp_path / "few", data=data, optimisation=Optimisation(epochs=2, batch_size=100, freeze="blocks"))
    assert read_checkpoint(best)["global_step"] == 2
    printed = capsys.readouterr().err
    assert "12 images of 6 classes from scenes" in printed
    assert "the batch size 100 is larger than the dataset: each step uses all images" in printed
    assert "trainable parameters: 0.01 M of 0.03 M in the backbone" in printed


def test_learned_scalars_are_logged(tmp_path: Path) -> None:
    model = tiny_settings(tmp_path)["model"]
    model.method, model.options = "scm", {"blocks": 1}
    tiny_run(tmp_path / "scm", model=model, data=UNTESTED, optimisation=ONE_EPOCH)
    (log,) = (tmp_path / "scm/logs").rglob("metrics.csv")
    columns = log.read_text().split("\n")[0].split(",")
    assert {"learned/similarity_weight/block_1", "learned/threshold/block_1"} <= set(columns)


def test_impossible_boxes_are_counted(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, metadata = load_checkpoint(run / "checkpoints/best.ckpt")
    test = create_dataset("scenes", None, "test", metadata.classes, size=40, length=6)
    broken = Subset(test, range(6))
    samples = list(test)
    broken.samples = [replace(sample, boxes=sample.boxes[:, [2, 1, 0, 3]]) for sample in samples[:2]] + samples[2:]
    measured = evaluate_model(model, broken, metadata.preprocessing, Scorer(get_protocol("standard")))
    assert (measured.evaluation.dropped_boxes, measured.evaluation.images_with_boxes) == (2, 4)
    print_results(measured)
    assert "2 true boxes are invalid and left out" in capsys.readouterr().err


@pytest.mark.slow
def test_a_finished_calibration_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_run(tmp_path / "run")
    before = (tmp_path / "run/metrics.json").read_text()
    (tmp_path / "run/metrics.json").unlink()  # interrupted in the evaluation
    calls: list[str] = []
    calibrate = train_command.calibrate_threshold
    monkeypatch.setattr(train_command, "calibrate_threshold", lambda *a, **k: calls.append("") or calibrate(*a, **k))
    tiny_run(tmp_path / "run", resume=True)
    assert not calls
    assert (tmp_path / "run/metrics.json").read_text() == before
    data = replace(tiny_settings(tmp_path)["data"], calibration_split="train")
    tiny_run(tmp_path / "run", resume=True, data=data)
    assert len(calls) == 1


def test_a_threshold_calibrated_on_the_test_images_is_marked(tmp_path: Path) -> None:
    tiny_run(tmp_path / "run", data=replace(tiny_settings(tmp_path)["data"], calibration_split="test"))
    source = json.loads((tmp_path / "run/metrics.json").read_text())["threshold_source"]
    assert source.startswith("calibrated on test of scenes")
    assert source.endswith("as an oracle")


@pytest.mark.slow
def test_a_finished_run_prints_the_next_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    best = tiny_run(out)
    printed = capsys.readouterr().err
    assert f"tokenloc localize {best} PHOTOGRAPHS --out {out / 'localized'}" in printed
    assert "has all" not in printed
    tiny_run(out, resume=True)
    assert f"{out / 'checkpoints' / 'last.ckpt'} has all 2 epochs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("data.cached_pictures", "true", "data.cached_pictures was removed; delete it from the configuration"),
        ("data.cached_views", "-1", "data.cached_views must be at least 0; got -1"),
        ("optimisation.epochs", "0", "optimisation.epochs must be at least 1; got 0"),
    ],
)
def test_invalid_settings_are_reported_without_a_traceback(
    option: str, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--data.name", "scenes", f"--{option}", value]) == 2
    assert f"tokenloc: {message}" in capsys.readouterr().err
