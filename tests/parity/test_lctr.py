"""LCTR's patch relation map against the paper's equations on real weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tokenloc.backbones import FeatureRequest, Features
from tokenloc.methods import Method

Arrays = dict[str, Tensor]


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
