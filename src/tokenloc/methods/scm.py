"""SCM: Spatial Calibration Module (Bai et al., ECCV 2022)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tokenloc.backbones import Backbone, FeatureRequest, Features
from tokenloc.methods._diffusion import diffuse, neighbour_similarity, semantic_laplacian, soft_filter
from tokenloc.methods._scaling import min_max
from tokenloc.methods.base import Output, pick_classes, register_method
from tokenloc.methods.tscam import TSCAM

MAX_STEPS = 24  # further Newton-Schulz steps make no difference in float32, whose significand has 24 bits
_uncompiled: Callable[[Any], Any] = torch.compiler.disable  # a typed decorator


@register_method("scm")
class SCM(TSCAM):
    """Spatial Calibration Module: TS-CAM trained through blocks that diffuse its attention and are then removed.

    In training, TS-CAM's semantic maps S^0 (Eq. 2) and its attention map F^0 (Eq. 1), min-max scaled per image, pass
    through L activation diffusion blocks, and the logits are the average of S^L over the grid. A block diffuses F over
    the grid, further between neighbouring patches with similar semantics (Eqs. 3 to 6), filters the result (Eq. 7) to
    F~ in [0, 1], and amplifies both: S + S * F~ and F + F~. At test time there are no blocks: the map of class c is
    F^0 * S^0_c and the logits are the average of S^0, computed by TS-CAM's code at TS-CAM's cost.

    Following the released code and not the paper: 16 Newton-Schulz steps in the first block (paper: 4); no gradient
    through the starting matrix X_0; a threshold of beta times the largest activation of the block's input (Eq. 7: beta
    itself) before a min-max; residuals in both updates; F^0 min-max scaled. Eq. 4, L = (D - A) * (lambda E - 1), and
    Eq. 10 of the appendix have opposite signs; the released code and this class follow Eq. 4.

    A block scales each patch vector of S by a positive number, 1 + F~, which leaves the cosine similarities of the
    patches unchanged. They are therefore computed once for all blocks, from S^0, and only S^L is computed: S^0 times
    the product of all 1 + F~. The blocks always run in float32 or float64.

    Args:
        backbone: with a class token.
        blocks: L, the number of activation diffusion blocks (Fig. 7c).
        steps: p, the Newton-Schulz steps of each block: one number for all, or one for each. None is the released
            code's: 16 in the first block and 4 in the rest. The paper's text has 4.
        start_scale: alpha in X_0 = alpha L^T (Eq. 6).
        x0_gradient: whether lambda and the similarities also get a gradient through X_0; the logits are the same.

    Attributes:
        similarity_weight: lambda of each block (Eq. 4), [L], learned, initially 1. Smaller values diffuse wider.
        threshold: beta of each block (Eq. 7), [L], learned, initially 0.5.
    """

    advice = "TS-CAM trained to cover the whole object, at TS-CAM's cost at test time; near TS-CAM on ten bird classes"
    test_options: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        blocks: int = 4,
        steps: int | Sequence[int] | None = None,
        start_scale: float = 0.002,
        x0_gradient: bool = False,
    ) -> None:
        backbone.require_class_token("scm")
        super().__init__(backbone, num_classes)
        self.steps = checked_steps(blocks, steps)
        if not start_scale > 0:
            raise ValueError(f"start_scale (alpha in X_0 = alpha L^T) must be positive; got {start_scale}")
        self.start_scale, self.x0_gradient = start_scale, x0_gradient
        self.similarity_weight = nn.Parameter(torch.ones(blocks))
        self.threshold = nn.Parameter(torch.full((blocks,), 0.5))

    def forward(self, images: Tensor) -> Output:
        """Run the training pass over ``images`` [B, 3, height, width], through the diffusion blocks."""
        features, semantic, gains, _ = self._run_blocks(images)
        pooled = (semantic * gains[-1][:, None]).mean(dim=(2, 3), keepdim=True)
        return Output(self.pool(pooled, features))

    def attention_map(self, features: Features) -> Tensor:
        """Return F^0 [B, h, w] in [0, 1]: TS-CAM's attention map (Eq. 1), min-max scaled per image."""
        return min_max(super().attention_map(features))

    def diffusion_maps(self, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Return S^l [B, L + 1, K, h, w] of ``classes`` [B, K] and F^l [B, L + 1, h, w] for l = 0…L, float32 (Fig. 6).

        Raises ValueError for invalid classes.
        """
        self.check_classes(classes, len(images))
        _, semantic, gains, attentions = self._run_blocks(images)
        chosen = pick_classes(semantic, classes)
        return torch.stack([chosen * gain[:, None] for gain in gains], dim=1), torch.stack(attentions, dim=1)

    def intermediate_maps(self, images: Tensor, classes: Tensor) -> dict[str, Tensor]:
        """Return F^l and S^l of ``classes`` [B] for l = 0…L (Fig. 6); see ``Method.intermediate_maps``."""
        semantic, attention = self.diffusion_maps(images, classes[:, None])
        maps: dict[str, Tensor] = {}
        for level in range(attention.shape[1]):
            maps |= {f"F{level}": attention[:, level], f"S{level}": semantic[:, level, 0]}
        return maps

    def figure_maps(self, images: Tensor, classes: Tensor) -> dict[str, Tensor]:
        """Return X_p F^0 of the first block, p = 1…5 (Fig. 8), and F^k * S^l of ``classes`` [B] for all k, l (Fig. 9).

        See ``Method.figure_maps``.
        """
        _, semantic, gains, attentions = self._run_blocks(images)
        laplacian = semantic_laplacian(neighbour_similarity(semantic), self.similarity_weight[0].to(semantic.dtype))
        maps = {f"p = {p}": diffuse(laplacian, attentions[0], p, self.start_scale) for p in range(1, 6)}
        chosen = pick_classes(semantic, classes[:, None])[:, 0]
        pairs = product(enumerate(attentions), enumerate(gains))
        return maps | {f"F{k} S{level}": attention * gain * chosen for (k, attention), (level, gain) in pairs}

    def scalars(self) -> dict[str, float]:
        """Return lambda and beta of each block for logging (Fig. 7a, b), such as ``threshold/block_1``."""
        learned = {"similarity_weight": self.similarity_weight, "threshold": self.threshold}
        return {f"{name}/block_{i}": x for name, v in learned.items() for i, x in enumerate(v.tolist(), start=1)}

    def _run_blocks(self, images: Tensor) -> tuple[Features, Tensor, list[Tensor], list[Tensor]]:
        """Return the features, S^0 in at least float32, and the results of ``_calibrate``."""
        features = self.backbone(images, FeatureRequest(class_attention=True))
        semantic = self._semantic_maps(features)
        semantic = semantic.to(torch.promote_types(semantic.dtype, torch.float32))
        return features, semantic, *self._calibrate(semantic, self.attention_map(features))

    @_uncompiled  # compiling its hundreds of unrolled products would take minutes
    def _calibrate(self, semantic: Tensor, attention: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return g^l and F^l [B, h, w] for l = 0…L, where S^l = g^l * S^0, in the precision of ``semantic``."""
        gains, attentions = [torch.ones_like(attention)], [attention.to(semantic.dtype)]
        with torch.autocast(semantic.device.type, enabled=False):
            similarity = neighbour_similarity(semantic)
            for weight, threshold, steps in zip(self.similarity_weight, self.threshold, self.steps, strict=True):
                laplacian = semantic_laplacian(similarity, weight.to(semantic.dtype))
                diffused = diffuse(laplacian, attentions[-1], steps, self.start_scale, self.x0_gradient)
                peak = attentions[-1].amax(dim=(-2, -1), keepdim=True)
                peak = torch.where(peak > 0, peak, 1.0)
                filtered = soft_filter(diffused, threshold.to(semantic.dtype) * peak)
                gains.append(gains[-1] * (1 + filtered))
                attentions.append(attentions[-1] + filtered)
        return gains, attentions


def checked_steps(blocks: int, steps: int | Sequence[int] | None) -> tuple[int, ...]:
    """Return the Newton-Schulz steps of each of ``blocks`` blocks, checked; see ``SCM``.

    >>> checked_steps(4, None), checked_steps(2, 4), checked_steps(2, [6, 3])
    ((16, 4, 4, 4), (4, 4), (6, 3))
    """
    if blocks < 1:
        raise ValueError(f"blocks, the number of diffusion blocks, must be at least 1; got {blocks} (use tscam for 0)")
    if steps is None:
        steps = [16] + [4] * (blocks - 1)
    per_block = (steps,) * blocks if isinstance(steps, int) else tuple(steps)
    if len(per_block) != blocks:
        raise ValueError(
            f"steps must be one number, or one for each of the {blocks} diffusion blocks (the option blocks); "
            f"got {list(per_block)}, {len(per_block)} numbers"
        )
    for step in per_block:
        if isinstance(step, bool) or not isinstance(step, int) or not 1 <= step <= MAX_STEPS:
            raise ValueError(f"steps (of Newton-Schulz) must be whole numbers from 1 to {MAX_STEPS}; got {step!r}")
    return per_block
