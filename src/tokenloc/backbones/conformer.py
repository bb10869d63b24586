"""Conformer: a convolution branch and a transformer branch that exchange features (Peng et al., ICCV 2021)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from tokenloc._names import unknown_name
from tokenloc.backbones.base import Backbone, Pass
from tokenloc.backbones.features import FeatureRequest, Features, SpatialQuery, as_map

PUBLISHED_AT = "https://github.com/pengzhiliang/Conformer#model-zoo"
STEM_CHANNELS = 64
NARROWING = 4  # a bottleneck works on a quarter of its channels

# The published sizes: 23.5, 37.7 and 83.3 million parameters with 1000 classes.
CONFORMERS: dict[str, dict[str, int]] = {
    "conformer_tiny_patch16": {"channel_ratio": 1, "embed_dim": 384, "num_heads": 6},
    "conformer_small_patch16": {"channel_ratio": 4, "embed_dim": 384, "num_heads": 6},
    "conformer_base_patch16": {"channel_ratio": 6, "embed_dim": 576, "num_heads": 9},
}


class Conformer(Backbone):
    """A Conformer, under the released parameter names and without its two classifiers.

    Three stages at 1/4, 1/8 and 1/16 of the image size hold ``depth`` / 3 blocks each. Every block but the first
    couples the branches: the convolution branch's narrow features, pooled to the patch grid, are added to the patch
    tokens in front of the transformer block, and its patch tokens, enlarged, to the narrow features of the next
    bottleneck. There are no position embeddings: any input whose sides are multiples of 16 pixels will do.

    Following the released code, the class token is doubled where patch tokens receive features; the paper does not
    say so. A spatial token (SAT), for which nothing is published, is treated as the class token is.

    Args:
        name: for messages.
        channel_ratio: channels of the first stage, in multiples of 64; the others have twice and four times as many.
        embed_dim: D, width of the tokens.
        num_heads: H; divides D.
        depth: number of transformer blocks, a multiple of 3.
        drop_path_rate: of the last transformer block; it grows linearly from 0.

    Raises:
        ValueError: where ``depth`` is no positive multiple of 3, or ``num_heads`` does not divide ``embed_dim``.
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
        _check_sizes(depth, embed_dim, num_heads)
        self.name = name
        self.patch_size = (16, 16)
        self.embed_dim, self.num_heads, self.depth = embed_dim, num_heads, depth
        self.num_prefix_tokens = 1
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
            stage, position = divmod(index, depth // 3)
            self.add_module(
                f"conv_trans_{index + 1}",
                CoupledBlock(
                    inputs=channels[stage - 1] if position == 0 else channels[stage],
                    outputs=channels[stage],
                    pooling=4 // 2**stage,
                    transformer=_transformer_block(embed_dim, num_heads, rates[index]),
                    embed_dim=embed_dim,
                    last=index == depth - 1,
                ),
            )
        self.trans_norm = nn.LayerNorm(embed_dim, eps=1e-6)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        self.apply(_initialise)

    @property
    def coupled_blocks(self) -> list[CoupledBlock]:
        """All blocks but the first, in their order."""
        return [module for module in self.children() if isinstance(module, CoupledBlock)]

    @property
    def blocks(self) -> list[Any]:
        """The transformer blocks, in their order."""
        return [self.trans_1, *(block.trans_block for block in self.coupled_blocks)]

    def forward(
        self, images: Tensor, request: FeatureRequest | None = None, spatial: SpatialQuery | None = None
    ) -> Features:
        """Run the network; see ``Backbone.forward``."""
        run = Pass(self, request, spatial)
        grid = self.grid_of(*images.shape[-2:])
        stem = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), kernel_size=3, stride=2, padding=1)
        tokens = self.trans_patch_conv(stem).flatten(2).transpose(1, 2)
        tokens = run.extended(torch.cat([self.cls_token.expand(len(images), -1, -1), tokens], dim=1))
        tokens = run(self.trans_1, tokens)
        image, _ = self.conv_1(stem)
        for block in self.coupled_blocks:
            image, tokens = block(image, tokens, grid, run)
        return replace(run.features(self.trans_norm(tokens), grid), conv_features=image.mean(dim=(2, 3)))


