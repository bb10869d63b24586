"""`tokenloc evaluate` with saved maps, and `tokenloc compare` of two runs."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.evaluations import with_column
from tests.runs import PROCESSES
from tokenloc._files import exclusive_lock
from tokenloc.boxes import get_protocol, scaled_map
from tokenloc.cli import main
from tokenloc.commands import results
from tokenloc.commands.results import save_figures
from tokenloc.data import create_dataset
from tokenloc.inference import Localizer
from tokenloc.metrics.images import read_table
from tokenloc.reporting.drawing import save_sheet
from tokenloc.reporting.runs import read_run

SCENES = ["--data.name", "scenes", "--data.options", "{size: 40, length: 24}"]


def read_metrics(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return content


@pytest.fixture(scope="module")
def saved(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an evaluation of the tiny run, ``evaluated``, and its ``maps``."""
    folder = tmp_path_factory.mktemp("saved")
    words = ["evaluate", str(run / "checkpoints/best.ckpt"), "--out", str(folder / "evaluated")]
    assert main([*words, "--save-maps", str(folder / "maps")]) == 0
    return folder


def test_saved_maps_give_the_same_metrics_without_the_checkpoint(saved: Path, tmp_path: Path) -> None:
    words = ["evaluate", "--maps", str(saved / "maps"), *SCENES, "--out", str(tmp_path / "again")]
    assert main([*words, "--workers", "2"]) == 0
    first, again = read_metrics(saved / "evaluated"), read_metrics(tmp_path / "again")
    assert again.pop("maps") == {"folder": str(saved / "maps"), "differing": [], "surplus": []}
    assert first.pop("viewing")
    assert first["threshold_source"].startswith("calibrated on val of scenes")
    assert again == first
    assert (tmp_path / "again/images.csv").read_text() == (saved / "evaluated/images.csv").read_text()


def test_saved_maps_keep_the_calibrated_threshold_under_any_protocol(saved: Path, run: Path, tmp_path: Path) -> None:
    words = ["evaluate", str(run / "checkpoints/best.ckpt"), "--protocol", "wsol-eval", "--thresholds", "0.1", "0.2"]
    assert main([*words, "--out", str(tmp_path / "other"), "--save-maps", str(tmp_path / "maps")]) == 0
    assert main(["evaluate", "--maps", str(tmp_path / "maps"), *SCENES, "--out", str(tmp_path / "again")]) == 0
    first, again = read_metrics(saved / "evaluated"), read_metrics(tmp_path / "again")
    for key in ("threshold", "threshold_source", "metrics"):
        assert again[key] == first[key]


def test_images_with_equal_names_are_all_drawn(run: Path, tmp_path: Path) -> None:
    test = create_dataset("scenes", None, "test", size=40, length=3)
    test.samples = [replace(sample, id=f"{number}/same.jpg") for number, sample in enumerate(test)]
    save_figures(Localizer.from_checkpoint(run / "checkpoints/best.ckpt"), test, tmp_path)
    assert {"same.jpg", "same-2.jpg", "same-3.jpg"} <= {path.name for path in tmp_path.iterdir()}


def test_figures_of_earlier_failures_are_removed(tmp_path: Path) -> None:
    (tmp_path / "failures-part.jpg").write_bytes(b"old")
    save_sheet([], tmp_path / "failures-part.jpg", "no failure")
    assert not (tmp_path / "failures-part.jpg").exists()


def test_every_image_has_a_row_in_the_table(saved: Path) -> None:
    content = read_metrics(saved / "evaluated")
    rows = read_table(saved / "evaluated/images.csv")
    assert len(rows) == content["images"] == 24
    for metric in ("gt_known", "top1_cls", "top1_loc"):
        mean = 100 * np.mean([row[metric] for row in rows])
        assert mean == pytest.approx(content["metrics"][metric])
        low, high = content["confidence"][metric]
        assert low <= mean <= high
    assert sum(group["images"] for group in content["by_size"]) == 24
    assert sum(group["images"] for group in content["per_class"].values()) == 24


