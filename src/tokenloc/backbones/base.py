"""The backbone interface, and the execution of transformer blocks with the requested attention outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tokenloc.backbones.attention import AttentionOutput, attend
from tokenloc.backbones.features import FeatureRequest, Features, SpatialQuery, as_map


class Backbone(nn.Module, ABC):
    """A network that turns images into tokens. Subclasses set these attributes and implement ``forward``.

    Attributes:
        name: for error messages.
        patch_size: (height, width) of a patch in pixels; of a convolutional network, the stride of its feature map.
        embed_dim: D, the width of a token.
        depth: L, the number of transformer blocks; 0 for a convolutional network.
        num_prefix_tokens: how many tokens precede the patches: class token, distillation token, registers.
        conv_dim: width of the pooled features of a convolution branch; None without such a branch.
        checkpointed: whether training stores only the inputs of each transformer block and recomputes the rest.
    """

    name: str
    patch_size: tuple[int, int]
    embed_dim: int
    depth: int
    num_prefix_tokens: int
    conv_dim: int | None = None
    checkpointed: bool = False

    @abstractmethod
    def forward(
        self, images: Tensor, request: FeatureRequest | None = None, spatial: SpatialQuery | None = None
    ) -> Features:
        """Run the network on ``images`` [B, 3, height, width], normalised for the weights.

        Raises:
            ValueError: the image size is not a multiple of the patch size, or a required class token is missing.
        """

    @property
    def has_class_token(self) -> bool:
        """Whether the first token is a class token."""
        return getattr(self, "cls_token", None) is not None

    def require_class_token(self, user: str) -> None:
        """Raise ValueError if the backbone has no class token; ``user`` names what needs one."""
        if not self.has_class_token:
            raise ValueError(
                f"{self.name} has no class token, which {user} needs; choose a backbone with one, such as "
                "deit_small_patch16_224, vit_small_patch16_224 or vit_small_patch14_reg4_dinov2"
            )

    def require_attention(self, user: str) -> None:
        """Raise ValueError if the backbone has no transformer blocks; ``user`` names what needs them."""
        if not self.depth:
            raise ValueError(
                f"{self.name} is a convolutional network without attention, which {user} needs; choose a vision "
                "transformer such as deit_small_patch16_224, or the method cam"
            )

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Return the patch rows and columns of an image; raise ValueError if patches do not fill it exactly."""
        rows, row_rest = divmod(height, self.patch_size[0])
        columns, column_rest = divmod(width, self.patch_size[1])
        if row_rest or column_rest or not rows or not columns:
            raise ValueError(
                f"images of {height} x {width} pixels (height x width) do not divide into the "
                f"{self.patch_size[0]} x {self.patch_size[1]} patches of {self.name}; use multiples of the patch size"
            )
        return rows, columns


class BlockRunner:
    """Runs tokens through the transformer blocks of ``backbone``, in order, and collects the requested outputs."""

    def __init__(self, backbone: Backbone, request: FeatureRequest | None, spatial: SpatialQuery | None) -> None:
        self.backbone = backbone
        self.request = request or FeatureRequest()
        self.spatial = spatial
        self.outputs: list[AttentionOutput] = []
        self.tokens: list[Tensor] = []
        if self.request.class_attention or self.request.patch_relation:
            backbone.require_class_token("class attention")
        if spatial is not None and spatial.token is None:
            backbone.require_class_token("a spatial query of the class token")

    def append_spatial_token(self, tokens: Tensor) -> Tensor:
        """Return the tokens [B, T, D] followed by the spatial token, if there is one."""
        if self.spatial is None or self.spatial.token is None:
            return tokens
        return torch.cat([tokens, self.spatial.token.expand(len(tokens), -1, -1)], dim=1)

    def __call__(self, block: Any, tokens: Tensor, rope: Tensor | None = None) -> Tensor:
        """Run timm's pre-norm ``block``: attention, then MLP, each with residual, layer scale and drop path."""
        if self.request.feature_maps and not self.tokens:
            self.tokens.append(tokens)
        last = len(self.outputs) == self.backbone.depth - 1
        request = replace(self.request, keys=self.request.keys and last)
        spatial = self.spatial if self.spatial is not None and len(self.outputs) in self.spatial.blocks else None
        arguments = (block, tokens, request, spatial, rope)
        if self.backbone.checkpointed and torch.is_grad_enabled():
            tokens, output = checkpoint(_run_block, *arguments, use_reentrant=False)
        else:
            tokens, output = _run_block(*arguments)
        self.outputs.append(output)
        if self.request.feature_maps:
            self.tokens.append(tokens)
        return tokens

    def features(self, tokens: Tensor, grid: tuple[int, int]) -> Features:
        """Return the features; ``tokens`` [B, T, D] are those after the last norm."""
        first = self.backbone.num_prefix_tokens
        patches = slice(first, first + grid[0] * grid[1])
        keys = self.outputs[-1].keys
        return Features(
            patches=tokens[:, patches],
            class_token=tokens[:, 0] if self.backbone.has_class_token else None,
            grid=grid,
            class_attention=_stacked([output.class_attention for output in self.outputs], patches),
            patch_relation=_stacked([output.patch_relation for output in self.outputs], patches),
            keys=None if keys is None else keys[:, patches],
            feature_maps=tuple(as_map(each[:, patches].transpose(1, 2), grid) for each in self.tokens) or None,
            spatial_gates=_stacked([output.gate for output in self.outputs], patches),
        )


def _run_block(
    block: Any, tokens: Tensor, request: FeatureRequest, query: SpatialQuery | None, rope: Tensor | None
) -> tuple[Tensor, AttentionOutput]:
    """Return the tokens after ``block`` and its attention outputs, without side effects, so that it can be rerun."""
    attended, output = attend(block.attn, block.norm1(tokens), request, query, rope)
    tokens = tokens + block.drop_path1(_scaled(block, 1, attended))
    added: Tensor = block.drop_path2(_scaled(block, 2, block.mlp(block.norm2(tokens))))
    return tokens + added, output


def _stacked(rows: list[Tensor | None], patches: slice) -> Tensor | None:
    """Stack the blocks' rows [B, T] to [B, L, N], patches only; None if no block has one."""
    existing = [row[:, patches] for row in rows if row is not None]
    return torch.stack(existing, dim=1) if existing else None


def _scaled(block: Any, branch: int, x: Tensor) -> Tensor:
    """Apply a branch's layer scale: a module in timm's Block, a parameter (or None) in its EvaBlock."""
    layer_scale = getattr(block, f"ls{branch}", None)
    gamma = getattr(block, f"gamma_{branch}", None)
    scaled: Tensor = x if layer_scale is None else layer_scale(x)
    return scaled if gamma is None else gamma * scaled
