"""The Conformer as a backbone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tokenloc.backbones import Conformer, FeatureRequest, SpatialQuery, create_backbone
from tokenloc.methods.tscam import PooledClassifier
from tokenloc.models import create_model

TINY = {"channel_ratio": 1, "embed_dim": 24, "num_heads": 2, "depth": 6}


@pytest.fixture
def backbone() -> Conformer:
    return Conformer("tiny", channel_ratio=1, embed_dim=24, num_heads=2, depth=6).eval()


def make_images(height: int = 48, width: int = 32) -> Tensor:
    return torch.randn(2, 3, height, width)


@pytest.mark.parametrize(("name", "millions"), [("tiny", 23.5), ("small", 37.7), ("base", 83.3)])
def test_published_sizes(name: str, millions: float) -> None:
    with torch.device("meta"):
        backbone, _ = create_backbone(f"conformer_{name}_patch16", pretrained=False)
    classifiers = 1000 * (backbone.embed_dim + 1) + 1000 * ((backbone.conv_dim or 0) + 1)
    count = sum(parameter.numel() for parameter in backbone.parameters()) + classifiers
    assert round(count / 1e6, 1) == millions


def test_blocks_are_in_order(backbone: Conformer) -> None:
    names = {id(module): name for name, module in backbone.named_modules()}
    coupled = [f"conv_trans_{index}.trans_block" for index in range(2, 7)]
    assert [names[id(block)] for block in backbone.blocks] == ["trans_1", *coupled]


def test_shapes_on_a_rectangle(backbone: Conformer) -> None:
    query = SpatialQuery(torch.randn(1, 1, 24), blocks=(4, 5))
    features = backbone(make_images(), FeatureRequest(class_attention=True, patch_relation=True, keys=True), query)
    shapes = {"patches": [2, 6, 24], "class_token": [2, 24], "keys": [2, 6, 24], "conv_features": [2, 256]}
    shapes |= {"class_attention": [2, 6, 6], "patch_relation": [2, 6, 6], "spatial_gates": [2, 2, 6]}
    assert features.grid == (3, 2)
    assert {name: list(getattr(features, name).shape) for name in shapes} == shapes


def test_attention_outputs_equal_the_full_matrix_in_each_block(backbone: Conformer) -> None:
    inputs: list[Tensor] = []
    for block in backbone.blocks:
        block.norm1.register_forward_hook(lambda _, __, output: inputs.append(output))
    features = backbone(make_images(), FeatureRequest(class_attention=True, keys=True))
    for index, (block, tokens) in enumerate(zip(backbone.blocks, inputs, strict=True)):
        queries, keys, _ = block.attn.qkv(tokens).reshape(2, 7, 3, 2, 12).permute(2, 0, 3, 1, 4)
        attention = (queries @ keys.transpose(-2, -1) / 12**0.5).softmax(dim=-1).mean(dim=1)
        torch.testing.assert_close(features.class_attention[:, index], attention[:, 0, 1:])
    torch.testing.assert_close(features.keys, keys.transpose(1, 2).flatten(2)[:, 1:])


def test_requests_do_not_change_the_tokens(backbone: Conformer) -> None:
    images = make_images()
    features = backbone(images, FeatureRequest(class_attention=True, keys=True), SpatialQuery(None, (1, 3), "none"))
    torch.testing.assert_close(features.patches, backbone(images).patches)


def test_patches_are_in_row_major_order(backbone: Conformer) -> None:
    """A change in the lower right corner affects that corner's patch the most."""
    backbone = backbone.double()
    images = torch.zeros(1, 3, 160, 96, dtype=torch.float64)
    changed = images.clone()
    changed[..., -8:, -8:] = 1e-6
    moved = (backbone(changed).patches - backbone(images).patches).norm(dim=2)[0].reshape(10, 6)
    assert divmod(int(moved.argmax()), 6) == (9, 5)


def test_a_spatial_token_is_treated_like_the_class_token(backbone: Conformer) -> None:
    """Two tokens that are equal initially stay equal through all blocks."""
    tokens: list[Tensor] = []
    backbone.trans_norm.register_forward_pre_hook(lambda _, inputs: tokens.append(inputs[0]))
    backbone(make_images(), spatial=SpatialQuery(backbone.cls_token, blocks=(5,)))
    torch.testing.assert_close(tokens[0][:, 0], tokens[0][:, -1])
    assert not torch.allclose(tokens[0][:, 0], tokens[0][:, 1])


