"""What each level freezes, and how many parameters are left, against SAT's tables."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.runs import TINY_VIT, tiny_run
from tokenloc.methods import Method
from tokenloc.models import create_model
from tokenloc.models.checkpoint import read_checkpoint
from tokenloc.training.config import DataConfig, Freeze, ModelChoice, Optimisation
from tokenloc.training.freezing import freeze

WIDTH, HIDDEN, PATCHES, DEPTH, SPATIAL = 384, 4 * 384, 196, 12, 3
ATTENTION_OUT = WIDTH * WIDTH + WIDTH
ATTENTION = WIDTH * 3 * WIDTH + 3 * WIDTH + ATTENTION_OUT
MLP = WIDTH * HIDDEN + HIDDEN + HIDDEN * WIDTH + WIDTH
BLOCK = ATTENTION + MLP + 2 * 2 * WIDTH
EMBEDDINGS = (PATCHES + 1) * WIDTH + 3 * 16 * 16 * WIDTH + WIDTH
FROZEN: dict[Freeze, int] = {
    "none": 0,
    "attention": 9 * ATTENTION,
    "mlp": 9 * MLP,
    "blocks": 9 * BLOCK,
    "most": 9 * BLOCK + EMBEDDINGS + 3 * (MLP + ATTENTION_OUT),
}
RATES: dict[Freeze, tuple[int, int]] = {
    "none": (0, 0),
    "attention": (24, 21),
    "mlp": (48, 42),
    "blocks": (71, 64),
    "most": (91, 81),
}  # SAT's Table 8
PUBLISHED: dict[Freeze, float] = {
    "none": 21.7,
    "attention": 16.4,
    "mlp": 11.1,
    "blocks": 5.8,
    "most": 1.4,
}  # SAT's Table 14, millions


def sat(classes: int, **options: Any) -> Method:
    with torch.device("meta"):
        return create_model("sat", "deit_small_patch16_224", classes, False, **options)


@pytest.mark.parametrize("level", FROZEN)
def test_counts_are_those_of_the_layers_and_of_the_paper(level: Freeze) -> None:
    for classes, rate in zip((200, 1000), RATES[level], strict=True):
        model = sat(classes)
        trained = freeze(model, level)
        assert trained.backbone_total - trained.backbone == FROZEN[level]
        assert trained.head == trained.head_total == 9 * WIDTH * classes + classes + 2 * WIDTH
        assert round(100 * trained.frozen_fraction) == rate
        assert abs(trained.backbone / 1e6 - PUBLISHED[level]) < 0.11
        assert sum(each.numel() for each in model.parameters() if each.requires_grad) == trained.backbone + trained.head


def test_one_total_explains_all_five_published_numbers() -> None:
    for total in (21.722e6, 21.749e6):
        assert [round((total - FROZEN[level]) / 1e6, 1) for level in PUBLISHED] == list(PUBLISHED.values())


def test_other_readings_of_projection_miss_the_frozen_rate() -> None:
    total = sum(each.numel() for each in sat(200).parameters())
    patches, attention = 3 * 16 * 16 * WIDTH + WIDTH, 3 * ATTENTION_OUT
    assert [round(100 * (FROZEN["most"] - thawed) / total) for thawed in (0, patches, attention)] == [91, 90, 89]


def test_the_description() -> None:
    expected = "trainable parameters: 5.70 M of 21.67 M in the backbone, 3.46 M in the head; 63.6 % of all are frozen"
    assert str(freeze(sat(1000), "blocks")) == expected


def test_only_the_token_is_left() -> None:
    """Table 13 (b)."""
    model = sat(200)
    whole = freeze(copy.deepcopy(model), "backbone")
    assert whole.backbone == 0
    assert whole.head == whole.head_total > 0
    trained = freeze(model, "all")
    assert {name for name, each in model.named_parameters() if each.requires_grad} == {"loc_token", "loc_embed"}
    assert (trained.backbone, trained.head) == (0, 2 * WIDTH)
    with pytest.raises(ValueError, match="freeze='all' leaves no parameter"):
        freeze(create_model("tscam", "vit_tiny_patch16_224", 3, False, backbone_options=TINY_VIT), "all")


def test_methods_without_spatial_blocks_have_only_plain_ones() -> None:
    model = create_model("tscam", "vit_tiny_patch16_224", 3, False, backbone_options=TINY_VIT)
    freeze(model, "blocks")
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    assert not [name for name in trained if name.startswith("backbone.blocks.")]
    assert {"backbone.cls_token", "backbone.pos_embed", "backbone.norm.weight", "head.weight"} <= trained


def test_the_attention_baseline_has_no_spatial_block() -> None:
    assert sat(200).spatial_blocks == (9, 10, 11)
    assert sat(200, map="attention").spatial_blocks == ()


def test_the_token_is_trained_on_the_network_of_an_earlier_run(tmp_path: Path) -> None:
    """The two stages of Table 13 (b)."""
    vit = {**TINY_VIT, "depth": 4}
    choice = ModelChoice("tscam", "vit_tiny_patch16_224", False, backbone_options=vit)
    common = {"optimisation": Optimisation(epochs=1, batch_size=8, freeze="all")}
    first = tiny_run(tmp_path / "one", model=choice, optimisation=Optimisation(epochs=1, batch_size=8))
    choice = replace(choice, method="sat", pretrained=first, keep_classifier=True)
    second = tiny_run(tmp_path / "two", model=choice, **common)
    one, two = (read_checkpoint(path)["state_dict"] for path in (first, second))
    assert set(two) - set(one) == {"model.loc_token", "model.loc_embed"}
    assert all(torch.equal(one[name], two[name]) for name in one)
    third = tiny_run(tmp_path / "three", model=replace(choice, pretrained=second), **common)
    assert not torch.equal(read_checkpoint(third)["state_dict"]["model.loc_token"], two["model.loc_token"])
    with pytest.raises(ValueError, match="keep_classifier needs pretrained to be a checkpoint"):
        tiny_run(tmp_path / "four", model=replace(choice, pretrained=False))
    few = DataConfig("scenes", resize=36, crop=32, classes=["fish", "leaf"], options={"size": 40, "length": 24})
    with pytest.raises(ValueError, match=r"the classifier in .* does not fit this model: head\.weight, head\.bias"):
        tiny_run(tmp_path / "five", model=choice, data=few)


@pytest.mark.slow
def test_only_frozen_weights_stay_the_same(tmp_path: Path) -> None:
    def train(lr: float) -> dict[str, Tensor]:
        optimisation = Optimisation(epochs=1, batch_size=8, lr=lr, freeze="mlp")
        return read_checkpoint(tiny_run(tmp_path / str(lr), optimisation=optimisation))["state_dict"]

    one, two = train(1e-2), train(1e-3)  # from the same initial weights
    mlps = {name for name in one if ".mlp." in name}
    assert mlps
    assert {name for name in one if torch.equal(one[name], two[name])} == mlps


def test_a_level_that_leaves_nothing_to_train() -> None:
    model = create_model("tscam", "vit_tiny_patch16_224", 3, False, backbone_options=TINY_VIT)
    for name, each in model.named_parameters():
        each.requires_grad_(name.startswith("backbone.blocks."))
    assert freeze(model, "attention").head == 0
    with pytest.raises(ValueError, match="freeze='blocks' leaves no parameter of this model to train; choose another"):
        freeze(model, "blocks")


def test_an_unknown_level_and_a_backbone_without_plain_blocks() -> None:
    tiny = {"embed_dim": 48, "depth": 12, "num_heads": 3, "channel_ratio": 1}
    model = create_model("sat", "conformer_small_patch16", 3, False, backbone_options=tiny)
    with pytest.raises(ValueError, match="freeze='most' needs a plain vision transformer"):
        freeze(model, "most")
    assert freeze(model, "none").backbone > 0
    with pytest.raises(ValueError, match="unknown freeze 'block'; did you mean 'blocks'"):
        freeze(model, "block")
