"""TS-CAM: Token Semantic Coupled Attention Map (Gao et al., ICCV 2021)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from tokenloc._names import one_of
from tokenloc.backbones import Backbone, FeatureRequest, Features, as_map
from tokenloc.methods.base import ClassMaps, Method, Output, pick_classes, register_method, shared_map

Map = Literal["coupled", "attention", "semantic"]
Head = Literal["conv2d", "conv1d", "fc"]
End = Literal["first", "last"]


@register_method("tscam")
class TSCAM(Method):
    """Token Semantic Coupled Attention Map.

    A convolution turns the patch tokens of the last block into a map S_c per class (Eq. 3), whose average over the grid
    is the logit (Eq. 4). The class token's attention to the patches A_*, averaged over heads and blocks (Eqs. 5, 6),
    localizes the object but does not know its class. The map of class c is their product (Eq. 7).

    Following the released code, S and A are multiplied before any min-max. The released code sums A over the blocks;
    the paper and this class average. The maps differ by the factor L, which min-max removes.

    Args:
        backbone: with a class token (any backbone for ``map="semantic"``).
        map: ``coupled`` is the method; ``attention`` is TransAttention and ``semantic`` TransCAM (Tables 5, 6).
        head: ``conv2d`` 3 x 3 over the grid is the method; ``conv1d`` of width 3 over the token sequence and ``fc``
            per token are those of Tables 10, 11.
        attention_blocks: the attention is averaged over this many blocks (Tables 12, 13); None for all.
        attention_from: whether these are the ``first`` blocks, as in the paper, or the ``last``.
        head_scale: factor of the head's initial weights. LCTR's release initialises its head sqrt(C) times smaller.
    """

    advice = "a good start where images show objects of several classes: every class has its own map"
    default_threshold = 0.1  # the paper's on CUB
    test_options: ClassVar[tuple[str, ...]] = ("map", "attention_blocks", "attention_from")

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        map: Map = "coupled",
        head: Head = "conv2d",
        attention_blocks: int | None = None,
        attention_from: End = "first",
        head_scale: float = 1.0,
    ) -> None:
        super().__init__(backbone, num_classes)
        self.map = one_of("map", map, Map)
        self.attention_blocks = backbone.depth if attention_blocks is None else attention_blocks
        if not 1 <= self.attention_blocks <= backbone.depth:
            depth = backbone.depth
            raise ValueError(f"attention_blocks must lie in 1…{depth}, the backbone's depth; got {attention_blocks}")
        self.attention_from = one_of("attention_from", attention_from, End)
        self.head: nn.Conv2d | nn.Conv1d = semantic_head(one_of("head", head, Head), backbone.embed_dim, num_classes)
        with torch.no_grad():
            for weights in self.head.parameters():
                weights.mul_(head_scale)
        self.pool = PooledClassifier(backbone, num_classes)
        if map != "semantic":
            backbone.require_class_token("tscam")

    def forward(self, images: Tensor) -> Output:
        """Run the training pass over ``images`` [B, 3, height, width], which does not use the attention."""
        features = self.backbone(images)
        return Output(self.pool(self._semantic_maps(features), features))

    def class_maps(self, images: Tensor) -> tuple[Tensor, ClassMaps]:
        """Return logits [B, C], and a function from classes [B, K] to their maps M_c [B, K, h, w] (Eq. 7)."""
        features = self.backbone(images, FeatureRequest(class_attention=self.map != "semantic"))
        semantic = self._semantic_maps(features)
        logits = self.pool(semantic, features)
        if self.map == "semantic":
            return logits, lambda classes: pick_classes(semantic, classes)
        attention = self.attention_map(features)
        if self.map == "attention":
            return logits, shared_map(attention)
        return logits, lambda classes: attention[:, None] * pick_classes(semantic, classes)

    def intermediate_maps(self, images: Tensor, classes: Tensor) -> dict[str, Tensor]:
        """Return the attention map and the semantic map of ``classes`` [B]; see ``Method.intermediate_maps``."""
        features = self.backbone(images, FeatureRequest(class_attention=self.backbone.has_class_token))
        semantic = pick_classes(self._semantic_maps(features), classes[:, None])[:, 0]
        attention = {"attention": self.attention_map(features)} if self.backbone.has_class_token else {}
        return {**attention, "semantic map": semantic}

    def attention_map(self, features: Features) -> Tensor:
        """Return A_* [B, h, w] >= 0, the class token's attention, mean over heads and blocks (Eqs. 5, 6)."""
        attention = features.require("class_attention")
        count = self.attention_blocks
        chosen = attention[:, :count] if self.attention_from == "first" else attention[:, -count:]
        return as_map(chosen.mean(dim=1), features.grid)

    def _semantic_maps(self, features: Features) -> Tensor:
        """Return S [B, C, h, w] (Eq. 3)."""
        if isinstance(self.head, nn.Conv2d):
            semantic: Tensor = self.head(features.patch_map())
            return semantic
        return as_map(self.head(features.patches.transpose(1, 2)), features.grid)


class PooledClassifier(nn.Module):
    """From class maps to logits: the grid average (Eq. 4), plus the scores of a convolution branch (Conformer)."""

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.conv_head: nn.Linear | None = None
        if backbone.conv_dim is not None:
            self.conv_head = nn.Linear(backbone.conv_dim, num_classes)
            nn.init.trunc_normal_(self.conv_head.weight, std=0.02)
            nn.init.zeros_(self.conv_head.bias)

    def forward(self, maps: Tensor, features: Features) -> Tensor:
        """Return logits [B, C] from class maps [B, C, h, w] and the features they were computed from."""
        logits = maps.mean(dim=(2, 3))
        return logits if self.conv_head is None else logits + self.conv_head(features.conv_features)


def semantic_head(kind: Head, width: int, num_classes: int) -> nn.Conv2d | nn.Conv1d:
    """Return the layer from patch tokens to class maps, with PyTorch's initialisation, as in the released code.

    This is He's uniform initialisation with a = sqrt(5): a standard deviation of 1 / sqrt(3 fan_in). The paper says
    "He's approach"; with He's own gain, 2.4 times larger, the head alone can fit a small dataset, the tokens hardly
    change, and the maps are poor (docs/results/cub10.md). ``fc`` is a convolution of width 1 over the token sequence.
    """
    if kind == "conv2d":
        return nn.Conv2d(width, num_classes, kernel_size=3, padding=1)
    taps = 3 if kind == "conv1d" else 1
    return nn.Conv1d(width, num_classes, kernel_size=taps, padding=taps // 2)
