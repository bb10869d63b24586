"""Comparison of several runs, and repeats with several seeds."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runs import tiny_run, tiny_settings, weights
from tokenloc._files import write_json
from tokenloc.cli import main
from tokenloc.commands import train as command
from tokenloc.commands.runs import mean_and_spread, read_runs
from tokenloc.reporting.runs import read_run
from tokenloc.training.config import DataConfig, Optimisation


def write_metrics(folder: Path, gt_known: float | None, protocol: str = "sat") -> Path:
    metrics = {"top1_cls": 90.0, "gt_known": gt_known, "box_acc": {"0.7": 50.0}}
    content = {"protocol": protocol, "images": 9, "threshold": 0.5, "metrics": metrics}
    write_json(folder / "metrics.json", content)
    return folder


def compared(*folders: Path, out: Path) -> dict[str, Any]:
    assert main(["compare", *map(str, folders), "--out", str(out)]) == 0
    return json.loads((out / "runs.json").read_text())


def test_any_number_of_runs_are_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [write_metrics(tmp_path / name, value) for name, value in (("a", 80.0), ("b", 84.0), ("c", None))]
    content = compared(*folders, out=tmp_path / "out")
    metrics = [group["runs"][0]["metrics"] for group in content["groups"].values()]
    assert content["protocol"] == "sat"
    assert [each["gt_known"] for each in metrics] == [80.0, 84.0, None]
    assert metrics[0]["box_acc_0.7"] == 50.0
    assert not (tmp_path / "out/comparison.json").exists()
    printed = capsys.readouterr().err
    assert "84.0" in printed
    assert "mean" not in printed


def test_repeats_have_mean_and_sample_deviation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, value in ((0, 80.0), (1, 84.0), (10, 85.0)):
        write_metrics(tmp_path / f"many/seed-{seed}", value)
    single = write_metrics(tmp_path / "single", 70.0)
    content = compared(tmp_path / "many", single, out=tmp_path / "out")
    group = content["groups"][str(tmp_path / "many")]
    assert [Path(run["folder"]).name for run in group["runs"]] == ["seed-0", "seed-1", "seed-10"]
    expected = {"mean": 83.0, "standard_deviation": np.std([80, 84, 85], ddof=1)}
    assert group["metrics"]["gt_known"] == pytest.approx(expected)
    alone = content["groups"][str(single)]["metrics"]["gt_known"]
    assert alone == {"mean": 70.0, "standard_deviation": None}
    printed = capsys.readouterr().err
    assert re.search(r"mean of 3 +│ +90.0 │ +- │ +83.0 │", printed)
    assert re.search(r"deviation +│ +0.0 │ +- │ +2.6 │", printed)


def test_a_metric_that_a_run_lacks_has_no_mean(tmp_path: Path) -> None:
    runs = [read_run(write_metrics(tmp_path / name, value)) for name, value in (("a", 80.0), ("b", None))]
    assert set(mean_and_spread(runs)) == {"top1_cls", "box_acc_0.7"}


def test_runs_under_different_protocols_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    protocols = enumerate(("sat", "sat", "standard"))
    folders = [write_metrics(tmp_path / str(index), 80.0, protocol) for index, protocol in protocols]
    assert main(["compare", *map(str, folders)]) == 2
    assert f"{folders[0]} is under protocol 'sat', {folders[2]} under 'standard'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("repeated") / "runs"
    best = tiny_run(out, seeds=[3, 0])
    assert best == out / "seed-3/checkpoints/best.ckpt"
    return out


def test_every_seed_trains_a_run_and_the_runs_are_summarized(repeated: Path, run: Path) -> None:
    content = json.loads((repeated / "seeds.json").read_text())
    (group,) = content["groups"].values()
    each = [json.loads((repeated / f"seed-{seed}/metrics.json").read_text())["metrics"] for seed in (3, 0)]
    assert group["metrics"]["top1_cls"]["mean"] == pytest.approx(sum(one["top1_cls"] for one in each) / 2)
    assert [run["metrics"]["pxap"] for run in group["runs"]] == [one["pxap"] for one in each]
    assert each[1] == json.loads((run / "metrics.json").read_text())["metrics"]  # as with --seed 0
    assert each[0] != each[1]


@pytest.mark.slow
def test_interrupted_seeds_are_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = DataConfig("scenes", resize=36, crop=32, test_split="test", options={"size": 40, "length": 12})
    settings = tiny_settings(tmp_path / "runs", data=data, optimisation=Optimisation(epochs=1, batch_size=8))
    fit = command.fit
    seen = []

    def interrupted_at_1(*arguments: Any, **options: Any) -> Path:
        seen.append((options["seed"], options["resume"]))
        if seen == [(0, False), (1, False)]:
            raise KeyboardInterrupt
        return fit(*arguments, **options)

    monkeypatch.setattr(command, "fit", interrupted_at_1)
    with pytest.raises(
        KeyboardInterrupt, match=r"seed-1/config\.yaml --resume; to resume all seeds, repeat this command with"
    ):
        command.train(**settings, seeds=[0, 1, 2])
    command.train(**settings, seeds=[0, 1, 2], resume=True)
    assert seen == [(0, False), (1, False), (1, False), (2, False)]
    assert len(json.loads((tmp_path / "runs/seeds.json").read_text())["groups"][str(tmp_path / "runs")]["runs"]) == 3
    assert "mean of 3" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"seed-0 already contains a run; continue it with --resume"):
        command.train(**settings, seeds=[0, 1, 2])
    settings["optimisation"] = Optimisation(epochs=1, batch_size=8, lr=1.0)
    with pytest.raises(ValueError, match=r"seed-0 cannot be resumed with another configuration"):
        command.train(**settings, seeds=[0, 1, 2], resume=True)


def test_every_draw_trains_a_run_on_other_images(tmp_path: Path) -> None:
    data = replace(tiny_settings(tmp_path)["data"], per_class=1, calibration_split=None)
    settings = {"data": data, "optimisation": Optimisation(epochs=1, batch_size=8)}
    tiny_run(tmp_path / "runs", draws=[0, 1], seeds=[5], **settings)
    tiny_run(tmp_path / "alone", seed=5, **{**settings, "data": replace(data, draw=1)})
    assert [run.folder.name for run in read_runs(tmp_path / "runs")] == ["draw-0-seed-5", "draw-1-seed-5"]
    zero, one, alone = (weights(tmp_path / name) for name in ("runs/draw-0-seed-5", "runs/draw-1-seed-5", "alone"))
    assert all(one[name].equal(alone[name]) for name in one)
    assert not all(one[name].equal(zero[name]) for name in one)
    (group,) = json.loads((tmp_path / "runs/draws.json").read_text())["groups"].values()
    assert len(group["runs"]) == 2
    with pytest.raises(ValueError, match=r"--draws needs data\.per_class"):
        tiny_run(tmp_path / "others", draws=[0])


@pytest.mark.parametrize("seeds", [[], [1, 2, 1]])
def test_seeds_must_be_distinct(seeds: list[int], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--seeds needs at least one seed and no seed twice; got"):
        tiny_run(tmp_path / "runs", seeds=seeds)
    assert not (tmp_path / "runs").exists()