class CoupledBlock(nn.Module):
    """A bottleneck, a transformer block and a second bottleneck, with features passing down and up between them.

    Args:
        inputs: channels of the image that comes in.
        outputs: channels of the image that goes out; where they differ, a new stage begins at half the size.
        pooling: pixels of the new image per patch, along each side.
        transformer: the transformer block.
        embed_dim: D.
        last: whether the second bottleneck halves the image once more.
    """

    def __init__(
        self, inputs: int, outputs: int, pooling: int, transformer: nn.Module, embed_dim: int, last: bool
    ) -> None:
        super().__init__()
        narrow = outputs // NARROWING
        self.cnn_block = Bottleneck(inputs, outputs, halve=inputs != outputs, project=inputs != outputs)
        self.squeeze_block = FeaturesDown(narrow, embed_dim, pooling)
        self.trans_block = transformer
        self.expand_block = FeaturesUp(embed_dim, narrow)
        self.fusion_block = Bottleneck(outputs, outputs, halve=last, project=last)

    def forward(self, image: Tensor, tokens: Tensor, grid: tuple[int, int], run: Pass) -> tuple[Tensor, Tensor]:
        """Return the next image [B, outputs, height, width] and tokens [B, T, D]; ``run`` runs the transformer."""
        image, narrow = self.cnn_block(image)
        end = 1 + grid[0] * grid[1]
        before, patches, after = tokens[:, :1], tokens[:, 1:end], tokens[:, end:]
        tokens = torch.cat([2 * before, patches + self.squeeze_block(narrow), 2 * after], dim=1)
        tokens = run(self.trans_block, tokens)
        returned = self.expand_block(as_map(tokens[:, 1:end].transpose(1, 2), grid), narrow.shape[-2:])
        return self.fusion_block(image, returned)[0], tokens


class Bottleneck(nn.Module):
    """ResNet's bottleneck, which shows its narrow features and takes others into them.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        halve: halve height and width.
        project: a convolution on the residual, needed where its shape changes.
    """

    def __init__(self, inputs: int, outputs: int, halve: bool = False, project: bool = False) -> None:
        super().__init__()
        narrow, stride = outputs // NARROWING, 2 if halve else 1
        self.conv1 = nn.Conv2d(inputs, narrow, kernel_size=1, bias=False)
        self.bn1 = _norm(narrow)
        self.conv2 = nn.Conv2d(narrow, narrow, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = _norm(narrow)
        self.conv3 = nn.Conv2d(narrow, outputs, kernel_size=1, bias=False)
        self.bn3 = _norm(outputs)
        self.residual_conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if project else nn.Identity()
        self.residual_bn = _norm(outputs) if project else nn.Identity()

    def forward(self, image: Tensor, added: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the new image and its narrow features [B, outputs / 4, height, width].

        Args:
            image: [B, inputs, height, width].
            added: what is added to the narrow features in front of the 3 x 3 convolution.
        """
        narrow = F.relu(self.bn1(self.conv1(image)), inplace=True)
        narrow = F.relu(self.bn2(self.conv2(narrow if added is None else narrow + added)), inplace=True)
        residual = self.residual_bn(self.residual_conv(image))
        return F.relu(self.bn3(self.conv3(narrow)) + residual, inplace=True), narrow


class FeaturesDown(nn.Module):
    """From the image to the patches: a 1 x 1 convolution, the average over each patch, a norm."""

    def __init__(self, channels: int, embed_dim: int, pooling: int) -> None:
        super().__init__()
        self.pooling = pooling
        self.conv_project = nn.Conv2d(channels, embed_dim, kernel_size=1)
        self.ln = nn.LayerNorm(embed_dim, eps=1e-6)

    def forward(self, image: Tensor) -> Tensor:
        """Turn [B, channels, height, width] into patch features [B, N, D]."""
        pooled = F.avg_pool2d(self.conv_project(image), self.pooling)
        return F.gelu(self.ln(pooled.flatten(2).transpose(1, 2)))


class FeaturesUp(nn.Module):
    """From the patches to the image: a 1 x 1 convolution, a norm, and each patch repeated over its pixels."""

    def __init__(self, embed_dim: int, channels: int) -> None:
        super().__init__()
        self.conv_project = nn.Conv2d(embed_dim, channels, kernel_size=1)
        self.bn = _norm(channels)

    def forward(self, patches: Tensor, size: tuple[int, int]) -> Tensor:
        """Turn patches [B, D, h, w] into an image [B, channels, *size]."""
        return F.interpolate(F.relu(self.bn(self.conv_project(patches))), size=size)


def create_conformer(name: str, **options: Any) -> Conformer:
    """Return the published Conformer ``name``, with random weights.

    Raises:
        ValueError: an unknown name or option, or sizes that do not fit together.
    """
    if name not in CONFORMERS:
        raise unknown_name("Conformer", name, CONFORMERS)
    try:
        return Conformer(name, **{**CONFORMERS[name], **options})
    except TypeError as error:
        raise ValueError(f"the backbone {name} does not take these options: {error}") from error


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-6)


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


def _check_sizes(depth: int, embed_dim: int, num_heads: int) -> None:
    if depth < 3 or depth % 3:
        raise ValueError(f"the depth of a Conformer must be a positive multiple of 3, its stages; got {depth}")
    if embed_dim % num_heads:
        raise ValueError(f"num_heads must divide embed_dim; got {num_heads} and {embed_dim}")
