"""The ViT backbone against timm, and its attention outputs against full attention matrices."""

from __future__ import annotations

import pytest
import timm
import torch

from tokenloc.backbones import FeatureRequest, SpatialQuery, ViT, create_backbone, list_backbones

SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 3}
KINDS = [
    ("vit_tiny_patch16_224", (224, 224)),
    ("vit_tiny_patch16_224", (96, 160)),  # rectangular, positions interpolated
    ("deit_tiny_distilled_patch16_224", (64, 96)),  # two prefix tokens
    ("deit3_small_patch16_224", (64, 64)),  # layer scale, positions on patches only
    ("vit_small_patch14_reg4_dinov2", (56, 84)),  # registers
    ("vit_small_patch16_dinov3", (64, 96)),  # rotary positions, registers
    ("eva02_tiny_patch14_224", (56, 70)),  # split projections, SwiGLU, norm after pooling
    ("vit_base_patch16_siglip_224", (64, 64)),  # no class token
]


def pair(name: str) -> tuple[ViT, torch.nn.Module]:
    """Return our backbone and timm's model with the same weights."""
    ours, _ = create_backbone(name, pretrained=False, **SMALL)
    timms = timm.create_model(name, num_classes=0, dynamic_img_size=True, **SMALL)
    timms.load_state_dict(ours.state_dict())  # strict: the names are timm's
    return ours.eval(), timms.eval()


