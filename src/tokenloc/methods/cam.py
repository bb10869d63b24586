"""CAM: Class Activation Mapping (Zhou et al., CVPR 2016), on feature maps and patch tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tokenloc.backbones import Backbone, Features, as_map
from tokenloc.methods.base import ClassMaps, Method, Output, register_method


@register_method("cam")
class CAM(Method):
    """Class Activation Mapping.

    A linear layer classifies the mean of the backbone's units: positions of a CNN's last feature map, or patch tokens.
    The map of class c is what each unit contributes to its score, the product w_c x_n of the layer's weights and the
    unit (Eq. 2). The map leaves out the bias, which has no position. A convolution branch (Conformer) is not used.

    Args:
        backbone: any.
        conv_channels: channels of a 3 x 3 convolution with ReLU whose outputs are the units instead, as in the paper's
            networks with global average pooling: 1024 on VGG16 without its last pooling; None for no convolution.
    """

    uses_conv_branch = False
    advice = "the baseline, and the only method for convolutional networks; poor boxes with a ViT"
    needs_attention = False

    def __init__(self, backbone: Backbone, num_classes: int, *, conv_channels: int | None = None) -> None:
        super().__init__(backbone, num_classes)
        if conv_channels is not None and conv_channels < 1:
            raise ValueError(f"conv_channels must be at least 1; got {conv_channels}")
        self.conv = None if conv_channels is None else nn.Conv2d(backbone.embed_dim, conv_channels, 3, padding=1)
        self.head = nn.Linear(conv_channels or backbone.embed_dim, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Output:
        """Run the training pass over ``images`` [B, 3, height, width]."""
        return Output(self.head(self.units(self.backbone(images)).mean(dim=1)))

    def class_maps(self, images: Tensor) -> tuple[Tensor, ClassMaps]:
        """Return logits [B, C], and a function from classes [B, K] to their maps [B, K, h, w]."""
        features = self.backbone(images)
        units = self.units(features)
        logits: Tensor = self.head(units.mean(dim=1))
        return logits, lambda classes: self._maps(units, features.grid, classes)

    def activation_maps(self, features: Features, classes: Tensor) -> Tensor:
        """Return the maps of ``classes`` [B, K] int64 (Eq. 2): [B, K, h, w]."""
        return self._maps(self.units(features), features.grid, classes)

    def _maps(self, units: Tensor, grid: tuple[int, int], classes: Tensor) -> Tensor:
        return as_map(torch.einsum("bkd,bnd->bkn", self.head.weight[classes], units), grid)

    def units(self, features: Features) -> Tensor:
        """Return what is averaged and classified, [B, N, D]."""
        if self.conv is None:
            return features.patches
        return torch.relu(self.conv(features.patch_map())).flatten(2).transpose(1, 2)
