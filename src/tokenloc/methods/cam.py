"""CAM: Class Activation Mapping (Zhou et al., CVPR 2016), on patch tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tokenloc.backbones import Backbone, Features, as_map
from tokenloc.methods.base import ClassMaps, Method, Output, register_method


@register_method("cam")
class CAM(Method):
    """Class Activation Mapping.

    A linear layer classifies the mean patch token. The map of class c is what each patch contributes to its score, the
    product w_c x_n of the layer's weights and the patch (Eq. 2, with patch tokens in place of the units of the last
    convolution). The map leaves out the bias, which has no position. A convolution branch (Conformer) is not used.
    """

    uses_conv_branch = False

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__(backbone, num_classes)
        self.head = nn.Linear(backbone.embed_dim, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Output:
        """Run the training pass over ``images`` [B, 3, height, width]."""
        return Output(self.head(self.backbone(images).patches.mean(dim=1)))

    def class_maps(self, images: Tensor) -> tuple[Tensor, ClassMaps]:
        """Return logits [B, C], and a function from classes [B, K] to their maps [B, K, h, w]."""
        features = self.backbone(images)
        logits: Tensor = self.head(features.patches.mean(dim=1))
        return logits, lambda classes: self.activation_maps(features, classes)

    def activation_maps(self, features: Features, classes: Tensor) -> Tensor:
        """Return the maps of ``classes`` [B, K] int64 (Eq. 2): [B, K, h, w]."""
        rows = torch.einsum("bkd,bnd->bkn", self.head.weight[classes], features.patches)
        return as_map(rows, features.grid)
