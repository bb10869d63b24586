"""Commands accept shared folders and models on the hub as checkpoints."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.conftest import REPOSITORY
from tests.models.fake_hub import Hub, serving
from tests.test_docs import blocks
from tokenloc.cli import main
from tokenloc.data import create_dataset
from tokenloc.inference import Localizer


@pytest.fixture
def hub(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with the tiny run as ``user/birds``."""
    monkeypatch.chdir(tmp_path)
    with serving(tmp_path / "cache", monkeypatch) as hub:
        Localizer.from_checkpoint(run / "checkpoints/best.ckpt", "cpu").push_to_hub("user/birds")
        yield hub


def test_localize_gives_equal_results_from_file_folder_and_hub(hub: Hub, run: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    create_dataset("scenes", None, "test", size=(70, 50), length=1).image(0).save(tmp_path / "photos/1.jpg")
    file = run / "checkpoints/best.ckpt"
    folder = Localizer.from_checkpoint(file, "cpu").save_pretrained(tmp_path / "shared")
    results = []
    for out, checkpoint in enumerate((file, folder, "hf-hub:user/birds", "hf-hub:user/birds@main")):
        assert main(["localize", str(checkpoint), "photos", "--out", str(out), "--device", "cpu"]) == 0
        results.append((tmp_path / str(out) / "localizations.json").read_text())
    assert json.loads(results[0])["localizations"][0]["boxes"]
    assert results[1:] == results[:1] * 3


def test_resume_accepts_the_same_model_from_another_location(hub: Hub, run: Path) -> None:
    from tokenloc.commands.localize import _settings

    settings = [
        _settings(Localizer.from_checkpoint(path, "cpu"), 1)
        for path in (run / "checkpoints/best.ckpt", "hf-hub:user/birds")
    ]
    assert settings[0] == settings[1]
    other = Localizer.from_checkpoint("hf-hub:user/birds", "cpu")
    next(iter(other.model.parameters())).data += 1
    assert _settings(other, 1) != settings[0]


def test_default_output_folder_of_evaluate(hub: Hub, run: Path, tmp_path: Path) -> None:
    scenes = ["--data.options.size", "40", "--data.options.length", "6", "--device", "cpu"]
    assert main(["evaluate", "hf-hub:user/birds", *scenes]) == 0
    metrics = json.loads((tmp_path / "runs/birds/evaluation/standard/metrics.json").read_text())
    folder = Localizer.from_checkpoint("hf-hub:user/birds", "cpu").save_pretrained(tmp_path / "shared")
    assert main(["evaluate", str(folder), *scenes]) == 0
    assert json.loads((folder / "evaluation/standard/metrics.json").read_text()) == metrics


def test_info_reads_but_calibrate_refuses_models_on_the_hub(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "hf-hub:user/birds"]) == 0
    assert "classes (6): butterfly" in capsys.readouterr().out
    assert main(["calibrate", "hf-hub:user/birds"]) == 2
    assert "hf-hub:user/birds is on the hub and cannot be changed there" in capsys.readouterr().err
    assert main(["localize", "hf-hub:user/cats", ".", "--out", "x"]) == 2


@pytest.mark.slow
def test_examples_of_the_sharing_page(
    hub: Hub, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load, paths = torch.hub.load, list(sys.path)
    monkeypatch.setattr(torch.hub, "load", lambda _, **options: load(str(REPOSITORY), source="local", **options))
    monkeypatch.setattr(sys, "path", paths)  # hubconf.py adds its own
    (tmp_path / "PHOTOS").mkdir()
    image = create_dataset("scenes", None, "test", size=(70, 50), length=1).image(0)
    for name in ("photo.jpg", "PHOTOS/1.jpg"):
        image.save(tmp_path / name)
    shutil.copytree(run, tmp_path / "runs/mine")
    for code in blocks("docs/sharing.md", "python"):
        exec(compile(code, "sharing.md", "exec"), {})
    assert capsys.readouterr().out.startswith(tuple(Localizer.from_pretrained("my-birds").metadata.classes))
    for line in "".join(blocks("docs/sharing.md", "bash")).splitlines():
        assert main(line.split()[1:]) == 0, line
    assert {"found", "birds.onnx", "my-birds"} <= {path.name for path in tmp_path.iterdir()}


def test_missing_model(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "hf-hub:user/cats", "--out", str(tmp_path / "m.onnx")]) == 2
    assert "user/cats does not exist on http://127.0.0.1" in capsys.readouterr().err
