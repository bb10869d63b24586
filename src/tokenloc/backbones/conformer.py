"""Conformer: a convolution branch and a transformer branch that exchange features (Peng et al., ICCV 2021)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from tokenloc.backbones.base import Backbone, BlockRunner
from tokenloc.backbones.features import FeatureRequest, Features, SpatialQuery, as_map

WEIGHTS_URL = "https://github.com/pengzhiliang/Conformer#model-zoo"
STEM_CHANNELS = 64
REDUCTION = 4  # a bottleneck's hidden layers have a quarter of its channels
_norm = partial(nn.BatchNorm2d, eps=1e-6)

# The published sizes: 23.5, 37.7 and 83.3 million parameters with 1000 classes.
CONFORMERS: dict[str, dict[str, int]] = {
    "conformer_tiny_patch16": {"channel_ratio": 1, "embed_dim": 384, "num_heads": 6},
    "conformer_small_patch16": {"channel_ratio": 4, "embed_dim": 384, "num_heads": 6},
    "conformer_base_patch16": {"channel_ratio": 6, "embed_dim": 576, "num_heads": 9},
}


class Conformer(Backbone):
    """A Conformer with the released parameter names and without its two classifiers.

    Three stages at 1/4, 1/8 and 1/16 of the image size hold ``depth`` / 3 blocks each. Every block but the first
    couples the branches: the hidden features of the first bottleneck, pooled to the patch grid, are added to the patch
    tokens before the transformer block; its patch tokens, upsampled, are added to the hidden features of the second
    bottleneck. There are no position embeddings: sides may be any multiples of 16 pixels.

    Following the released code, the class token is doubled where patch tokens receive features; the paper does not
    mention it. A spatial token (SAT), for which no code is published, is treated like the class token.

    Args:
        name: for error messages.
        channel_ratio: channels of the first stage, in multiples of 64; the others have twice and four times as many.
        embed_dim: D, width of the tokens.
        num_heads: H; must divide D.
        depth: number of transformer blocks, a positive multiple of 3.
        drop_path_rate: of the last transformer block; it grows linearly from 0.
    """

    def __init__(
        self,
        name: str = "conformer_small_patch16",
        *,
        channel_ratio: int = 4,
        embed_dim: int = 384,
        num_heads: int = 6,
        depth: int = 12,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if depth < 3 or depth % 3:
            raise ValueError(f"the depth of a Conformer must be a positive multiple of 3, its stages; got {depth}")
        if embed_dim % num_heads:
            raise ValueError(f"num_heads must divide embed_dim; got {num_heads} and {embed_dim}")
        self.name, self.patch_size, self.num_prefix_tokens = name, (16, 16), 1
        self.embed_dim, self.depth = embed_dim, depth
        channels = [STEM_CHANNELS * channel_ratio * 2**stage for stage in range(3)]
        self.conv_dim = channels[-1]
        rates = [drop_path_rate * index / max(1, depth - 1) for index in range(depth)]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.conv1 = nn.Conv2d(3, STEM_CHANNELS, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)
        self.conv_1 = Bottleneck(STEM_CHANNELS, channels[0], project=True)
        self.trans_patch_conv = nn.Conv2d(STEM_CHANNELS, embed_dim, kernel_size=4, stride=4)
        self.trans_1 = _transformer_block(embed_dim, num_heads, rates[0])
        for index in range(1, depth):
            before, stage = (index - 1) // (depth // 3), index // (depth // 3)
            transformer = _transformer_block(embed_dim, num_heads, rates[index])
            widths = (channels[before], channels[stage], embed_dim)
            block = CoupledBlock(*widths, transformer, pooling=4 // 2**stage, last=index == depth - 1)
            self.add_module(f"conv_trans_{index + 1}", block)
        self.trans_norm = nn.LayerNorm(embed_dim, eps=1e-6)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        self.apply(_initialise)

    @property
    def coupled_blocks(self) -> list[CoupledBlock]:
        """All blocks but the first, in order."""
        return [module for module in self.children() if isinstance(module, CoupledBlock)]

    @property
    def blocks(self) -> list[Any]:
        """The transformer blocks, in order."""
        return [self.trans_1, *(block.trans_block for block in self.coupled_blocks)]

    def forward(
        self, images: Tensor, request: FeatureRequest | None = None, spatial: SpatialQuery | None = None
    ) -> Features:
        """Run the network; see ``Backbone.forward``."""
        run = BlockRunner(self, request, spatial)
        grid = self.grid_of(*images.shape[-2:])
        stem = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), kernel_size=3, stride=2, padding=1)
        tokens = self.trans_patch_conv(stem).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), tokens], dim=1)
        tokens = run(self.trans_1, run.append_spatial_token(tokens))
        image, _ = self.conv_1(stem)
        for block in self.coupled_blocks:
            image, tokens = block(image, tokens, grid, run)
        return replace(run.features(self.trans_norm(tokens), grid), conv_features=image.mean(dim=(2, 3)))


class CoupledBlock(nn.Module):
    """A bottleneck, a transformer block and a second bottleneck, which exchange features.

    If ``inputs`` and ``outputs`` (channels) differ, the image is halved; if ``last``, once more at the end.
    A patch is ``pooling`` x ``pooling`` pixels of the output image.
    """

    def __init__(
        self, inputs: int, outputs: int, embed_dim: int, transformer: nn.Module, pooling: int, last: bool
    ) -> None:
        super().__init__()
        hidden = outputs // REDUCTION
        self.cnn_block = Bottleneck(inputs, outputs, halve=inputs != outputs, project=inputs != outputs)
        self.squeeze_block = FeaturesDown(hidden, embed_dim, pooling)
        self.trans_block = transformer
        self.expand_block = FeaturesUp(embed_dim, hidden)
        self.fusion_block = Bottleneck(outputs, outputs, halve=last, project=last)

    def forward(self, image: Tensor, tokens: Tensor, grid: tuple[int, int], run: BlockRunner) -> tuple[Tensor, Tensor]:
        """Return the next image [B, outputs, height, width] and tokens [B, T, D]."""
        image, hidden = self.cnn_block(image)
        end = 1 + grid[0] * grid[1]
        before, patches, after = tokens[:, :1], tokens[:, 1:end], tokens[:, end:]
        tokens = torch.cat([2 * before, patches + self.squeeze_block(hidden), 2 * after], dim=1)
        tokens = run(self.trans_block, tokens)
        returned = self.expand_block(as_map(tokens[:, 1:end].transpose(1, 2), grid), hidden.shape[-2:])
        return self.fusion_block(image, returned)[0], tokens


class Bottleneck(nn.Module):
    """ResNet's bottleneck, which also returns its hidden features and can add others to them.

    ``halve`` halves height and width; ``project`` convolves the residual, which is needed if its shape changes.
    """

    def __init__(self, inputs: int, outputs: int, halve: bool = False, project: bool = False) -> None:
        super().__init__()
        hidden, stride = outputs // REDUCTION, 2 if halve else 1
        self.conv1 = nn.Conv2d(inputs, hidden, kernel_size=1, bias=False)
        self.bn1 = _norm(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = _norm(hidden)
        self.conv3 = nn.Conv2d(hidden, outputs, kernel_size=1, bias=False)
        self.bn3 = _norm(outputs)
        self.residual_conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if project else nn.Identity()
        self.residual_bn = _norm(outputs) if project else nn.Identity()

    def forward(self, image: Tensor, added: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the new image and its hidden features, to which ``added`` is added before the 3 x 3 convolution."""
        hidden = F.relu(self.bn1(self.conv1(image)), inplace=True)
        hidden = F.relu(self.bn2(self.conv2(hidden if added is None else hidden + added)), inplace=True)
        residual = self.residual_bn(self.residual_conv(image))
        return F.relu(self.bn3(self.conv3(hidden)) + residual, inplace=True), hidden


