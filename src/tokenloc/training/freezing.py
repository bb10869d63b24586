"""Which parts of a network stay as they are while the rest learns: the levels of SAT's Tables 8 and 14."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from tokenloc._names import one_of
from tokenloc.methods import Method
from tokenloc.training.config import Freeze

PRINTED = {"none": 21.7, "attention": 16.4, "mlp": 11.1, "blocks": 5.8, "most": 1.4}
"""Tunable parameters of SAT's backbone DeiT-S, in millions, as its Table 14 prints them.

By count they are 21.67, 16.34, 11.03, 5.70 and 1.34: DeiT-S without its classifier has 21.666 M. What is frozen agrees:
the ten frozen rates of Table 8 come out exactly. All five printed numbers would fit a whole of 21.72 to 21.75 M; what
its 54 to 84 thousand parameters more are, the paper does not say.
"""
OF_TABLE_14 = ("sat", "deit_small_patch16_224")


@dataclass(frozen=True)
class Tunable:
    """How many parameters learn.

    Attributes:
        backbone: of the backbone.
        backbone_all: that the backbone has.
        rest: of head and tokens that the method adds.
    """

    backbone: int
    backbone_all: int
    rest: int


def frozen_names(names: Collection[str], level: Freeze, spatial: Collection[int] = ()) -> set[str]:
    """Return the parameters of a plain vision transformer that stay as they are.

    Args:
        names: the backbone's parameters, such as ``blocks.3.attn.qkv.weight``.
        level: (a) to (e) of SAT's Table 8: ``none``; ``attention`` and ``mlp``, these layers of the plain blocks;
            ``blocks``, the plain blocks whole; ``most``, besides them the position embedding, the projections, and the
            MLPs of the spatial blocks. "Projection" in the paper is both that of the patches and the output projections
            of the spatial blocks' attention: only so does (e) come to its 1.4 M and 91 %.
        spatial: indices of the blocks that are not plain, as SAT's spatial blocks.

    Raises:
        ValueError: for another level, or names that are no plain vision transformer's.

    >>> sorted(frozen_names(["pos_embed", "blocks.0.mlp.fc1.bias", "blocks.1.mlp.fc1.bias"], "mlp", spatial=[1]))
    ['blocks.0.mlp.fc1.bias']
    """
    if one_of("freeze", level, Freeze) == "none":
        return set()
    if not any(re.match(r"blocks\.\d+\.(attn|mlp)\.", name) for name in names):
        raise ValueError(f"freeze={level!r} is for plain vision transformers, whose blocks have attention and MLP")
    plain = {"attention": r"attn\.", "mlp": r"mlp\.", "blocks": "", "most": ""}[level]
    others = {"most": r"pos_embed$|patch_embed\.|blocks\.\d+\.(mlp|attn\.proj)\."}.get(level)

    def frozen(name: str) -> bool:
        block = re.match(r"blocks\.(\d+)\.", name)
        if block is not None and int(block[1]) not in spatial:
            return re.match(plain, name[block.end() :]) is not None
        return others is not None and re.match(others, name) is not None

    return {name for name in names if frozen(name)}


def freeze(model: Method, level: Freeze) -> Tunable:
    """Keep a part of a model's backbone as it is; see ``frozen_names``.

    Returns:
        how many parameters still learn.

    Raises:
        ValueError: where nothing would learn, and as ``frozen_names`` does.
    """
    parameters = dict(model.backbone.named_parameters())
    for name in frozen_names(parameters, level, model.spatial_blocks):
        parameters[name].requires_grad_(False)
    tunable = _count(model)
    if tunable.backbone + tunable.rest == 0:
        raise ValueError(f"freeze={level!r} leaves nothing of this model to train; choose another level")
    return tunable


def _count(model: Method) -> Tunable:
    backbone = sum(each.numel() for each in model.backbone.parameters() if each.requires_grad)
    every = sum(each.numel() for each in model.parameters() if each.requires_grad)
    return Tunable(backbone, sum(each.numel() for each in model.backbone.parameters()), every - backbone)


def told(tunable: Tunable, model: Method, level: Freeze) -> str:
    """Return the counts in words, beside the paper's where it prints them for such a model."""
    millions = [f"{count / 1e6:.2f} M" for count in (tunable.backbone, tunable.backbone_all, tunable.rest)]
    tabled = (model.config.method, model.config.backbone.split(".")[0]) == OF_TABLE_14 and model.spatial_blocks == (
        9,
        10,
        11,
    )
    printed = f" (SAT's Table 14 prints {PRINTED[level]} M)" if tabled else ""
    return f"tunable: {millions[0]} of the backbone's {millions[1]}{printed}, {millions[2]} of the head"
