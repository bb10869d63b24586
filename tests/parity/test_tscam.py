"""TS-CAM against the authors' released code on real weights and images."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tokenloc.backbones import FeatureRequest
from tokenloc.methods import Method

Arrays = dict[str, Tensor]
TOLERANCE = 2e-5  # of the largest value


def close(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    assert (actual.detach() - expected).abs().max().item() <= TOLERANCE * expected.abs().max().item()


@pytest.fixture
def model(released_model: Callable[..., Method]) -> Method:
    return released_model("tscam")


def test_logits_and_maps(model: Method, inputs: Arrays, released: Arrays) -> None:
    every_class = torch.arange(model.num_classes).expand(len(inputs["images"]), -1)
    with torch.no_grad():
        logits, maps = model.localize(inputs["images"], every_class)
    close(logits, released["logits"])
    close(maps * model.backbone.depth, released["cams"])  # the release sums over blocks, the paper averages


def test_loss_and_gradients(model: Method, inputs: Arrays, released: Arrays) -> None:
    total = model.loss(model(inputs["images"]), inputs["labels"])["total"]
    total.backward()
    assert total.item() == pytest.approx(released["loss"].item(), rel=1e-5)
    close(model.head.weight.grad, released["grad_head_weight"])
    close(model.backbone.pos_embed.grad, released["grad_pos_embed"])


def test_class_token_and_attention(model: Method, inputs: Arrays, released: Arrays) -> None:
    with torch.no_grad():
        features = model.backbone(inputs["images"], FeatureRequest(class_attention=True))
    close(features.class_token, released["cls_token"])
    close(model.attention_map(features) * model.backbone.depth, released["attention_sum"])
