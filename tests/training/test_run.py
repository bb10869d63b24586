"""A whole run: what it leaves behind, that it repeats, and that it goes on where it stopped."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from tests.runs import tiny_run, tiny_settings
from tokenloc.boxes import get_protocol
from tokenloc.data import create_dataset
from tokenloc.inference.evaluation import evaluate_model
from tokenloc.metrics import Scorer
from tokenloc.models.checkpoint import load_checkpoint, read_checkpoint
from tokenloc.training.config import DataConfig, Optimisation


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(checkpoint)["state_dict"]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_a_runs_folder(run: Path) -> None:
    there = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert {
        "config.yaml",
        "environment.json",
        "metrics.json",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
    } <= there
    assert any(name.startswith("logs/") and "tfevents" in name for name in there)
    assert any(name.startswith("logs/") and name.endswith("metrics.csv") for name in there)
    assert "figures/summary.png" in there
    assert not [name for name in there if ".partial" in name]
    environment = json.loads((run / "environment.json").read_text())
    assert {"tokenloc", "torch", "timm", "commit"} <= environment.keys()


def test_metrics_have_the_designs_form(run: Path) -> None:
    content = json.loads((run / "metrics.json").read_text())
    assert {"protocol", "images", "metrics", "threshold"} <= content.keys()
    names = {"top1_cls", "top5_cls", "top1_loc", "top5_loc", "gt_known", "max_box_acc_v1", "max_box_acc_v2", "box_acc"}
    assert names | {"pxap", "piou"} <= content["metrics"].keys()
    assert (content["protocol"], content["images"]) == ("standard", 24)
    assert list(content["metrics"]["box_acc"]) == ["0.3", "0.5", "0.7", "0.8", "0.9"]
    assert content["threshold_source"].startswith("calibrated on val of scenes")
    assert set(content["constant_boxes"]) == {"centre 70 % box", "whole-image box"}


def test_metrics_are_those_of_the_checkpoint(run: Path) -> None:
    model, metadata = load_checkpoint(run / "checkpoints/best.ckpt")
    test = create_dataset("scenes", None, "test", metadata.classes, size=40, length=24)
    assert metadata.threshold is not None
    scorer = Scorer(get_protocol("standard"), metadata.threshold.value)
    measured = evaluate_model(model, test, metadata.preprocessing, scorer, batch_size=5)
    stored = json.loads((run / "metrics.json").read_text())
    assert measured.to_dict()["metrics"] == stored["metrics"]


def test_the_resolved_configuration_repeats_the_run(run: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["optimisation"]["betas"] == [0.9, 0.99]
    assert config["data"]["options"] == {"size": 40, "length": 24}
    tiny_run(tmp_path / "again")
    assert same(weights(run / "checkpoints/last.ckpt"), weights(tmp_path / "again/checkpoints/last.ckpt"))


def test_another_seed_gives_other_weights(run: Path, tmp_path: Path) -> None:
    tiny_run(tmp_path / "other", seed=1)
    assert not same(weights(run / "checkpoints/last.ckpt"), weights(tmp_path / "other/checkpoints/last.ckpt"))


def test_a_run_is_not_written_over(run: Path) -> None:
    with pytest.raises(ValueError, match="holds a run already; continue it with --resume, or give another --out"):
        tiny_run(run)


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing to resume: no .*last\.ckpt"):
        tiny_run(tmp_path / "none", resume=True)


def test_a_checkpoint_of_another_model_is_not_resumed(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "copy")
    (tmp_path / "copy/config.yaml").unlink()  # which tells the difference of settings; see test_nothing_lost.py
    settings = tiny_settings(tmp_path / "copy", resume=True)
    settings["model"].options = {"head": "fc"}
    with pytest.raises(
        ValueError, match=r"cannot be resumed with another configuration; what differs: model .*'head': 'fc'"
    ):
        tiny_run(tmp_path / "copy", resume=True, model=settings["model"])


def test_without_a_held_out_split_the_last_epoch_is_the_best(tmp_path: Path) -> None:
    data = DataConfig(name="scenes", resize=36, crop=32, options={"size": 40, "length": 16})
    best = tiny_run(tmp_path / "plain", data=data, optimisation=Optimisation(epochs=1, batch_size=8))
    assert same(weights(best), weights(best.with_name("last.ckpt")))
    assert not (tmp_path / "plain/metrics.json").exists()
    assert load_checkpoint(best)[1].threshold is None


def test_best_is_the_epoch_with_the_best_held_out_labels(run: Path) -> None:
    callbacks = read_checkpoint(run / "checkpoints/best.ckpt")["callbacks"]
    assert [value["monitor"] for value in callbacks.values()] == ["val/top1_cls", None]
    assert read_checkpoint(run / "checkpoints/last.ckpt")["epoch"] == 1


def test_a_run_with_few_images_tells_what_it_learns_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = DataConfig(name="scenes", per_class=2, draw=3, resize=36, crop=32, options={"size": 40, "length": 24})
    best = tiny_run(tmp_path / "few", data=data, optimisation=Optimisation(epochs=2, batch_size=100, freeze="blocks"))
    assert read_checkpoint(best)["global_step"] == 2
    printed = capsys.readouterr().err
    assert "12 images of 6 classes from scenes" in printed
    assert "the batch of 100 is larger than the set: each step learns from all 12 images" in printed
    assert "tunable: 0.01 M of the backbone's 0.03 M" in printed
    config = yaml.safe_load((tmp_path / "few/config.yaml").read_text())
    assert (config["data"]["per_class"], config["data"]["draw"], config["optimisation"]["freeze"]) == (2, 3, "blocks")


def test_more_images_than_there_are(tmp_path: Path) -> None:
    data = replace(tiny_settings(tmp_path)["data"], per_class=5)
    with pytest.raises(ValueError, match="asks for 5 images of each class; scenes train has fewer of these: stripes"):
        tiny_run(tmp_path / "run", data=data)
    assert not (tmp_path / "run").exists()


def test_what_a_method_learns_is_logged(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path / "scm")
    data = DataConfig(name="scenes", resize=36, crop=32, options={"size": 40, "length": 16})
    settings["model"].method = "scm"
    settings["model"].options = {"blocks": 1}
    tiny_run(tmp_path / "scm", model=settings["model"], data=data, optimisation=Optimisation(epochs=1, batch_size=8))
    (log,) = (tmp_path / "scm/logs").rglob("metrics.csv")
    assert {"learned/similarity_weight/block_1", "learned/threshold/block_1"} <= set(
        log.read_text().split("\n")[0].split(",")
    )


def test_impossible_boxes_are_counted_and_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tokenloc.commands.results import print_results
    from tokenloc.data.base import Subset

    model, metadata = load_checkpoint(run / "checkpoints/best.ckpt")
    test = create_dataset("scenes", None, "test", metadata.classes, size=40, length=6)
    broken = Subset(test, range(6))
    broken.samples = [replace(sample, boxes=sample.boxes[:, [2, 1, 0, 3]]) for sample in list(test)[:2]] + list(test)[
        2:
    ]
    measured = evaluate_model(model, broken, metadata.preprocessing, Scorer(get_protocol("standard")))
    assert (measured.evaluation.dropped_boxes, measured.evaluation.images_with_boxes) == (2, 4)
    print_results(measured)
    assert "2 true boxes are invalid and left out" in capsys.readouterr().err


def test_a_threshold_of_the_measured_images_is_marked(tmp_path: Path) -> None:
    data = replace(tiny_settings(tmp_path)["data"], calibration_split="test")
    tiny_run(tmp_path / "run", data=data)
    source = json.loads((tmp_path / "run/metrics.json").read_text())["threshold_source"]
    assert source.startswith("calibrated on test of scenes")
    assert source.endswith("chosen on the very images that are measured, as an oracle")


def test_a_finished_run_says_so_and_what_comes_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    best = tiny_run(out)
    said = capsys.readouterr().err
    assert f"tokenloc localize {best} PHOTOGRAPHS --out {out / 'localized'}" in said
    assert "trained to its end" not in said
    tiny_run(out, resume=True)
    assert f"{out / 'checkpoints' / 'last.ckpt'} is trained to its end, 2 epochs" in capsys.readouterr().err
    tiny_run(out, resume=True, optimisation=Optimisation(epochs=3, batch_size=8, lr=1e-3, schedule="cosine"))
    assert "trained to its end" not in capsys.readouterr().err
