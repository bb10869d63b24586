"""timm's vision transformers as backbones."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from tokenloc.backbones.attention import ATTENTION_PARTS
from tokenloc.backbones.base import Backbone, BlockRunner
from tokenloc.backbones.features import FeatureRequest, Features, SpatialQuery
from tokenloc.backbones.outliers import outlier_tokens, without_outliers

# The children and parameters of timm's Block and EvaBlock. Others would mean a different computation.
BLOCK_PARTS = {"norm1", "attn", "ls1", "gamma_1", "drop_path1", "norm2", "mlp", "ls2", "gamma_2", "drop_path2"}
BLOCK_TYPES = {"Block", "EvaBlock", "Attention", "EvaAttention"}
PREFIX_TOKENS = ("cls_token", "dist_token", "reg_token")


class ViT(Backbone):
    """A timm vision transformer, with timm's parameters: the same names, order and values.

    ``state_dict()`` is that of the timm model without its classifier, so every timm checkpoint loads unchanged.
    Absolute position embeddings are interpolated to the input (bicubic, as in timm).

    Args:
        trunk: a timm ``VisionTransformer`` or ``Eva`` created with ``num_classes=0`` and ``dynamic_img_size=True``.
        name: its timm name, for error messages.

    Attributes:
        smooth_outliers: whether the features of outlier tokens are interpolated; see ``backbones.outliers``.

    Raises:
        ValueError: the blocks of ``trunk`` compute something that this class does not implement.
    """

    patch_embed: Any
    pos_embed: Any
    pos_drop: Any
    norm_pre: Any
    blocks: Any
    norm: Any
    fc_norm: Any
    rope: Any
    smooth_outliers: bool = False

    def __init__(self, trunk: Any, name: str) -> None:
        super().__init__()
        _check_supported(trunk, name)
        self.name = name
        for key, parameter in trunk.named_parameters(recurse=False):
            self.register_parameter(key, parameter)
        for key, module in trunk.named_children():
            if key not in ("head_drop", "head", "head_dist"):
                self.add_module(key, module)
        patch = trunk.patch_embed.patch_size
        self.patch_size = (int(patch[0]), int(patch[1]))
        self.native_grid: tuple[int, int] = tuple(trunk.patch_embed.grid_size)
        self.embed_dim = int(trunk.embed_dim)
        self.depth = len(trunk.blocks)
        self.num_prefix_tokens = int(trunk.num_prefix_tokens)
        self.positions_on_patches_only: bool = bool(trunk.no_embed_class)
        self.rope_per_block: bool = bool(getattr(trunk, "rope_mixed", False))

    def forward(
        self, images: Tensor, request: FeatureRequest | None = None, spatial: SpatialQuery | None = None
    ) -> Features:
        """Run the network; see ``Backbone.forward``."""
        run = BlockRunner(self, request, spatial)
        grid = self.grid_of(*images.shape[-2:])
        tokens = self.norm_pre(run.append_spatial_token(self.embed(images, grid)))
        for block, rope in zip(self.blocks, self._ropes(grid), strict=True):
            tokens = run(block, tokens, rope)
        features = run.features(self.fc_norm(self.norm(tokens)), grid)  # in timm, one of the norms is the identity
        if not self.smooth_outliers:
            return features
        patches = tokens[:, self.num_prefix_tokens :][:, : grid[0] * grid[1]]
        return without_outliers(features, outlier_tokens(patches))

    def embed(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return prefix and patch tokens with their position embeddings, [B, T, D]."""
        patches = self.patch_embed(images).flatten(1, 2)
        present = [key for key in PREFIX_TOKENS if getattr(self, key, None) is not None]
        prefix = [getattr(self, key).expand(len(images), -1, -1) for key in present]
        positions = self.positions(grid)
        if positions is not None and self.positions_on_patches_only:
            patches = patches + positions
        tokens = torch.cat([*prefix, patches], dim=1)
        if positions is not None and not self.positions_on_patches_only:
            tokens = tokens + positions
        dropped: Tensor = self.pos_drop(tokens)
        return dropped

    def positions(self, grid: tuple[int, int]) -> Tensor | None:
        """Return the absolute position embeddings for ``grid``, the patches last; None if the backbone has none."""
        if getattr(self, "pos_embed", None) is None:
            return None
        prefix = 0 if self.positions_on_patches_only else self.num_prefix_tokens
        sizes = {"new_size": list(grid), "old_size": list(self.native_grid)}
        positions: Tensor = resample_abs_pos_embed(self.pos_embed, **sizes, num_prefix_tokens=prefix)
        return positions

    def _ropes(self, grid: tuple[int, int]) -> list[Tensor | None]:
        """Return the rotary embedding of each block; all None if the backbone has none."""
        if getattr(self, "rope", None) is None:
            return [None] * self.depth
        rope = self.rope.get_embed(shape=grid)
        return list(rope) if self.rope_per_block else [rope] * self.depth


def _parts(module: Any) -> set[str]:
    own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False), *module.named_children()]
    return {name for name, _ in own}


def _check_supported(trunk: Any, name: str) -> None:
    """Refuse a network whose blocks this module would compute incorrectly."""
    blocks = list(getattr(trunk, "blocks", []))
    unsupported = {type(x).__name__ for block in blocks for x in (block, getattr(block, "attn", None))} - BLOCK_TYPES
    for block in blocks if not unsupported else ():
        unsupported |= (_parts(block) - BLOCK_PARTS) | (_parts(block.attn) - ATTENTION_PARTS)
    if unsupported or not blocks:
        raise ValueError(
            f"{name} is not a plain vision transformer: {', '.join(sorted(unsupported)) or 'it has no blocks'} is not "
            "supported; choose a ViT, DeiT, DINO, DINOv2, DINOv3 or EVA model of timm (`tokenloc list backbones`)"
        )
