"""LCTR: Local Continuity Transformer (Chen et al., AAAI 2022)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenloc._names import one_of
from tokenloc.backbones import Backbone, FeatureRequest, Features
from tokenloc.methods._scaling import min_max
from tokenloc.methods.base import ClassMaps, Method, Output, pick_classes, register_method
from tokenloc.methods.tscam import PooledClassifier, semantic_head

Pooling = Literal["separate", "shared", "mean", "max"]
Start = Literal["joint", "per_kernel"]


@register_method("lctr")
class LCTR(Method):
    """Local Continuity Transformer: two modules added to TS-CAM.

    The *relational patch-attention module* (RPAM) has no parameters and is used at test time only: it weights every
    token's attention to the patches by the class token's attention to that token, and averages (Eq. 5). The *cue
    digging module* (CDM) is the head: see ``CueDigging``. The map of class c is the product of X_CDM,c and the patch
    relation map (Eq. 3); the logits are the average of X_CDM over the grid.

    The paper leaves the details of the CDM open; the defaults are those of its release. The options from ``start`` on
    belong to the CDM. With ``padded_pooling``, ``relu`` and ``bias`` false, the equations are those printed.

    Args:
        backbone: with a class token.
        kernels: G, the number of kernels that the CDM mixes (Table 6).
        kernel_size: side of these kernels, 1 or 3 (Table 7).
        pooling: how the CDM scores them (Table 5): ``separate`` is (GMP-fc) + (GAP-fc), ``shared`` (GMP+GAP)-fc,
            ``mean`` GAP-fc, ``max`` GMP-fc.
        relation: whether the map uses the patch relation map; else TS-CAM's attention map (Table 8).
        cue_digging: whether the head is the CDM; else TS-CAM's convolution (Table 8).
        start: initialisation of the kernels: ``joint``, the release's, or ``per_kernel``, sqrt(C) times larger.
        bias: whether X_CDM has a bias per class.
        padded_pooling: whether X_CDM passes through a zero-padded 3 x 3 average pooling before it is averaged.
        min_max_erasing: whether m is scaled to [0, 1] per image before "reversed" attention, 1 - m, is computed.
        relu: whether negative values of X_CDM become 0 in the localization map.
    """

    advice = "TS-CAM with a head that finds further parts of the object; near TS-CAM on ten bird classes"
    test_options: ClassVar[tuple[str, ...]] = ("relation", "relu")

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        kernels: int = 4,
        kernel_size: int = 3,
        pooling: Pooling = "separate",
        relation: bool = True,
        cue_digging: bool = True,
        start: Start = "joint",
        bias: bool = True,
        padded_pooling: bool = True,
        min_max_erasing: bool = False,
        relu: bool = True,
    ) -> None:
        backbone.require_class_token("lctr")
        super().__init__(backbone, num_classes)
        self.relation, self.relu = relation, relu
        self.head: CueDigging | nn.Conv2d | nn.Conv1d
        if cue_digging:
            self.head = CueDigging(
                backbone.embed_dim,
                num_classes,
                kernels,
                kernel_size,
                pooling,
                start=start,
                bias=bias,
                padded_pooling=padded_pooling,
                min_max_erasing=min_max_erasing,
            )
        else:
            self.head = semantic_head("conv2d", backbone.embed_dim, num_classes)
        self.pool = PooledClassifier(backbone, num_classes)

    @staticmethod
    def stored_options(options: dict[str, Any], weights: Collection[str]) -> dict[str, Any]:
        """Return the options of a checkpoint; one without the CDM's bias is older than the options of its forms."""
        if "bias" in options or "head.dig.weight" not in weights or "head.bias" in weights:
            return options
        old = {"start": "per_kernel", "bias": False, "padded_pooling": False, "min_max_erasing": True, "relu": False}
        return old | options

    def forward(self, images: Tensor) -> Output:
        """Run the training pass over ``images`` [B, 3, height, width]."""
        features = self.backbone(images, FeatureRequest(class_attention=isinstance(self.head, CueDigging)))
        return Output(self._classify(features)[0])

    def class_maps(self, images: Tensor) -> tuple[Tensor, ClassMaps]:
        """Return logits [B, C], and a function from classes [B, K] to their maps M_fuse [B, K, h, w] (Eq. 3)."""
        features = self.backbone(images, FeatureRequest(class_attention=True, patch_relation=self.relation))
        logits, semantic_of = self._classify(features)
        attention = features.block_mean("patch_relation" if self.relation else "class_attention")
        return logits, lambda classes: attention[:, None] * semantic_of(classes)

    def intermediate_maps(self, images: Tensor, classes: Tensor) -> dict[str, Tensor]:
        """Return attention, patch relation and semantic map of ``classes`` [B]; see ``Method.intermediate_maps``."""
        features = self.backbone(images, FeatureRequest(class_attention=True, patch_relation=True))
        semantic = self._classify(features)[1](classes[:, None])[:, 0]
        attention, relation = features.block_mean("class_attention"), features.block_mean("patch_relation")
        return {"attention": attention, "patch relation": relation, "semantic map": semantic}

    def _classify(self, features: Features) -> tuple[Tensor, ClassMaps]:
        """Return logits [B, C], and a function from classes [B, K] to their semantic maps [B, K, h, w]."""
        tokens = features.patch_map()
        if not isinstance(self.head, CueDigging):
            semantic = self.head(tokens)
            return self.pool(semantic, features), lambda classes: pick_classes(semantic, classes)
        head, scores = self.head, self.head.scores(tokens, features.block_mean("class_attention"))
        pooled = head.pooled(tokens, scores)[:, :, None, None]
        return self.pool(pooled, features), lambda classes: self._rectified(head.maps(tokens, scores, classes))

    def _rectified(self, maps: Tensor) -> Tensor:
        return maps.relu() if self.relu else maps


