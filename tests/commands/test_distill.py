"""`tokenloc distill`: a checkpoint that everything else takes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.runs import weights
from tokenloc.cli import main
from tokenloc.models.checkpoint import read_metadata


def test_from_a_checkpoint_to_boxes_in_one_pass(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, tmp_path / "run")
    command = ["distill", "run/checkpoints/best.ckpt", "--flip", "--shifts=2", "--epochs=2", "--batch_size=8"]
    assert main([*command, "--device=cpu"]) == 0, capsys.readouterr()
    threshold = read_metadata("run/checkpoints/best.ckpt").threshold
    assert threshold is not None
    assert f"the object ends at {threshold.value:g} on the maps, but for other options (plain, not shifts 2, flip)" in (
        " ".join(capsys.readouterr().err.split())
    )
    student = "run/student/checkpoints/best.ckpt"
    metadata = read_metadata(student)
    assert metadata.model.method == "student"
    assert metadata.model.options == {"teacher_threshold": threshold.value}
    assert metadata.classes == read_metadata("run/checkpoints/best.ckpt").classes
    assert len([*(tmp_path / "run/student/maps").rglob("*.npy")]) == 24
    for each in (
        ["evaluate", student, "--shifts=2"],
        ["calibrate", student, "--without-boxes"],
        ["export", student, "--out=student.onnx"],
    ):
        assert main(each) == 0, capsys.readouterr()
    assert json.loads((tmp_path / "run/student/evaluation/standard/metrics.json").read_text())["images"] == 24
    before = weights(tmp_path / "run/student")
    assert main([*command, "--device=cpu"]) == 0  # finished: nothing is trained again
    assert all(value.equal(before[name]) for name, value in weights(tmp_path / "run/student").items())


def test_a_model_that_is_no_file_is_refused_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", "hf-hub:user/birds", "--out", str(tmp_path / "out")]) == 2
    assert "hf-hub:user/birds" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
