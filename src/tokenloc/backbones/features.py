"""What a method may ask of a backbone, and what it gets back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Gate = Literal["values", "keys", "none"]
"""What SAT's answer scales: the values (after the softmax), the keys (before it), or nothing."""


@dataclass(frozen=True)
class FeatureRequest:
    """What to keep of the attention of a forward pass; nothing is computed that is not asked for.

    Attributes:
        class_attention: the class token's attention to the patches, in every block.
        patch_relation: LCTR's relation vector, in every block; without gradient.
        keys: the last block's keys.
    """

    class_attention: bool = False
    patch_relation: bool = False
    keys: bool = False


@dataclass(frozen=True)
class SpatialQuery:
    """A token that asks where the object is, and gates the attention by the answer (SAT, Eqs. 3 to 6).

    Attributes:
        token: [1, 1, D], appended after the patches, its position embedding added; None lets the class token ask.
        blocks: indices of the blocks in which it does so.
        gate: what is scaled by the gate m: ``values`` is (A * 1m^T) V = A (m * V), after the softmax; ``keys`` is
            softmax(Q (m * K)^T) V, before it; ``none`` only looks.
    """

    token: Tensor | None
    blocks: tuple[int, ...]
    gate: Gate = "values"


@dataclass(frozen=True)
class Features:
    """The result of a backbone's forward pass over B images of h x w patches (N = h * w, row by row).

    Attributes:
        patches: patch tokens after the last norm, [B, N, D].
        class_token: class token after the last norm, [B, D]; None where the backbone has none.
        grid: (h, w), the number of patch rows and columns.
        class_attention: on request; the attention of the class token to the patches per block, mean over heads,
            [B, L, N] float32 in [0, 1]. A row sums to 1 minus what goes to the class token and other prefix tokens.
        patch_relation: on request; LCTR's relation vector per block, [B, L, N] float32 in [0, 1].
        keys: on request; the last block's keys of the patches, heads side by side, [B, N, D].
        spatial_gates: where there was a spatial query; its gate on the patches per asking block, [B, S, N] in (0, 1).
        conv_features: pooled features of the convolution branch, [B, Dc]; None where the backbone has none.
    """

    patches: Tensor
    class_token: Tensor | None
    grid: tuple[int, int]
    class_attention: Tensor | None = None
    patch_relation: Tensor | None = None
    keys: Tensor | None = None
    spatial_gates: Tensor | None = None
    conv_features: Tensor | None = None

    def patch_map(self) -> Tensor:
        """Return the patch tokens as an image, [B, D, h, w]."""
        return as_map(self.patches.transpose(1, 2), self.grid)


def as_map(rows: Tensor, grid: tuple[int, int]) -> Tensor:
    """Fold the last axis of ``rows`` [..., N] to the grid (h, w): [..., h, w]; N = h * w, row by row.

    >>> import torch
    >>> as_map(torch.arange(6), (2, 3)).tolist()
    [[0, 1, 2], [3, 4, 5]]
    """
    return rows.reshape(*rows.shape[:-1], *grid)
