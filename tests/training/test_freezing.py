"""What stays as it is at each level, and how many parameters are left, against SAT's tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from tests.runs import TINY_VIT, tiny_run, tiny_settings
from tokenloc.commands.train import train
from tokenloc.methods import Method, Output
from tokenloc.methods.base import ClassMaps
from tokenloc.models import create_model
from tokenloc.models.checkpoint import read_checkpoint
from tokenloc.training.config import Freeze, Optimisation
from tokenloc.training.freezing import PRINTED, freeze, frozen_names, told

WIDTH, HIDDEN, PATCHES, DEPTH, SPATIAL = 384, 4 * 384, 196, 12, 3
ATTENTION_OUT = WIDTH * WIDTH + WIDTH
ATTENTION = WIDTH * 3 * WIDTH + 3 * WIDTH + ATTENTION_OUT
MLP = WIDTH * HIDDEN + HIDDEN + HIDDEN * WIDTH + WIDTH
BLOCK = ATTENTION + MLP + 2 * 2 * WIDTH
EMBEDDINGS = (PATCHES + 1) * WIDTH + 3 * 16 * 16 * WIDTH + WIDTH
FROZEN = {
    "none": 0,
    "attention": 9 * ATTENTION,
    "mlp": 9 * MLP,
    "blocks": 9 * BLOCK,
    "most": 9 * BLOCK + EMBEDDINGS + 3 * (MLP + ATTENTION_OUT),
}
RATES = {"none": (0, 0), "attention": (24, 21), "mlp": (48, 42), "blocks": (71, 64), "most": (91, 81)}  # SAT's Table 8


def sat(classes: int, **options: Any) -> Method:
    with torch.device("meta"):
        return create_model("sat", "deit_small_patch16_224", classes, False, **options)


@pytest.mark.parametrize("level", get_args(Freeze))
def test_counts_are_those_of_the_layers_and_the_papers(level: Freeze) -> None:
    for classes, rate in zip((200, 1000), RATES[level], strict=True):
        model = sat(classes)
        tunable = freeze(model, level)
        assert tunable.backbone_all - tunable.backbone == FROZEN[level]
        assert tunable.rest == 9 * WIDTH * classes + classes + 2 * WIDTH
        assert round(100 * FROZEN[level] / (tunable.backbone_all + tunable.rest)) == rate
        assert abs(tunable.backbone / 1e6 - PRINTED[level]) < 0.11
        assert sum(each.numel() for each in model.parameters() if each.requires_grad) == tunable.backbone + tunable.rest


def test_one_whole_explains_all_five_printed_numbers() -> None:
    for whole in (21.722e6, 21.749e6):
        assert [round((whole - FROZEN[level]) / 1e6, 1) for level in PRINTED] == list(PRINTED.values())


def test_other_readings_of_projection_miss_the_frozen_rate() -> None:
    whole = sum(each.numel() for each in sat(200).parameters())
    patches, attention = 3 * 16 * 16 * WIDTH + WIDTH, 3 * ATTENTION_OUT
    assert [round(100 * (FROZEN["most"] - thawed) / whole) for thawed in (0, patches, attention)] == [91, 90, 89]


def test_counts_are_told_beside_the_papers() -> None:
    model = sat(1000)
    text = told(freeze(model, "blocks"), model, "blocks")
    assert text == "tunable: 5.70 M of the backbone's 21.67 M (SAT's Table 14 prints 5.8 M), 3.46 M of the head"
    other = sat(1000, spatial_blocks=2)
    assert "Table 14" not in told(freeze(other, "blocks"), other, "blocks")


def test_methods_without_spatial_blocks_have_plain_ones_alone() -> None:
    model = create_model("tscam", "vit_tiny_patch16_224", 3, False, backbone_options=TINY_VIT)
    freeze(model, "blocks")
    learning = {name for name, each in model.named_parameters() if each.requires_grad}
    assert not [name for name in learning if name.startswith("backbone.blocks.")]
    assert {"backbone.cls_token", "backbone.pos_embed", "backbone.norm.weight", "head.weight"} <= learning


def test_the_attention_baseline_has_no_spatial_block() -> None:
    assert sat(200).spatial_blocks == (9, 10, 11)
    assert sat(200, map="attention").spatial_blocks == ()


def test_frozen_weights_do_not_move_and_others_do(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path / "run", optimisation=Optimisation(epochs=1, batch_size=8, lr=1e-2, freeze="mlp"))
    best = train(**settings)
    other = tiny_run(tmp_path / "other", optimisation=Optimisation(epochs=1, batch_size=8, lr=1e-3, freeze="mlp"))
    one, two = (read_checkpoint(path)["state_dict"] for path in (best, other))  # the same start, other rates
    same = {name for name in one if torch.equal(one[name], two[name])}
    mlps = {name for name in one if ".mlp." in name}
    assert mlps
    assert same == mlps


class Headless(Method):
    """A method that learns nothing besides its backbone."""

    def forward(self, images: Tensor) -> Output:
        return Output(self.backbone(images).class_token)

    def class_maps(self, images: Tensor) -> tuple[Tensor, ClassMaps]:
        raise NotImplementedError


def test_a_level_that_leaves_nothing_to_train() -> None:
    backbone = create_model("tscam", "vit_tiny_patch16_224", 3, False, backbone_options=TINY_VIT).backbone
    for name, each in backbone.named_parameters():
        each.requires_grad_(name.startswith("blocks."))
    assert freeze(Headless(backbone, 3), "attention").rest == 0
    with pytest.raises(ValueError, match="freeze='blocks' leaves nothing of this model to train; choose another level"):
        freeze(Headless(backbone, 3), "blocks")


def test_a_backbone_without_such_blocks() -> None:
    tiny = {"embed_dim": 48, "depth": 12, "num_heads": 3, "channel_ratio": 1}
    model = create_model("sat", "conformer_small_patch16", 3, False, backbone_options=tiny)
    with pytest.raises(ValueError, match="freeze='most' is for plain vision transformers, whose blocks have attention"):
        freeze(model, "most")
    assert freeze(model, "none").backbone > 0


def test_an_unknown_level() -> None:
    with pytest.raises(ValueError, match="unknown freeze 'block'; did you mean 'blocks'"):
        frozen_names(["blocks.0.mlp.fc1.bias"], "block")
