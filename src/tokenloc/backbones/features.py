"""What a method can request from a backbone, and the features that the backbone returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Gate = Literal["values", "keys", "none"]
"""What SAT's gate scales; see ``SpatialQuery``."""


@dataclass(frozen=True)
class FeatureRequest:
    """The outputs to keep or compute in a forward pass: see the attributes of the same names of ``Features``."""

    class_attention: bool = False
    patch_relation: bool = False
    keys: bool = False
    feature_maps: bool = False


@dataclass(frozen=True)
class SpatialQuery:
    """A token whose query predicts the foreground and gates the attention with it (SAT, Eqs. 3 to 6).

    Attributes:
        token: [1, 1, D], its position embedding included; appended after the patches. None: the class token's query.
        blocks: indices of the blocks that compute the gate.
        gate: what the gate m scales: ``values`` is (A * 1m^T) V = A (m * V), after the softmax; ``keys`` is
            softmax(Q (m * K)^T) V, before the softmax; ``none`` only computes m.
    """

    token: Tensor | None
    blocks: tuple[int, ...]
    gate: Gate = "values"


@dataclass(frozen=True)
class Features:
    """The output of a backbone for B images of h x w patches; N = h * w, in row-major order.

    Attributes:
        patches: patch tokens after the last norm, [B, N, D].
        class_token: class token after the last norm, [B, D]; None if the backbone has none.
        grid: (h, w).
        class_attention: on request; attention of the class token to the patches per block, mean over heads,
            [B, L, N] float32 in [0, 1]. A row sums to 1 minus the attention to the prefix tokens.
        patch_relation: on request; LCTR's relation vector per block, [B, L, N] float32 in [0, 1], without gradient.
        keys: on request; the last block's keys of the patches, heads concatenated, [B, N, D].
        feature_maps: on request; the patch tokens that enter the first block and leave each of the L blocks, as images
            [B, D, h, w]; of a CNN, the maps of its stages, which differ in width and size.
        spatial_gates: with a spatial query; the gate on the patches in each of its S blocks, [B, S, N] in (0, 1).
        conv_features: pooled features of the convolution branch, [B, Dc]; None if the backbone has none.
    """

    patches: Tensor
    class_token: Tensor | None
    grid: tuple[int, int]
    class_attention: Tensor | None = None
    patch_relation: Tensor | None = None
    keys: Tensor | None = None
    feature_maps: tuple[Tensor, ...] | None = None
    spatial_gates: Tensor | None = None
    conv_features: Tensor | None = None

    def require(self, name: str) -> Tensor:
        """Return the attribute ``name``; raise ValueError if it is None."""
        value: Tensor | None = getattr(self, name)
        if value is None:
            requestable = name in FeatureRequest.__dataclass_fields__
            hint = f"; use FeatureRequest({name}=True)" if requestable else ", which this backbone does not provide"
            raise ValueError(f"the features were computed without {name}{hint}")
        return value

    def patch_map(self) -> Tensor:
        """Return the patch tokens as an image, [B, D, h, w]."""
        return as_map(self.patches.transpose(1, 2), self.grid)

    def block_mean(self, name: str) -> Tensor:
        """Return the mean over blocks of the attribute ``name``, [B, L, N], as a map [B, h, w]."""
        return as_map(self.require(name).mean(dim=1), self.grid)


def as_map(rows: Tensor, grid: tuple[int, int]) -> Tensor:
    """Reshape ``rows`` [..., N] to [..., h, w], where ``grid`` is (h, w) and N = h * w in row-major order.

    >>> import torch
    >>> as_map(torch.arange(6), (2, 3)).tolist()
    [[0, 1, 2], [3, 4, 5]]
    """
    return rows.reshape(*rows.shape[:-1], *grid)
