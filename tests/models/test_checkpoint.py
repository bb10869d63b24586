"""What a checkpoint carries, and files that are none."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.backbones.test_weights import Trap
from tests.runs import TINY_VIT
from tokenloc.models.checkpoint import Threshold, load_checkpoint, read_checkpoint, read_metadata, store_threshold


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(run / "checkpoints/best.ckpt", tmp_path / "best.ckpt"))


def test_a_checkpoint_carries_all_that_its_weights_need(run: Path) -> None:
    model, metadata = load_checkpoint(run / "checkpoints/best.ckpt")
    assert not model.training
    assert metadata.model.method == "tscam"
    assert metadata.classes == ("stripes", "columns", "checks", "dots", "grid", "zigzag")
    assert (metadata.preprocessing.size, metadata.preprocessing.resize) == ((32, 32), (36, 36))
    assert metadata.preprocessing.mean == (0.5, 0.5, 0.5)
    assert metadata.threshold is not None
    assert metadata.threshold.source.startswith("calibrated on val of scenes (24 images), protocol standard")


def test_cards_survive_their_plain_form(run: Path) -> None:
    metadata = read_metadata(run / "checkpoints/best.ckpt")
    assert type(metadata).from_entry(metadata.entry()) == metadata
    bare = replace(metadata, threshold=None, model=replace(metadata.model, image_size=None))
    assert type(metadata).from_entry(bare.entry()) == bare


def test_a_stored_threshold_replaces_the_old_one_and_nothing_else(copy: Path) -> None:
    before = read_checkpoint(copy)
    store_threshold(copy, Threshold(0.25, "by hand"))
    after = read_checkpoint(copy)
    assert read_metadata(copy).threshold == Threshold(0.25, "by hand")
    assert all(torch.equal(before["state_dict"][key], after["state_dict"][key]) for key in before["state_dict"])
    assert before["epoch"] == after["epoch"]


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no checkpoint at .*gone\.ckpt; expected a file such as RUN/checkpoints"
    ):
        load_checkpoint(tmp_path / "gone.ckpt")


def test_truncated(copy: Path) -> None:
    copy.write_bytes(copy.read_bytes()[:5000])
    with pytest.raises(
        ValueError, match=r"best\.ckpt \(5000 bytes\) cannot be read as a torch checkpoint; is it complete\?"
    ):
        load_checkpoint(copy)


def test_code_is_never_run(tmp_path: Path) -> None:
    path, witness = tmp_path / "evil.ckpt", tmp_path / "it_ran"
    path.write_bytes(pickle.dumps({"tokenloc": Trap(witness), "state_dict": {}}))
    with pytest.raises(ValueError, match=r"evil\.ckpt was refused"):
        load_checkpoint(path)
    assert not witness.exists()


def test_a_checkpoint_of_another_program(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"other\.ckpt is not a checkpoint of `tokenloc train`"):
        load_checkpoint(tmp_path / "other.ckpt")


def changed(copy: Path, **model: object) -> Path:
    content = read_checkpoint(copy)
    content["tokenloc"]["model"].update(model)
    torch.save(content, copy)
    return copy


def test_a_method_that_is_not_here(copy: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown method \(in .*best\.ckpt\) 'tscan'; did you mean 'tscam'"):
        load_checkpoint(changed(copy, method="tscan"))


def test_a_class_count_that_does_not_fit(copy: Path) -> None:
    with pytest.raises(ValueError, match=r"best\.ckpt: 6 class names for a model of 7 classes"):
        load_checkpoint(changed(copy, num_classes=7))


def test_weights_of_another_shape(copy: Path) -> None:
    options = {**TINY_VIT, "embed_dim": 64}
    with pytest.raises(
        ValueError, match=r"the weights in .*best\.ckpt do not fit tscam on vit_tiny_patch16_224: .*size mismatch"
    ):
        load_checkpoint(changed(copy, backbone_options=options))


def test_a_format_of_the_future(copy: Path) -> None:
    content = read_checkpoint(copy)
    content["tokenloc"]["format"] = 99
    torch.save(content, copy)
    with pytest.raises(ValueError, match="has checkpoint format 99; this tokenloc reads format 1"):
        read_metadata(copy)