@pytest.mark.parametrize(("name", "size"), KINDS)
def test_tokens_equal_timms(name: str, size: tuple[int, int]) -> None:
    ours, timms = pair(name)
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        features = ours(images, FeatureRequest(class_attention=ours.has_class_token))
        expected = timms.fc_norm(timms.forward_features(images))
    torch.testing.assert_close(features.patches, expected[:, ours.num_prefix_tokens :], rtol=0, atol=1e-6)
    assert features.grid == (size[0] // ours.patch_size[0], size[1] // ours.patch_size[1])
    assert list(ours.state_dict()) == list(timms.state_dict())
    if ours.has_class_token:
        assert features.class_token is not None
        torch.testing.assert_close(features.class_token, expected[:, 0], rtol=0, atol=1e-6)


def full_attention(ours: ViT, images: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return each block's attention matrix [B, H, T, T] and keys [B, H, T, d]."""
    tokens = ours.norm_pre(ours.embed(images, ours.grid_of(*images.shape[-2:])))
    outputs = []
    for block in ours.blocks:
        x = block.norm1(tokens)
        batch, count, width = x.shape
        heads = SMALL["num_heads"]
        q, k, v = block.attn.qkv(x).reshape(batch, count, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        matrix = (q @ k.transpose(-2, -1) / (width // heads) ** 0.5).softmax(-1)
        outputs.append((matrix, k))
        mixed = (matrix @ v).transpose(1, 2).reshape(batch, count, width)
        tokens = tokens + block.ls1(block.attn.proj(mixed))
        tokens = tokens + block.ls2(block.mlp(block.norm2(tokens)))
    return outputs


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "vit_small_patch14_reg4_dinov2"]
)
def test_attention_outputs_equal_the_full_matrix(name: str) -> None:
    ours, _ = pair(name)
    images = torch.randn(2, 3, 4 * ours.patch_size[0], 3 * ours.patch_size[1])
    with torch.no_grad():
        features = ours(images, FeatureRequest(class_attention=True, patch_relation=True, keys=True))
        matrices = full_attention(ours, images)
    first = ours.num_prefix_tokens
    means = torch.stack([matrix.mean(dim=1) for matrix, _ in matrices], dim=1)  # [B, L, T, T]
    torch.testing.assert_close(features.class_attention, means[:, :, 0, first:], rtol=1e-5, atol=1e-7)
    weighted = means[:, :, 0, :, None] * means  # LCTR's weighted matrix: row i times c_i
    torch.testing.assert_close(features.patch_relation, weighted.mean(dim=2)[:, :, first:], rtol=1e-5, atol=1e-7)
    keys = matrices[-1][1].transpose(1, 2).flatten(2)[:, first:]
    torch.testing.assert_close(features.keys, keys, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gate", ["values", "keys"])
def test_spatial_gate_equals_gating_the_columns(gate: str) -> None:
    ours, _ = pair("vit_tiny_patch16_224")
    block = ours.blocks[1]
    images, token = torch.randn(2, 3, 48, 32), torch.randn(1, 1, ours.embed_dim)
    with torch.no_grad():
        features = ours(images, spatial=SpatialQuery(token, blocks=(1,), gate=gate))
        tokens = torch.cat([ours.embed(images, (3, 2)), token.expand(2, -1, -1)], dim=1)
        first = ours.blocks[0]
        tokens = tokens + first.attn(first.norm1(tokens))
        tokens = tokens + first.mlp(first.norm2(tokens))
        x = block.norm1(tokens)
        q, k, v = block.attn.qkv(x).reshape(2, -1, 3, 3, 16).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / 4
        m = scores[:, :, -1].mean(dim=1).sigmoid()
        column = m[:, None, None]
        matrix = scores.softmax(-1) * column if gate == "values" else (scores * column).softmax(-1)
        tokens = tokens + block.attn.proj((matrix @ v).transpose(1, 2).flatten(2))
        tokens = tokens + block.mlp(block.norm2(tokens))
    torch.testing.assert_close(features.spatial_gates, m[:, None, 1:-1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(features.patches, ours.norm(tokens)[:, 1:-1], rtol=1e-4, atol=1e-5)


def test_only_requested_outputs_are_computed() -> None:
    ours, _ = pair("vit_tiny_patch16_224")
    features = ours(torch.randn(1, 3, 32, 32))
    assert features.spatial_gates is None
    for name in ("class_attention", "patch_relation", "keys"):
        assert getattr(features, name) is None
        with pytest.raises(ValueError, match=rf"without {name}; use FeatureRequest\({name}=True\)"):
            features.require(name)


def test_list_backbones_takes_a_wildcard() -> None:
    assert "deit_small_patch16_224" in list_backbones()
    assert list_backbones("deit_small_*") == ["deit_small_distilled_patch16_224", "deit_small_patch16_224"]


@pytest.mark.slow
def test_listed_backbones_are_supported() -> None:
    """Small variants only: building all backbones would take minutes."""
    with torch.device("meta"):
        for name in [name for name in list_backbones() if "tiny" in name or "small" in name or "little" in name]:
            backbone, _ = create_backbone(name, pretrained=False)
            assert backbone.embed_dim >= 1


@pytest.mark.parametrize(
    "name", ["vit_base_patch16_xp_224", "vit_base_patch16_rpn_224", "vit_dlittle_patch16_reg1_gap_256"]
)
def test_unsupported_blocks_are_refused_by_name(name: str) -> None:
    if not timm.is_model(name):
        pytest.skip(f"timm {timm.__version__} does not have it")
    with pytest.raises(ValueError, match=rf"{name} is not a plain vision transformer: .*tokenloc list backbones"):
        ViT(timm.create_model(name, num_classes=0, depth=1), name)


def test_unknown_parts_of_a_block_are_refused() -> None:
    trunk = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1, dynamic_img_size=True)
    trunk.blocks[0].attn.sink = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(ValueError, match="sink is not supported"):
        ViT(trunk, "vit_tiny_patch16_224")


def test_class_attention_without_a_class_token_is_refused() -> None:
    ours, _ = pair("vit_base_patch16_siglip_224")
    with pytest.raises(ValueError, match="has no class token, which class attention needs; .*deit_small_patch16_224"):
        ours(torch.zeros(1, 3, 32, 32), FeatureRequest(class_attention=True))


def test_an_unknown_backbone_lists_the_nearest() -> None:
    with pytest.raises(
        ValueError, match="unknown backbone 'diet_small_patch16_224'; nearest: .*deit_small_patch16_224"
    ):
        create_backbone("diet_small_patch16_224", pretrained=False)


def test_a_network_of_another_kind_is_refused() -> None:
    message = "swin_tiny_patch4_window7_224 is not supported.*nearest: .*vit_tiny_patch16_224.*lists the available"
    with pytest.raises(ValueError, match=message):
        create_backbone("swin_tiny_patch4_window7_224", False)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ValueError, match="vit_tiny_patch16_224 does not take these options: .*dept"):
        create_backbone("vit_tiny_patch16_224", pretrained=False, dept=3)


def test_attention_outputs_are_finite_in_half_precision() -> None:
    ours, _ = pair("vit_tiny_patch16_224")
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        features = ours(torch.randn(2, 3, 64, 64), FeatureRequest(class_attention=True, patch_relation=True))
    assert features.require("class_attention").dtype == torch.float32
    assert all(features.require(name).isfinite().all() for name in ("class_attention", "patch_relation"))


def test_feature_maps_are_the_tokens_between_the_blocks() -> None:
    ours, trunk = pair("vit_tiny_patch16_224")
    images = torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        maps = ours(images, FeatureRequest(feature_maps=True)).feature_maps
        expected = trunk.forward_intermediates(images, intermediates_only=True)
    assert maps is not None
    assert len(maps) == 1 + len(expected)
    torch.testing.assert_close(list(maps[1:]), expected)
