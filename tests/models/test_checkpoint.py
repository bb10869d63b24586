"""Checkpoints, damaged ones and hostile ones."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.backbones.test_weights import Trap
from tests.runs import TINY_VIT
from tokenloc.models.checkpoint import load_checkpoint, read_checkpoint, read_metadata, store_threshold
from tokenloc.models.metadata import ModelMetadata, Threshold


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(run / "checkpoints/best.ckpt", tmp_path / "best.ckpt"))


def test_load_model_and_metadata(run: Path) -> None:
    model, metadata = load_checkpoint(run / "checkpoints/best.ckpt")
    assert not model.training
    assert metadata.model.method == "tscam"
    assert metadata.classes == ("butterfly", "fish", "leaf", "mushroom", "starfish", "turtle")
    assert (metadata.preprocessing.size, metadata.preprocessing.resize) == ((32, 32), (36, 36))
    assert metadata.preprocessing.mean == (0.5, 0.5, 0.5)
    assert metadata.threshold is not None
    assert metadata.threshold.source.startswith("calibrated on val of scenes (24 images), protocol standard")


def test_metadata_round_trip(run: Path) -> None:
    metadata = read_metadata(run / "checkpoints/best.ckpt")
    assert ModelMetadata.from_dict(metadata.to_dict(), "x") == metadata
    bare = replace(metadata, threshold=None, model=replace(metadata.model, image_size=None))
    assert ModelMetadata.from_dict(bare.to_dict(), "x") == bare


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ({"value": 0.5, "source": "s"}, Threshold(0.5, "s", "plain", "")),
        ({"value": 0.5, "source": "s", "viewing": "flip", "photographs": "x"}, Threshold(0.5, "s", "flip", "x")),
    ],
)
def test_thresholds_of_older_checkpoints(stored: dict[str, object], expected: Threshold, copy: Path) -> None:
    content = read_checkpoint(copy)
    content["tokenloc"]["threshold"] = stored
    torch.save(content, copy)
    assert read_metadata(copy).threshold == expected


def test_store_threshold_changes_nothing_else(copy: Path) -> None:
    before = read_checkpoint(copy)
    store_threshold(copy, Threshold(0.25, "by hand"))
    after = read_checkpoint(copy)
    assert read_metadata(copy).threshold == Threshold(0.25, "by hand")
    assert all(torch.equal(before["state_dict"][key], after["state_dict"][key]) for key in before["state_dict"])
    assert before["epoch"] == after["epoch"]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no checkpoint at .*gone\.ckpt; expected a file such as RUN/checkpoints"
    ):
        load_checkpoint(tmp_path / "gone.ckpt")


def test_truncated_file(copy: Path) -> None:
    copy.write_bytes(copy.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"best\.ckpt \(5000 bytes\) cannot be read"):
        load_checkpoint(copy)


def test_code_never_runs(tmp_path: Path) -> None:
    path, witness = tmp_path / "evil.ckpt", tmp_path / "it_ran"
    path.write_bytes(pickle.dumps({"tokenloc": Trap(witness), "state_dict": {}}))
    with pytest.raises(ValueError, match=r"evil\.ckpt"):
        load_checkpoint(path)
    assert not witness.exists()


def test_checkpoint_of_another_program(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"other\.ckpt is not a checkpoint of `tokenloc train`"):
        load_checkpoint(tmp_path / "other.ckpt")


def test_weights_of_another_shape(copy: Path) -> None:
    content = read_checkpoint(copy)
    content["tokenloc"]["model"]["backbone_options"] = {**TINY_VIT, "embed_dim": 64}
    torch.save(content, copy)
    with pytest.raises(ValueError, match=r"best\.ckpt do not fit tscam on vit_tiny_patch16_224: .*size mismatch"):
        load_checkpoint(copy)