def test_failures_and_curves_are_drawn(saved: Path) -> None:
    failed = {row["error"] for row in read_table(saved / "evaluated/images.csv")} - {"correct"}
    figures = saved / "evaluated/figures"
    assert {path.name for path in figures.glob("failures-*")} == {f"failures-{name}.jpg" for name in failed}
    assert failed
    assert {"curves.png", "threshold.csv", "iou.csv", "iou_by_size.csv"} <= {path.name for path in figures.iterdir()}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_interrupted_evaluation_changes_no_file(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "evaluated"
    shutil.copytree(saved / "evaluated", out)
    before = contents(out)
    words = ["evaluate", "--maps", str(saved / "maps"), *SCENES, "--threshold", "0.9", "--out", str(out)]

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(results, "save_curves", interrupted)  # after metrics.json and images.csv
        assert main(words) == 130
    assert contents(out) == before
    run = read_run(out)
    assert main(words) == 0
    assert read_metrics(out)["threshold"] == 0.9
    assert read_run(out).boxes is not None
    assert not list(out.glob("figures/failures-*"))  # they were of the earlier evaluation, with a model
    with pytest.raises(ValueError, match=r"evaluated was evaluated again while its files were read; repeat"):
        print(run.rows)


def hold(folder: Path, ready: Path) -> None:
    with exclusive_lock(folder):
        ready.touch()
        signal.pause()


def test_two_evaluations_exclude_each_other(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = PROCESSES.Process(target=hold, args=(tmp_path / "out", tmp_path / "ready"))
    other.start()
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    words = ["evaluate", "--maps", str(saved / "maps"), *SCENES, "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert f"out is in use by another run (process {other.pid}" in capsys.readouterr().err
    other.kill()
    other.join()
    assert main(words) == 0


def test_existing_maps_are_not_overwritten(saved: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", str(run / "checkpoints/best.ckpt"), "--out", str(saved / "other")]
    assert main([*words, "--save-maps", str(saved / "maps")]) == 2
    assert "maps already exists; remove it" in capsys.readouterr().err
    assert not (saved / "other").exists()


def test_maps_of_other_code_are_evaluated_and_problems_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test = create_dataset("scenes", None, "test", size=40, length=24)
    rng = np.random.default_rng(0)
    for sample in list(test)[:-1]:
        path = tmp_path / f"maps/{sample.id}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, scaled_map(rng.random((7, 7)), (224, 224), get_protocol("wsol-eval")))
    np.save(tmp_path / "maps/stray.npy", np.zeros((224, 224)))
    words = ["evaluate", "--maps", str(tmp_path / "maps"), *SCENES, "--protocol", "wsol-eval"]
    assert main([*words, "--thresholds", "0.1", "0.5"]) == 1
    content = read_metrics(tmp_path / "evaluation/wsol-eval")
    assert content["images"] == 23
    assert content["metrics"]["top1_cls"] is None
    assert content["metrics"]["top1_loc"] is None
    assert content["metrics"]["gt_known"] is not None
    assert [item["id"] for item in content["unreadable"]] == [test[23].id]
    assert content["maps"]["surplus"] == ["stray"]
    printed = capsys.readouterr().err
    assert "1 maps match no image: stray" in printed
    assert "1 image without a map or mask, or with a broken one, and not in any metric" in printed


def changed_run(source: Path, folder: Path, **columns: list[Any]) -> Path:
    """Copy an evaluation with other values in columns of images.csv."""
    folder.mkdir()
    for name in ("metrics.json", "images.csv"):
        shutil.copy(source / name, folder / name)
    for name, values in columns.items():
        with_column(folder, name, values)
    return folder


def test_two_runs_are_compared_image_by_image(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = changed_run(saved / "evaluated", tmp_path / "a", gt_known=[1] * 12 + [0] * 12, top1_loc=[1] * 24)
    second = changed_run(saved / "evaluated", tmp_path / "b", gt_known=[0] * 2 + [1] * 18 + [0] * 4, top1_loc=[1] * 24)
    assert main(["compare", str(first), str(second), "--out", str(tmp_path / "out")]) == 0
    content = json.loads((tmp_path / "out/comparison.json").read_text())
    known = content["metrics"]["gt_known"]
    assert (known["images"], known["only_first"], known["only_second"]) == (24, 2, 8)
    assert known["p_value"] == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert content["metrics"]["top1_loc"]["p_value"] == 1
    with (tmp_path / "out/comparison.csv").open() as file:
        wins = list(csv.DictReader(file))
    assert [win["winner"] for win in wins] == ["first"] * 2 + ["second"] * 8
    assert {win["metric"] for win in wins} == {"gt_known"}
    printed = capsys.readouterr().err
    assert "0.109" in printed
    assert "cannot be compared fairly" not in printed
    other = json.loads((second / "metrics.json").read_text())
    other["threshold_source"] = "best on the evaluated set (oracle)"
    (second / "metrics.json").write_text(json.dumps(other))
    assert main(["compare", str(first), str(second)]) == 0
    assert "warning: the runs cannot be compared fairly: the threshold of" in capsys.readouterr().err


def test_incomparable_runs_are_refused(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = saved / "evaluated"
    other = changed_run(whole, tmp_path / "other")
    renamed = changed_run(whole, tmp_path / "renamed", id=[f"new/{index}" for index in range(24)])
    assert main(["compare", str(whole), str(renamed)]) == 2
    assert "different images; 48 occur in only one of them" in capsys.readouterr().err
    for content in ("{", "[]", "{}"):
        (other / "metrics.json").write_text(content)
        assert main(["compare", str(whole), str(other)]) == 2
        assert "other/metrics.json is not the result of an evaluation (" in capsys.readouterr().err
    boxless = changed_run(whole, tmp_path / "boxless", gt_known=[""] * 24, top1_loc=[""] * 24)
    assert main(["compare", str(whole), str(boxless)]) == 2
    assert "no image with gt_known or top1_loc in both" in capsys.readouterr().err
