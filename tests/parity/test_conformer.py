"""TS-CAM on the Conformer against the authors' released code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tokenloc.backbones import Conformer
from tokenloc.backbones.weights import load_into, read_weights
from tokenloc.methods.tscam import TSCAM

Arrays = dict[str, Tensor]


@pytest.fixture
def model(released: Arrays, tmp_path: Path) -> TSCAM:
    """Return TS-CAM with the fixture's weights, loaded from a checkpoint file like the authors'."""
    state = {key.removeprefix("state."): value for key, value in released.items() if key.startswith("state.")}
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    path = tmp_path / "conformer.pth"
    torch.save({"model": state}, path)
    backbone = Conformer(channel_ratio=1, embed_dim=48, num_heads=4)
    load_into(backbone, read_weights(path)[0], path)
    tscam = TSCAM(backbone, num_classes=10).eval()
    heads = {"head": "trans_cls_head", "pool.conv_head": "conv_cls_head"}
    tensors = {f"{ours}.{part}": state[f"{name}.{part}"] for ours, name in heads.items() for part in ("weight", "bias")}
    tscam.load_state_dict({**tscam.state_dict(), **tensors})
    return tscam


def test_logits_and_maps_of_all_classes(model: TSCAM, inputs: Arrays, released: Arrays) -> None:
    with torch.no_grad():
        logits, maps = model.localize(inputs["images"], torch.arange(10).repeat(2, 1))
    torch.testing.assert_close(logits, released["logits"], atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(maps * 12, released["cams"], atol=1e-5, rtol=1e-4)  # released: sum over 12 blocks


def test_the_training_pass_gives_the_same_logits(model: TSCAM, inputs: Arrays, released: Arrays) -> None:
    torch.testing.assert_close(model(inputs["images"]).logits, released["logits"], atol=1e-3, rtol=1e-5)


def test_parameter_names_are_the_released_ones(model: TSCAM, released: Arrays) -> None:
    names = {key.removeprefix("state.") for key in released if key.startswith("state.")}
    classifiers = {name for name in names if "cls_head" in name}
    assert set(model.backbone.state_dict()) == names - classifiers
