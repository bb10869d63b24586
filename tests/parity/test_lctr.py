"""LCTR on real weights: its head against the release, its patch relation map against the paper's equations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tokenloc.backbones import FeatureRequest, Features
from tokenloc.methods import Method

Arrays = dict[str, Tensor]
WEIGHTS = {  # our names of the weights in lctr.npz
    "head.dig.weight": "conv_weight",
    "head.dig.bias": "conv_bias",
    "head.weight": "kernels",
    "head.bias": "bias",
    "head.mean_score.weight": "mean_weight",
    "head.mean_score.bias": "mean_bias",
    "head.max_score.weight": "max_weight",
    "head.max_score.bias": "max_bias",
}


@pytest.fixture
def plain(released_model: Callable[..., Method]) -> Method:
    """Return LCTR without its cue digging module: the head is the convolution of the inputs."""
    return released_model("lctr", cue_digging=False)


@pytest.fixture
def features(plain: Method, inputs: Arrays) -> Features:
    with torch.no_grad():
        return plain.backbone(inputs["images"], FeatureRequest(class_attention=True, patch_relation=True))


@pytest.mark.parametrize(
    ("name", "released"), [("patch_relation", "patch_relation_map"), ("class_attention", "class_attention_mean")]
)
def test_maps(features: Features, fixture_of: Callable[[str], Arrays], name: str, released: str) -> None:
    torch.testing.assert_close(features.block_mean(name), fixture_of("rpam")[released], rtol=1e-5, atol=0)


def test_the_map_is_the_product_of_semantic_and_relation_map(
    plain: Method, inputs: Arrays, fixture_of: Callable[[str], Arrays]
) -> None:
    tscam, relation = fixture_of("tscam"), fixture_of("rpam")["patch_relation_map"]
    with torch.no_grad():
        logits, maps = plain.localize(inputs["images"], torch.arange(10).repeat(2, 1))
    semantic = tscam["cams"] / tscam["attention_sum"][:, None]
    torch.testing.assert_close(logits, tscam["logits"], rtol=1e-5, atol=3e-5)
    torch.testing.assert_close(maps, semantic * relation[:, None], rtol=1e-4, atol=1e-4 * float(maps.abs().max()))


@pytest.fixture
def lctr(released_model: Callable[..., Method], released: Arrays) -> Method:
    return released_model("lctr", {name: released[key] for name, key in WEIGHTS.items()})


def close(mine: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4 * float(theirs.abs().max()))


def test_training(lctr: Method, inputs: Arrays, released: Arrays) -> None:
    output = lctr(inputs["images"])
    loss = lctr.loss(output, inputs["labels"])["total"]
    loss.backward()
    close(output.logits, released["logits"])
    close(loss, released["loss"])
    gradients = {name: weight.grad for name, weight in lctr.named_parameters() if weight.grad is not None}
    close(gradients["head.weight"][:, :2], released["grad_kernels_of_first_two_classes"])
    close(gradients["head.bias"], released["grad_bias"])
    close(gradients["head.dig.bias"], released["grad_conv_bias"])
    close(gradients["head.mean_score.weight"], released["grad_mean_weight"])
    close(gradients["head.max_score.bias"], released["grad_max_bias"])
    close(gradients["backbone.pos_embed"], released["grad_pos_embed"])


def test_maps_of_the_predicted_class(lctr: Method, inputs: Arrays, released: Arrays) -> None:
    with torch.no_grad():
        features = lctr.backbone(inputs["images"], FeatureRequest(class_attention=True, patch_relation=True))
        logits, maps = lctr.localize(inputs["images"])
        semantic = lctr.intermediate_maps(inputs["images"], released["predicted"])["semantic map"]
    assert torch.equal(logits.argmax(dim=1), released["predicted"])
    close(features.block_mean("class_attention"), released["attention_mean"])
    close(features.block_mean("patch_relation"), released["relation"])
    close(semantic, released["semantic_of_predicted"])
    close(maps[:, 0], released["map_of_predicted"])


def test_start(released_model: Callable[..., Method], released: Arrays) -> None:
    head = released_model("lctr", {}).head
    bound = (10 * 192 * 9) ** -0.5
    assert float(head.weight.detach().std()) == pytest.approx(float(released["start_std_of_kernels"]), rel=0.01)
    assert float(released["start_largest_bias"]) <= bound
    assert 0 < float(head.bias.detach().abs().max()) <= bound
