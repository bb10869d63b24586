"""Outlier tokens: patch tokens that a vision transformer uses as memory, without relation to what the patch shows.

Darcet et al., "Vision transformers need registers" (ICLR 2024), find tokens of high norm in many pretrained networks.
They hold information about the whole image. In timm's ViT-Ti/16 (AugReg) they are the four corners of every image, with
25 times the norm of the others. A map that lights them has its peaks where no object is.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenloc.backbones.features import Features, as_map

CUTOFF = 3.0  # times the mean norm of an image's tokens; there, outliers have 15 times the mean, others 0.9 times


def outlier_tokens(patches: Tensor) -> Tensor:
    """Return which of the patch tokens [B, N, D] before the last norm are outliers of their image, [B, N] bool."""
    norms: Tensor = torch.linalg.vector_norm(patches.float(), dim=2)
    return norms > CUTOFF * norms.mean(dim=1, keepdim=True)


def without_outliers(features: Features, outliers: Tensor) -> Features:
    """Return the features with those of ``outliers`` [B, N] bool interpolated, except for ``feature_maps``."""

    def smooth(rows: Tensor | None) -> Tensor | None:
        return None if rows is None else interpolate_outliers(rows, outliers, features.grid)

    def smooth_tokens(tokens: Tensor) -> Tensor:
        return interpolate_outliers(tokens.transpose(1, 2), outliers, features.grid).transpose(1, 2)

    return replace(
        features,
        patches=smooth_tokens(features.patches),
        class_attention=smooth(features.class_attention),
        patch_relation=smooth(features.patch_relation),
        keys=None if features.keys is None else smooth_tokens(features.keys),
        spatial_gates=smooth(features.spatial_gates),
    )


def interpolate_outliers(rows: Tensor, outliers: Tensor, grid: tuple[int, int]) -> Tensor:
    """Replace the ``outliers`` [B, N] of ``rows`` [B, K, N] on a ``grid`` (h, w) by the mean of their neighbours.

    The neighbours are the up to eight around that are no outliers; without any, the value is 0.

    >>> rows = torch.tensor([[[9.0, 1.0, 2.0, 3.0]]])
    >>> interpolate_outliers(rows, rows[:, 0] > 8, (2, 2)).tolist()
    [[[2.0, 1.0, 2.0, 3.0]]]
    """
    valid = as_map(~outliers[:, None], grid).to(rows.dtype)
    total, count = (F.avg_pool2d(each, 3, 1, 1) for each in (as_map(rows, grid) * valid, valid))
    return torch.where(outliers[:, None], (total / count.clamp(min=1 / 9)).flatten(2), rows)