class CueDigging(nn.Module):
    """The cue digging module (CDM): a convolution whose kernel is mixed for each image.

    The tokens X_L, with the regions that the class token attends to erased, are convolved (3 x 3), pooled, and scored:
    S_g in (0, 1) for each of G kernels W_g. X_CDM is the convolution of X_L with the sum of S_g W_g (Eq. 6). "Reversed"
    attention is 1 - m, m the mean over heads and blocks; gradients flow through it. No convolution per image is needed:
    see ``pooled`` and ``maps``.

    ``weight`` is W, [G, C, D, k, k], with a Kaiming-uniform initialisation, a = sqrt(5). The release draws all of W at
    once (``start="joint"``), so that PyTorch takes C D k^2 for the fan-in; ``per_kernel`` has a convolution's fan-in
    D k^2, and weights sqrt(C) times larger. See ``LCTR`` for the other options, and ``semantic_head`` and
    docs/results/cub10.md for the effect of larger weights.
    """

    def __init__(
        self,
        width: int,
        num_classes: int,
        kernels: int,
        kernel_size: int,
        pooling: Pooling,
        *,
        start: Start = "joint",
        bias: bool = True,
        padded_pooling: bool = True,
        min_max_erasing: bool = False,
    ) -> None:
        super().__init__()
        if kernels < 1:
            raise ValueError(f"kernels (G, the number of kernels to mix) must be at least 1; got {kernels}")
        if kernel_size not in (1, 3):
            raise ValueError(f"kernel_size must be 1 or 3 (Table 7 of LCTR); got {kernel_size}")
        self.pooling = one_of("pooling", pooling, Pooling)
        self.window = 3 if padded_pooling else 1
        self.min_max_erasing = min_max_erasing
        self.dig = nn.Conv2d(width, width, kernel_size=3, padding=1)
        self.mean_score = nn.Linear(width, kernels) if pooling != "max" else None
        self.max_score = nn.Linear(width, kernels) if pooling in ("separate", "max") else None
        self.weight = nn.Parameter(torch.empty(kernels, num_classes, width, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(num_classes)) if bias else None
        together = one_of("start", start, Start) == "joint"
        for drawn in (self.weight,) if together else self.weight:
            nn.init.kaiming_uniform_(drawn, a=5**0.5)
        if self.bias is not None:
            bound = (width * kernel_size**2 * (num_classes if together else 1)) ** -0.5
            nn.init.uniform_(self.bias, -bound, bound)

    def scores(self, tokens: Tensor, attention: Tensor) -> Tensor:
        """Return S [B, G] in (0, 1) from X_L [B, D, h, w] and the class token's attention [B, h, w]."""
        attention = min_max(attention) if self.min_max_erasing else attention
        dug = self.dig(tokens * (1 - attention)[:, None])
        mean, largest = dug.mean(dim=(2, 3)), dug.amax(dim=(2, 3))
        if self.pooling == "shared":
            mean = mean + largest
        layers = ((self.mean_score, mean), (self.max_score, largest))
        terms = [layer(pooled) for layer, pooled in layers if layer is not None]
        scores: Tensor = torch.stack(terms).sum(dim=0).sigmoid()
        return scores

    def pooled(self, tokens: Tensor, scores: Tensor) -> Tensor:
        """Return the average over the grid of X_CDM, average-pooled or not, [B, C], without computing X_CDM."""
        shifts = shifted_means(tokens, self.weight.shape[-1], self.window)
        responses = F.linear(shifts.flatten(1), self.weight.flatten(0, 1).flatten(1))
        mixed = (scores[:, :, None] * responses.reshape(*scores.shape, -1)).sum(dim=1)
        if self.bias is None:
            return mixed
        rows, columns = (pooling_weights(size, self.window, tokens).mean() for size in tokens.shape[-2:])
        return mixed + self.bias * rows * columns

    def maps(self, tokens: Tensor, scores: Tensor, classes: Tensor) -> Tensor:
        """Return X_CDM of ``classes`` [B, K] int64, [B, K, h, w] (Eq. 6).

        One product multiplies each weight of the mixed kernels with all patches; the fold shifts and adds the results.
        """
        side = self.weight.shape[-1]
        kernels = self.weight.flatten(2)
        mixed = scores[:, 0, None, None] * kernels[0, classes]
        for g in range(1, len(kernels)):
            mixed = mixed + scores[:, g, None, None] * kernels[g, classes]
        taps = mixed.unflatten(-1, (-1, side * side)).flip(-1).transpose(2, 3).flatten(1, 2)
        grid = (tokens.shape[-2], tokens.shape[-1])
        maps: Tensor = F.fold(taps @ tokens.flatten(2), grid, side, padding=side // 2)
        return maps if self.bias is None else maps + self.bias[classes][:, :, None, None]


def shifted_means(tokens: Tensor, side: int, window: int = 1) -> Tensor:
    """Return the averages of ``tokens`` [B, D, h, w] over the grid for each shift of a kernel, [B, D, side, side].

    The average of a convolution, weighted by the ``pooling_weights``, is the product of its kernel with these averages.
    """
    rows, columns = (_shifted_weights(size, side, window, tokens) for size in tokens.shape[-2:])
    return rows @ tokens @ columns.T


def pooling_weights(size: int, window: int, like: Tensor) -> Tensor:
    """Return the weight of each of ``size`` cells in the sum of their average pooling, zero-padded, stride 1: [size].

    The two-dimensional weights are the outer product of those of rows and columns.

    >>> pooling_weights(4, 3, torch.zeros(1)).tolist()  # the outer cells are in two windows of three
    [0.6666666865348816, 1.0, 1.0, 0.6666666865348816]
    """
    return F.avg_pool1d(like.new_ones(1, size), window, stride=1, padding=window // 2)[0]


def _shifted_weights(size: int, side: int, window: int, like: Tensor) -> Tensor:
    """Return W [side, size]: the average over a row x convolved with taps t, weighted, is t^T W x."""
    margin = side // 2
    padded = F.pad(pooling_weights(size, window, like), (margin, margin))
    return padded.unfold(0, size, 1).flip(0) / size
