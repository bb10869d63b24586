"""LCTR: its head against one convolution per image, its maps against the paper's equations."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.methods.small import IMAGES, SMALL, small_model
from tokenloc.backbones import FeatureRequest, create_backbone
from tokenloc.data import Preprocessing
from tokenloc.methods.lctr import LCTR, CueDigging, shifted_means
from tokenloc.models import create_model
from tokenloc.models.checkpoint import load_checkpoint, read_metadata
from tokenloc.models.metadata import ModelMetadata

EVERY_CLASS = torch.arange(5).repeat(2, 1)
GRIDS = [(4, 3), (1, 5), (5, 1), (1, 1), (2, 2)]


def head(**options: Any) -> CueDigging:
    settings = {"width": 6, "num_classes": 5, "kernels": 4, "kernel_size": 3, "pooling": "separate", "bias": False}
    return CueDigging(**{**settings, **options}).double()


def plain_maps(module: CueDigging, tokens: Tensor, scores: Tensor) -> Tensor:
    """Equation 6 literally: a kernel and a convolution for each image."""
    maps = []
    for image, image_scores in zip(tokens, scores, strict=True):
        kernel = sum(score * weight for score, weight in zip(image_scores, module.weight, strict=True))
        maps.append(F.conv2d(image[None], kernel, module.bias, padding=module.weight.shape[-1] // 2)[0])
    return torch.stack(maps)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("kernel_size", "kernels"), [(1, 4), (3, 1), (3, 4)])
@pytest.mark.parametrize(("bias", "padded_pooling"), [(False, False), (True, True)])
def test_maps_and_their_average_equal_one_convolution_per_image(
    grid: tuple[int, int], kernel_size: int, kernels: int, bias: bool, padded_pooling: bool
) -> None:
    module = head(kernels=kernels, kernel_size=kernel_size, bias=bias, padded_pooling=padded_pooling)
    tokens = torch.randn(3, 6, *grid, dtype=torch.float64, requires_grad=True)
    scores = torch.rand(3, kernels, dtype=torch.float64, requires_grad=True)
    classes = torch.tensor([[0, 4, 2], [3, 3, 1], [4, 0, 0]])
    expected = plain_maps(module, tokens, scores)
    chosen = torch.stack([expected[i, classes[i]] for i in range(3)])
    averaged = F.avg_pool2d(expected, 3, stride=1, padding=1) if padded_pooling else expected
    pairs = [(module.pooled(tokens, scores), averaged.mean(dim=(2, 3))), (module.maps(tokens, scores, classes), chosen)]
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs)
        mixture = torch.linspace(-1, 2, mine.numel(), dtype=torch.float64).view_as(mine)
        inputs = (tokens, scores, *([module.weight, module.bias] if bias else [module.weight]))
        mine_slopes, their_slopes = (
            torch.autograd.grad((x * mixture).sum(), inputs, retain_graph=True) for x in (mine, theirs)
        )
        for a, b in zip(mine_slopes, their_slopes, strict=True):
            torch.testing.assert_close(a, b)


def test_shifted_means_average_the_inputs_of_each_weight() -> None:
    tokens = torch.arange(6.0).reshape(1, 1, 2, 3)  # 0 1 2 / 3 4 5
    sums = [[0 + 1, 0 + 1 + 2, 1 + 2], [0 + 1 + 3 + 4, 15, 1 + 2 + 4 + 5], [3 + 4, 3 + 4 + 5, 4 + 5]]
    torch.testing.assert_close(shifted_means(tokens, 3)[0, 0], torch.tensor(sums) / 6)
    torch.testing.assert_close(shifted_means(tokens, 1), torch.full((1, 1, 1, 1), 2.5))


@pytest.mark.parametrize("min_max_erasing", [False, True])
@pytest.mark.parametrize("pooling", ["separate", "shared", "mean", "max"])
def test_scores_come_from_the_regions_with_little_class_attention(pooling: str, min_max_erasing: bool) -> None:
    module = head(pooling=pooling, min_max_erasing=min_max_erasing)
    tokens, attention = torch.randn(2, 6, 3, 4).double(), torch.rand(2, 3, 4).double()
    expected = []
    for image, map_ in zip(tokens, attention, strict=True):
        reversed_ = 1 - ((map_ - map_.min()) / (map_.max() - map_.min()) if min_max_erasing else map_)
        dug = F.conv2d((image * reversed_)[None], module.dig.weight, module.dig.bias, padding=1)[0]
        average, largest = dug.flatten(1).mean(dim=1), dug.flatten(1).max(dim=1).values
        before = {
            "separate": lambda a=average, m=largest: module.mean_score(a) + module.max_score(m),
            "shared": lambda a=average, m=largest: module.mean_score(a + m),
            "mean": lambda a=average: module.mean_score(a),
            "max": lambda m=largest: module.max_score(m),
        }[pooling]()
        expected.append(1 / (1 + (-before).exp()))
    torch.testing.assert_close(module.scores(tokens, attention), torch.stack(expected))


@pytest.mark.parametrize(("start", "smaller"), [("per_kernel", 1), ("joint", math.sqrt(40))])
def test_kernels_start_like_a_convolution_or_sqrt_of_the_classes_smaller(start: str, smaller: float) -> None:
    module = head(width=16, num_classes=40, start=start, bias=True)
    bound = 1 / math.sqrt(16 * 9) / smaller
    for kernel in module.weight:
        assert 0.98 * bound < float(kernel.detach().abs().max()) <= bound
        assert abs(float(kernel.detach().std()) - bound / math.sqrt(3)) < 0.02 * bound
    assert 0.8 * bound < float(module.bias.detach().abs().max()) <= bound


def test_parameter_counts_of_sats_table_14() -> None:
    with torch.device("meta"):
        module = CueDigging(384, 1000, kernels=4, kernel_size=3, pooling="separate")
    count = sum(p.numel() for p in module.parameters())
    assert count == 384 * 384 * 9 + 384 + 2 * (384 * 4 + 4) + 4 * 1000 * 384 * 9 + 1000
    assert 15.1e6 <= count < 15.2e6
    backbone, _ = create_backbone("deit_small_patch16_224", pretrained=False)
    total = count + sum(p.numel() for p in backbone.parameters())
    assert round(total / 1e6, 1) == 36.8


def test_the_map_is_the_product_of_semantic_and_relation_map() -> None:
    lctr = small_model("lctr")
    logits, maps = lctr.localize(IMAGES, EVERY_CLASS)
    features = lctr.backbone(IMAGES, FeatureRequest(class_attention=True, patch_relation=True))
    tokens, attention = features.patch_map(), features.class_attention.mean(dim=1).reshape(2, 4, 3)
    semantic = plain_maps(lctr.head, tokens, lctr.head.scores(tokens, attention))
    relation = features.patch_relation.mean(dim=1).reshape(2, 4, 3)
    torch.testing.assert_close(logits, F.avg_pool2d(semantic, 3, stride=1, padding=1).mean(dim=(2, 3)))
    torch.testing.assert_close(maps, semantic.relu() * relation[:, None])
    assert (maps == 0).any()
    lctr.relu = False
    torch.testing.assert_close(lctr.localize(IMAGES, EVERY_CLASS)[1], semantic * relation[:, None])
    torch.testing.assert_close(lctr(IMAGES).logits, logits)
    intermediate = lctr.intermediate_maps(IMAGES, EVERY_CLASS[:, 2])
    product = intermediate["patch relation"] * intermediate["semantic map"]
    torch.testing.assert_close(product, (semantic * relation[:, None])[:, 2])


def test_the_relation_vector_is_the_mean_of_the_weighted_attention() -> None:
    """Equation 5 and the text before it, with the weighted matrix."""
    lctr = small_model("lctr")
    inputs: list[Tensor] = []
    for block in lctr.backbone.blocks:
        block.norm1.register_forward_hook(lambda *call: inputs.append(call[-1].detach()))
    features = lctr.backbone(IMAGES, FeatureRequest(patch_relation=True))
    for level, (block, tokens) in enumerate(zip(lctr.backbone.blocks, inputs, strict=True)):
        query, key, _ = block.attn.qkv(tokens).reshape(2, 13, 3, 2, 12).permute(2, 0, 3, 1, 4)
        attention = (query @ key.mT / math.sqrt(12)).softmax(dim=-1).mean(dim=1)
        weighted = attention[:, :, 1:] * attention[:, 0, :, None]
        torch.testing.assert_close(features.patch_relation[:, level], weighted.mean(dim=1))


def test_without_both_modules_it_is_tscam() -> None:
    lctr = small_model("lctr", relation=False, cue_digging=False)
    tscam = create_model("tscam", "vit_tiny_patch16_224", 5, False, (64, 48), backbone_options=SMALL).eval()
    tscam.load_state_dict(lctr.state_dict())
    for mine, theirs in zip(lctr.localize(IMAGES, EVERY_CLASS), tscam.localize(IMAGES, EVERY_CLASS), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_the_relation_changes_the_map_but_not_the_logits() -> None:
    lctr = small_model("lctr")
    logits, maps = lctr.localize(IMAGES, EVERY_CLASS)
    lctr.relation = False
    logits_without, maps_without = lctr.localize(IMAGES, EVERY_CLASS)
    features = lctr.backbone(IMAGES, FeatureRequest(class_attention=True, patch_relation=True))
    ratio = features.block_mean("class_attention") / features.block_mean("patch_relation")
    assert torch.equal(logits, logits_without)
    torch.testing.assert_close(maps_without, maps * ratio[:, None])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernels": 0}, r"kernels \(G, the number of kernels to mix\) must be at least 1; got 0"),
        ({"kernel_size": 5}, r"kernel_size must be 1 or 3 \(Table 7 of LCTR\); got 5"),
        ({"start": "kernel"}, r"unknown start 'kernel'; did you mean 'per_kernel'\? Valid: joint, per_kernel"),
        ({"pooling": "separat"}, r"unknown pooling 'separat'; did you mean 'separate'\? Valid: max, mean, sep"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_model("lctr", **options)


def test_a_checkpoint_from_before_the_options_of_the_release_keeps_its_form(tmp_path: Path) -> None:
    old = {"start": "per_kernel", "bias": False, "padded_pooling": False, "min_max_erasing": True, "relu": False}
    model = small_model("lctr", **old, kernels=2)
    config = replace(model.config, options={"kernels": 2})  # all that such a checkpoint records
    names = tuple("abcde")
    metadata = ModelMetadata(config, names, Preprocessing((64, 48), (64, 48)))
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"tokenloc": metadata.to_dict(), "state_dict": weights}, tmp_path / "old.ckpt")
    loaded, read = load_checkpoint(tmp_path / "old.ckpt")
    assert read.model.options == read_metadata(tmp_path / "old.ckpt").model.options == {**old, "kernels": 2}
    for mine, theirs in zip(loaded.localize(IMAGES), model.localize(IMAGES), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"cue_digging": False}])
def test_options_of_new_checkpoints_are_theirs(options: dict[str, Any]) -> None:
    assert LCTR.stored_options(options, small_model("lctr", **options).state_dict()) == options
