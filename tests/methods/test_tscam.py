"""TS-CAM: its map and its options, on a small backbone."""

from __future__ import annotations

import pytest
import torch

from tokenloc.backbones import FeatureRequest, as_map
from tokenloc.methods.tscam import TSCAM, semantic_head
from tokenloc.models import create_model

SMALL = {"embed_dim": 48, "depth": 3, "num_heads": 3}


def small(**options: object) -> TSCAM:
    model = create_model("tscam", "vit_tiny_patch16_224", 5, False, backbone_options=SMALL, **options)
    assert isinstance(model, TSCAM)
    return model.eval()


def test_the_map_is_the_product_of_attention_and_semantic_map() -> None:
    model = small()
    images, classes = torch.randn(2, 3, 64, 96), torch.tensor([[4, 0, 2], [1, 1, 3]])
    with torch.no_grad():
        logits, maps = model.localize(images, classes)
        features = model.backbone(images, FeatureRequest(class_attention=True))
        semantic = torch.nn.functional.conv2d(features.patch_map(), model.head.weight, model.head.bias, padding=1)
        intermediate = model.intermediate_maps(images, classes[:, 0])
        torch.testing.assert_close(model(images).logits, logits)
    attention = as_map(features.class_attention.mean(dim=1), (4, 6))
    torch.testing.assert_close(logits, semantic.mean(dim=(2, 3)))
    for image, row in enumerate(classes.tolist()):
        for index, label in enumerate(row):
            torch.testing.assert_close(maps[image, index], attention[image] * semantic[image, label])
    torch.testing.assert_close(intermediate["attention"] * intermediate["semantic map"], maps[:, 0])


def test_the_maps_of_table_5_multiply_to_the_coupled_map() -> None:
    images, classes = torch.randn(2, 3, 64, 64), torch.tensor([[0, 4], [2, 3]])
    maps = {}
    state = small().state_dict()
    for kind in ("coupled", "attention", "semantic"):
        model = small(map=kind)
        model.load_state_dict(state)
        with torch.no_grad():
            maps[kind] = model.localize(images, classes)[1]
    torch.testing.assert_close(maps["attention"] * maps["semantic"], maps["coupled"])
    torch.testing.assert_close(maps["attention"][:, 0], maps["attention"][:, 1])  # the same for all classes


@pytest.mark.parametrize("end", ["first", "last"])
@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_tables_12_and_13_average_some_blocks(blocks: int, end: str) -> None:
    model = small(map="attention", attention_blocks=blocks, attention_from=end)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        rows = model.backbone(images, FeatureRequest(class_attention=True)).class_attention
        _, maps = model.localize(images)
    chosen = range(blocks) if end == "first" else range(3 - blocks, 3)
    expected = sum(rows[:, block] for block in chosen) / blocks
    torch.testing.assert_close(maps[:, 0], as_map(expected, (4, 4)))


@pytest.mark.parametrize(("head", "weights"), [("conv2d", (5, 48, 3, 3)), ("conv1d", (5, 48, 3)), ("fc", (5, 48, 1))])
def test_heads_of_tables_10_and_11(head: str, weights: tuple[int, ...]) -> None:
    model, images = small(head=head), torch.randn(2, 3, 64, 32)
    assert model.head.weight.shape == weights
    with torch.no_grad():
        logits, maps = model.localize(images, torch.tensor([[3], [0]]))
    assert maps.shape == (2, 1, 4, 2)
    if head == "fc":
        tokens = model.backbone(images).patches
        expected = (tokens @ model.head.weight[..., 0].T + model.head.bias).mean(dim=1)
        torch.testing.assert_close(logits, expected)


def test_the_head_is_initialised_as_in_the_release() -> None:
    weight = semantic_head("conv2d", 192, 50).weight.detach()
    assert weight.std().item() == pytest.approx((1 / (3 * 192 * 9)) ** 0.5, rel=0.02)
    assert weight.abs().max().item() <= (1 / (192 * 9)) ** 0.5


def test_parameter_count_of_the_papers_table_3() -> None:
    with torch.device("meta"):
        model = create_model("tscam", "deit_small_patch16_224", 1000, pretrained=False)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(25.1, abs=0.05)


def test_only_semantic_maps_work_without_a_class_token() -> None:
    siglip = ("tscam", "vit_base_patch16_siglip_224", 5, False)
    with pytest.raises(ValueError, match="vit_base_patch16_siglip_224 has no class token, which tscam needs"):
        create_model(*siglip, backbone_options={"depth": 1})
    model = create_model(*siglip, backbone_options={"depth": 1}, map="semantic")
    assert model.localize(torch.zeros(1, 3, 32, 32))[1].shape == (1, 1, 2, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"map": "cupled"}, "unknown map 'cupled'; did you mean 'coupled'"),
        ({"head": "conv3d"}, "unknown head 'conv3d'; did you mean 'conv1d'|'conv2d'"),
        ({"attention_blocks": 4}, "attention_blocks must lie in 1…3, the backbone's depth; got 4"),
        ({"attention_blocks": 0}, "attention_blocks must lie in 1…3, the backbone's depth; got 0"),
        ({"heads": "fc"}, "unknown option of tscam 'heads'; did you mean 'head'"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**options)