class FeaturesDown(nn.Module):
    """From the image to the patches [B, N, D]: a 1 x 1 convolution, the average over each patch, a norm."""

    def __init__(self, channels: int, embed_dim: int, pooling: int) -> None:
        super().__init__()
        self.pooling = pooling
        self.conv_project = nn.Conv2d(channels, embed_dim, kernel_size=1)
        self.ln = nn.LayerNorm(embed_dim, eps=1e-6)

    def forward(self, image: Tensor) -> Tensor:
        """Return the patch features of ``image``."""
        pooled = F.avg_pool2d(self.conv_project(image), self.pooling)
        return F.gelu(self.ln(pooled.flatten(2).transpose(1, 2)))


class FeaturesUp(nn.Module):
    """From the patches to the image: a 1 x 1 convolution, a norm, and nearest-neighbour upsampling."""

    def __init__(self, embed_dim: int, channels: int) -> None:
        super().__init__()
        self.conv_project = nn.Conv2d(embed_dim, channels, kernel_size=1)
        self.bn = _norm(channels)

    def forward(self, patches: Tensor, size: tuple[int, int]) -> Tensor:
        """Return ``patches`` [B, D, h, w] as an image [B, channels, *size]."""
        return F.interpolate(F.relu(self.bn(self.conv_project(patches))), size=size)


def _transformer_block(embed_dim: int, num_heads: int, drop_path: float) -> nn.Module:
    norm = partial(nn.LayerNorm, eps=1e-6)
    block: nn.Module = Block(embed_dim, num_heads, qkv_bias=True, drop_path=drop_path, norm_layer=norm)
    return block


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
