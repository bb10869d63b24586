"""timm's convolutional networks as backbones, for CAM."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tokenloc.backbones.base import Backbone
from tokenloc.backbones.features import FeatureRequest, Features, SpatialQuery

CLASSIFIERS = ("head", "fc", "pre_logits", "global_pool")


class ConvNet(Backbone):
    """A timm CNN. The units of its last feature map are the patches; there is no class token and no attention.

    Args:
        trunk: a timm network with ``forward_intermediates``, such as a ``ResNet``.
        name: its timm name, for error messages.
        largest_stride: the feature map is the last one whose stride does not exceed this; None for the last one.

    Raises:
        ValueError: the network has no feature map of such a stride.
    """

    def __init__(self, trunk: Any, name: str, largest_stride: int | None = None) -> None:
        super().__init__()
        strides = [int(stage["reduction"]) for stage in trunk.feature_info]
        suitable = [i for i, stride in enumerate(strides) if largest_stride is None or stride <= largest_stride]
        if not suitable:
            raise ValueError(f"{name} has feature maps of strides {strides}; got output_stride {largest_stride}")
        self.stage = suitable[-1]
        self.name, self.trunk = name, trunk
        self.embed_dim = int(trunk.feature_info[self.stage]["num_chs"])
        self.patch_size = (strides[self.stage], strides[self.stage])
        self.depth = self.num_prefix_tokens = 0

    def forward(
        self, images: Tensor, request: FeatureRequest | None = None, spatial: SpatialQuery | None = None
    ) -> Features:
        """Run the network on images of any size; see ``Backbone.forward``."""
        request = request or FeatureRequest()
        if request not in (FeatureRequest(), FeatureRequest(feature_maps=True)) or spatial is not None:
            self.require_attention("this request")
        stages = list(range(self.stage + 1)) if request.feature_maps else [self.stage]
        only = {"intermediates_only": True, "stop_early": True}
        *earlier, last = self.trunk.forward_intermediates(images, indices=stages, **only)
        maps = (*earlier, last) if request.feature_maps else None
        return Features(last.flatten(2).transpose(1, 2), None, (last.shape[2], last.shape[3]), feature_maps=maps)

    def prune(self) -> None:
        """Remove what does not contribute to the feature map: the classifier, and later stages."""
        self.trunk.prune_intermediate_layers([self.stage], prune_head=True)
        for name in CLASSIFIERS:
            if hasattr(self.trunk, name):
                setattr(self.trunk, name, nn.Identity())
