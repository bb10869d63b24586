"""SAT: Spatial-Aware Token (Wu et al., ICCV 2023)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenloc._names import one_of
from tokenloc.backbones import Backbone, FeatureRequest, Features, Gate, SpatialQuery, as_map
from tokenloc.methods.base import ClassMaps, Method, Output, register_method, shared_map
from tokenloc.methods.global_batch import cross_entropy, global_mean
from tokenloc.methods.tscam import PooledClassifier, semantic_head

Map = Literal["spatial", "attention"]
Token = Literal["random", "pretrained", "shared"]
Dot = Literal["after_softmax", "before_softmax"]
Area = Literal["batch", "image", "minimal", "none"]
Certainty = Literal["normalization", "entropy", "none"]
Padding = Literal["zeros", "replicate", "full"]

# One axis of the released 3 x 3 filter, which is its outer product with itself. The paper says "standard deviation 6";
# the released numbers are the square roots of a standard normal's mass in three cells of width 49/9, made to sum to 1.
GAUSSIAN_TAPS = (0.05126853, 0.89746295, 0.05126853)


@register_method("sat")
class SAT(Method):
    """Spatial-Aware Token.

    A separate token learns localization: appended to the patches, with its own position embedding, it runs through all
    blocks. In the spatial blocks its query gives each token a probability of being foreground, m = sigmoid(q_spa K^T)
    (Eqs. 4, 5), and m scales the columns of that block's attention (Eq. 6), so that the classification loss trains it.
    The map M is the mean of m over these blocks, on the patches; it is the same for all classes. Two losses on M supply
    what labels cannot: the mean area over a batch (Eq. 7) and the certainty of each patch (Eq. 8).

    Following the released code, the product q_spa k_j is divided by sqrt(D / heads) and averaged over the heads
    before the sigmoid, one gate for all of them; the paper writes sqrt(D) and no average.

    Args:
        backbone: any; with a class token for ``token`` other than ``random`` and for ``map="attention"``.
        spatial_blocks: N in 1…5 of Table 9: the last N blocks; of 12 blocks the 10th for N = 1, the 10th and 11th
            for N = 2.
        map: ``spatial`` is the method; ``attention`` is the baseline of Table 5, without a spatial token: the map is
            the sigmoid of the class token's scores in all blocks, mean over heads, and gates nothing.
        token: initialisation of the spatial token (Table 11): ``random``, ``pretrained`` (a copy of the backbone's
            class token) or ``shared`` (the class token's query is used instead).
        dot: where m is multiplied in (Table 10).
        area: Tables 2 and 13: ``batch`` is Eq. 7; ``image`` compares each image's area to the target; ``minimal`` is
            the mean area without a target, the area loss of methods with a foreground prediction map; or ``none``.
        area_target: lambda in Eq. 7, a fraction of the patches in (0, 1): 0.25 on CUB, 0.35 on ILSVRC.
        certainty: Tables 2 and 12: ``normalization`` is Eq. 8; ``entropy`` is ``weighted_entropy``; or ``none``.
        gaussian_filter: whether Eq. 8 uses the filtered map (Table 2); the entropy never does.
        filter_padding: beyond the border of the map, the filter of Eq. 8 sees ``zeros``, as in the release, or the
            border again (``replicate``). Under both, a lit corner costs less than a lit patch elsewhere, as what the
            filter spreads beyond the border is dropped; ``full`` includes it, and the loss is the same at any position.
    """

    advice = "the best of the trained methods on ten bird classes, also with few images; one map for all classes"
    test_options: ClassVar[tuple[str, ...]] = ("spatial_blocks", "dot")

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        spatial_blocks: int = 3,
        map: Map = "spatial",
        token: Token = "random",
        dot: Dot = "after_softmax",
        area: Area = "batch",
        area_target: float = 0.25,
        certainty: Certainty = "normalization",
        gaussian_filter: bool = True,
        filter_padding: Padding = "zeros",
    ) -> None:
        super().__init__(backbone, num_classes)
        if one_of("map", map, Map) == "attention" and (spatial_blocks, token, dot) != (3, "random", "after_softmax"):
            raise ValueError(
                "map='attention' has no spatial token, so spatial_blocks, token and dot do not apply; leave them out "
                f"(got {spatial_blocks}, {token!r}, {dot!r})"
            )
        if map == "attention" or one_of("token", token, Token) != "random":
            backbone.require_class_token(f"sat with map={map!r} and token={token!r}")
        if not 0 < area_target < 1:
            raise ValueError(f"area_target is a fraction of the patches, between 0 and 1; got {area_target}")
        self.blocks = spatial_block_indices(spatial_blocks, backbone.depth)
        self.gate: Gate = "values" if one_of("dot", dot, Dot) == "after_softmax" else "keys"
        if map == "attention":
            self.blocks, self.gate = tuple(range(backbone.depth)), "none"
        self.spatial_blocks = self.blocks if map == "spatial" else ()
        self.area, self.certainty = one_of("area", area, Area), one_of("certainty", certainty, Certainty)
        self.area_target, self.gaussian_filter = area_target, gaussian_filter
        self.filter_padding = one_of("filter_padding", filter_padding, Padding)
        self.head = semantic_head("conv2d", backbone.embed_dim, num_classes)
        self.pool = PooledClassifier(backbone, num_classes)
        own = map == "spatial" and token != "shared"
        self.loc_token = _random_token(backbone.embed_dim) if own else None
        self.loc_embed = _random_token(backbone.embed_dim) if own else None
        if map == "spatial" and token == "pretrained":
            self.loc_token = nn.Parameter(backbone.get_parameter("cls_token").detach().clone())

    def forward(self, images: Tensor) -> Output:
        """Run the training pass over ``images`` [B, 3, height, width]; ``auxiliary`` has ``map``, M [B, h, w]."""
        logits, location = self._run(images)
        return Output(logits, {"map": location})

    def class_maps(self, images: Tensor) -> tuple[Tensor, ClassMaps]:
        """Return logits [B, C], and a function from classes [B, K] to M for each, [B, K, h, w] in (0, 1)."""
        logits, location = self._run(images)
        return logits, shared_map(location)

    def features(self, images: Tensor, request: FeatureRequest | None = None) -> Features:
        """Return the backbone's features with the spatial query; see ``Method.features``."""
        features: Features = self.backbone(images, request, self._query())
        return features

    def intermediate_maps(self, images: Tensor, classes: Tensor) -> dict[str, Tensor]:
        """Return m of each spatial block (Eqs. 4, 5), in (0, 1); see ``Method.intermediate_maps``."""
        del classes
        features = self.features(images)
        gates = zip(self.blocks, features.require("spatial_gates").unbind(1), strict=True)
        return {f"gate of block {block + 1}": as_map(gate, features.grid) for block, gate in gates}

    def loss(self, output: Output, labels: Tensor) -> dict[str, Tensor]:
        """Return the terms of Eq. 9: ``cross_entropy``, those of ``area`` and ``certainty`` in use, and ``total``."""
        location = output.auxiliary["map"]
        terms = {"cross_entropy": cross_entropy(output.logits, labels)}
        if self.area != "none":
            terms["area"] = area_loss(location, self.area_target, self.area)
        if self.certainty == "normalization":
            terms["normalization"] = normalization_loss(location, self.gaussian_filter, self.filter_padding)
        elif self.certainty == "entropy":
            terms["entropy"] = weighted_entropy(location)
        return {**terms, "total": torch.stack(list(terms.values())).sum()}

    def _run(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, C] and the map M [B, h, w]."""
        features = self.features(images)
        return self.pool(self.head(features.patch_map()), features), features.block_mean("spatial_gates")

    def _query(self) -> SpatialQuery:
        if self.loc_token is None or self.loc_embed is None:
            return SpatialQuery(None, self.blocks, self.gate)
        return SpatialQuery(self.loc_token + self.loc_embed, self.blocks, self.gate)


def spatial_block_indices(count: int, depth: int) -> tuple[int, ...]:
    """Return the zero-based indices of ``count`` spatial blocks in a backbone of ``depth`` blocks (Table 9).

    They are the last ones; one or two start where three would. A plain block must precede them.

    >>> spatial_block_indices(1, 12), spatial_block_indices(2, 12), spatial_block_indices(4, 12)
    ((9,), (9, 10), (8, 9, 10, 11))
    """
    if count < 1:
        raise ValueError(f"spatial_blocks must be at least 1; got {count}")
    first = depth - max(count, 3)
    if first < 1:
        fewer = f", or at most {depth - 1} spatial blocks" if depth > 3 else ""
        raise ValueError(
            f"spatial_blocks={count} needs a backbone of at least {max(count, 3) + 1} blocks, a plain one before the "
            f"spatial ones; got one of {depth}. Use a deeper backbone{fewer}"
        )
    return tuple(range(first, first + count))


def area_loss(maps: Tensor, target: float, kind: Area = "batch") -> Tensor:
    """Return the loss on the areas (means) of the ``maps`` [B, h, w] in [0, 1] of all processes, a scalar.

    ``batch``: |mean area - target| (Eq. 7). ``image``: mean of |area - target|. ``minimal``: mean area.
    """
    areas = maps.mean(dim=(1, 2))
    if kind == "batch":
        return (global_mean(areas) - target).abs()
    return global_mean((areas - target).abs() if kind == "image" else areas)


def normalization_loss(maps: Tensor, gaussian_filter: bool = True, padding: Padding = "zeros") -> Tensor:
    """Return the mean of M* (1 - M*) (Eq. 8) in [0, 0.25] over ``maps`` [B, h, w]; M* is the map, filtered or not.

    The sum over M* is divided by h w, also if the ``padding`` enlarges M*; see ``SAT``.
    """
    filtered = gaussian_filtered(maps, padding) if gaussian_filter else maps
    border = filtered[0].numel() / maps[0].numel()
    return global_mean((filtered * (1 - filtered)).mean(dim=(1, 2)) * border)


def gaussian_filtered(maps: Tensor, padding: Padding = "zeros") -> Tensor:
    """Return ``maps`` [B, h, w] filtered with the released 3 x 3 kernel, [B, h, w], or [B, h + 2, w + 2] if ``full``.

    See ``SAT`` for the ``padding``.
    """
    taps = torch.stack([maps.new_full((), tap) for tap in GAUSSIAN_TAPS])  # a copy of a list would wait for the GPU
    zeros = {"zeros": 1, "replicate": 0, "full": 2}[padding]
    with torch.autocast(maps.device.type, enabled=False):  # half precision is too coarse for a loss this small
        maps = F.pad(maps[:, None], (1,) * 4, "replicate") if padding == "replicate" else maps[:, None]
        return F.conv2d(maps, torch.outer(taps, taps)[None, None], padding=zeros)[:, 0]


def weighted_entropy(maps: Tensor) -> Tensor:
    """Return ORNet's weighted entropy of the ``maps`` [B, h, w] of all processes, a scalar >= 0 in nats (Table 12).

    Each patch's binary entropy is weighted by a Gaussian around 0.5 with standard deviation 0.1. SAT's paper gives no
    formula, only the shape of the curve: "already close to zero at input values of 0.2 or 0.8" (Fig. 10).
    """
    maps = maps.clamp(1e-6, 1 - 1e-6)  # the logarithm's gradient is infinite at 0 and 1
    entropy = torch.special.entr(maps) + torch.special.entr(1 - maps)
    weight = torch.exp(-((maps - 0.5) ** 2) / (2 * 0.1**2))
    return global_mean((weight * entropy).mean(dim=(1, 2)))


def _random_token(width: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, width), std=0.02))
