"""Freezing a part of the backbone: the levels of SAT's Tables 8 and 14."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

from tokenloc._names import one_of
from tokenloc.methods import Method
from tokenloc.training.config import Freeze


class TrainableParameters(NamedTuple):
    """Counts of trainable parameters in the backbone, and in the method's head and tokens."""

    backbone: int
    backbone_total: int  # the frozen ones, too
    head: int
    head_total: int

    @property
    def frozen_fraction(self) -> float:
        """The frozen parameters as a fraction of all, the frozen rate of SAT's Tables 8 and 14."""
        return 1 - (self.backbone + self.head) / (self.backbone_total + self.head_total)

    def __str__(self) -> str:
        backbone, total, head, _ = (f"{count / 1e6:.2f} M" for count in self)
        frozen = f"{100 * self.frozen_fraction:.1f} % of all are frozen"
        return f"trainable parameters: {backbone} of {total} in the backbone, {head} in the head; {frozen}"


def frozen_names(names: Collection[str], level: Freeze, spatial: Collection[int] = ()) -> set[str]:
    """Return the names of the frozen parameters of a plain vision transformer; see ``Optimisation.freeze``.

    "Projection" in SAT's Table 8 (e) means both the patch projection and the output projections of the spatial blocks'
    attention: only this reading gives its 1.4 M and 91 %. ``spatial`` are the indices of the spatial blocks. Raises
    ValueError if the level is unknown, or the names are not those of a plain vision transformer.

    >>> sorted(frozen_names(["pos_embed", "blocks.0.mlp.fc1.bias", "blocks.1.mlp.fc1.bias"], "mlp", spatial=[1]))
    ['blocks.0.mlp.fc1.bias']
    """
    if one_of("freeze", level, Freeze) in ("none", "backbone", "all"):
        return set() if level == "none" else set(names)
    if not any(re.match(r"blocks\.\d+\.(attn|mlp)\.", name) for name in names):
        raise ValueError(f"freeze={level!r} needs a plain vision transformer, whose blocks have attention and an MLP")
    plain = {"attention": r"attn\.", "mlp": r"mlp\.", "blocks": "", "most": ""}[level]
    others = r"pos_embed$|patch_embed\.|blocks\.\d+\.(mlp|attn\.proj)\."

    def frozen(name: str) -> bool:
        block = re.match(r"blocks\.(\d+)\.", name)
        if block is not None and int(block[1]) not in spatial:
            return re.match(plain, name[block.end() :]) is not None
        return level == "most" and re.match(others, name) is not None

    return {name for name in names if frozen(name)}


def freeze(model: Method, level: Freeze) -> TrainableParameters:
    """Freeze a part of a model; return how many parameters are left to train, or raise ValueError if none is."""
    backbone = dict(model.backbone.named_parameters())
    head = {name: each for name, each in model.named_parameters() if not name.startswith("backbone.")}
    frozen = [backbone[name] for name in frozen_names(backbone, level, model.spatial_blocks)]
    if level == "all":
        frozen += [each for name, each in head.items() if not name.endswith(("_token", "_embed"))]
    for parameter in frozen:
        parameter.requires_grad_(False)
    trained = [sum(each.numel() for each in part.values() if each.requires_grad) for part in (backbone, head)]
    if not any(trained):
        raise ValueError(f"freeze={level!r} leaves no parameter of this model to train; choose another level")
    totals = [sum(each.numel() for each in part.values()) for part in (backbone, head)]
    return TrainableParameters(trained[0], totals[0], trained[1], totals[1])
