"""Method options that are chosen when a checkpoint is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tokenloc.cli import main
from tokenloc.models import create_model
from tokenloc.models.checkpoint import load_checkpoint, read_checkpoint

OPTIONS = {"map": "attention", "attention_blocks": 1, "attention_from": "last"}
FLAGS = [word for name, value in OPTIONS.items() for word in (f"--method-options.{name}", str(value))]


@pytest.fixture
def checkpoint(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run/checkpoints/best.ckpt"


def trained_with(options: dict[str, object], checkpoint: Path) -> Path:
    """Return a checkpoint with the same weights, as of a training with these options."""
    content = read_checkpoint(checkpoint)
    content["tokenloc"]["model"]["options"] = options
    torch.save(content, path := checkpoint.with_name("trained.ckpt"))
    return path


def test_the_model_equals_one_that_was_created_with_the_options(checkpoint: Path) -> None:
    model, metadata = load_checkpoint(checkpoint, OPTIONS)
    config, images = metadata.model, torch.randn(2, 3, 32, 32)
    assert config.options == OPTIONS
    arguments = (config.method, config.backbone, config.num_classes, False, config.image_size)
    created = create_model(*arguments, backbone_options=config.backbone_options, **OPTIONS).eval()
    created.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(model.localize(images), created.localize(images), rtol=0, atol=0)
        assert not torch.equal(model.localize(images)[1], load_checkpoint(checkpoint)[0].localize(images)[1])


def test_evaluation_equals_that_of_a_model_trained_with_the_options(checkpoint: Path, tmp_path: Path) -> None:
    words = ["--protocol", "ts-cam", "--out"]
    assert main(["evaluate", str(checkpoint), *FLAGS, *words, str(tmp_path / "test")]) == 0
    assert main(["evaluate", str(trained_with(OPTIONS, checkpoint)), *words, str(tmp_path / "train")]) == 0
    test, train = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("test", "train"))
    assert test == train
    assert test["model"]["options"] == OPTIONS


def test_a_threshold_is_used_only_with_the_options_it_was_calibrated_for(checkpoint: Path) -> None:
    def threshold(**options: str) -> object:
        return load_checkpoint(checkpoint, options)[1].threshold

    assert threshold() is not None
    assert threshold(map="coupled") == threshold()  # the default
    assert threshold(map="attention") is None
    assert main(["calibrate", str(checkpoint), "--method_options.map", "attention"]) == 0
    assert threshold() is None
    assert ", map attention" in str(threshold(map="attention"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method_options.mop", "x"], "test-time option of tscam 'mop'; did you mean 'map'? Valid: attention_blocks"),
        (["--method_options.head", "fc"], "unknown test-time option of tscam 'head'"),
        (["--method_options.map", "couple"], "{'map': 'couple'}: unknown map 'couple'; did you mean 'coupled'?"),
    ],
)
def test_unknown_options_and_values(
    words: list[str], message: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(checkpoint), *words]) == 2
    assert message in capsys.readouterr().err


def test_flags_create_no_objects(checkpoint: Path, tmp_path: Path) -> None:
    spec = {"class_path": "pathlib.Path.touch", "init_args": {"self": str(tmp_path / "ran")}}
    with pytest.raises(SystemExit):
        main(["evaluate", str(checkpoint), "--method_options.map", json.dumps(spec)])
    assert not (tmp_path / "ran").exists()