def test_the_gate_changes_the_tokens_but_not_itself(backbone: Conformer) -> None:
    images, token = make_images(), torch.randn(1, 1, 24)
    gated, ungated = (backbone(images, spatial=SpatialQuery(token, (5,), gate)) for gate in ("values", "none"))
    torch.testing.assert_close(gated.spatial_gates, ungated.spatial_gates)
    assert not torch.allclose(gated.patches, ungated.patches)


def test_drop_path_grows_to_the_last_block() -> None:
    backbone = Conformer(channel_ratio=1, embed_dim=24, num_heads=2, depth=6, drop_path_rate=0.5)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in backbone.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])


@pytest.mark.parametrize("method", ["tscam", "sat"])
def test_only_a_convolution_branch_gets_a_second_classifier(method: str) -> None:
    on_conformer = create_model(method, "conformer_small_patch16", 3, False, backbone_options=TINY)
    on_vit = create_model(method, "vit_tiny_patch16_224", 3, False)
    second = {name for name in on_conformer.state_dict() if "conv_head" in name}
    assert second == {"pool.conv_head.weight", "pool.conv_head.bias"}
    assert not [name for name in on_vit.state_dict() if name.startswith("pool")]
    logits, maps = on_conformer.eval().localize(make_images(64, 48), torch.tensor([[0, 2], [1, 1]]))
    assert (list(logits.shape), list(maps.shape)) == ([2, 3], [2, 2, 4, 3])


def test_logits_are_the_sum_of_both_branches(backbone: Conformer) -> None:
    classifier = PooledClassifier(backbone, 3)
    features = backbone(make_images())
    maps = torch.randn(2, 3, 3, 2)
    assert classifier.conv_head is not None
    linear = features.conv_features @ classifier.conv_head.weight.T + classifier.conv_head.bias
    torch.testing.assert_close(classifier(maps, features), maps.mean(dim=(2, 3)) + linear, atol=1e-4, rtol=1e-4)


def test_a_checkpoint_with_its_classifiers_loads(tmp_path: Path) -> None:
    written = Conformer(channel_ratio=1, embed_dim=24, num_heads=2, depth=6)
    classifiers = {"trans_cls_head.weight": torch.zeros(1000, 24), "conv_cls_head.bias": torch.zeros(1000)}
    torch.save({"model": {**written.state_dict(), **classifiers}}, tmp_path / "weights.pth")
    read, normalisation = create_backbone("conformer_small_patch16", tmp_path / "weights.pth", **TINY)
    torch.testing.assert_close(dict(read.state_dict()), dict(written.state_dict()))
    assert normalisation.mean == (0.485, 0.456, 0.406)


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    torch.save(Conformer(channel_ratio=2, embed_dim=24, num_heads=2, depth=6).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"weights\.pth are of another network"):
        create_backbone("conformer_small_patch16", tmp_path / "weights.pth", **TINY)


def test_pretrained_names_the_authors_download_page() -> None:
    expected = r"no weights of conformer_small_patch16.*github\.com/pengzhiliang/Conformer.*pretrained=PATH"
    with pytest.raises(FileNotFoundError, match=expected):
        create_backbone("conformer_small_patch16", pretrained=True)


@pytest.mark.parametrize("size", [(40, 32), (32, 0)])
def test_image_sizes_that_do_not_divide_are_refused(backbone: Conformer, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"images of {size[0]} x {size[1]} pixels.*16 x 16 patches of tiny"):
        backbone(torch.zeros(1, 3, *size))


def test_a_native_image_size_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="images of 100 x 100 pixels"):
        create_backbone("conformer_small_patch16", pretrained=False, image_size=100, **TINY)


def test_invalid_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"positive multiple of 3.*got 5"):
        Conformer(depth=5)
    with pytest.raises(ValueError, match="num_heads must divide embed_dim; got 5 and 384"):
        Conformer(num_heads=5)
