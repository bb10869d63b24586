"""TokenCut (Wang et al., CVPR 2022): a normalized cut of the patches separates the object from the background."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from tokenloc._names import one_of
from tokenloc.backbones import Backbone, FeatureRequest, Features
from tokenloc.methods._normalized_cut import Edges, eigenvector_maps, object_masks, oriented
from tokenloc.methods.base import ClassMaps, Frozen, Output, register_method, shared_map
from tokenloc.methods.cam import CAM

Polarity = Literal["peak", "border"]
Map = Literal["eigenvector", "mask"]


@register_method("tokencut")
class TokenCut(Frozen, CAM):
    """TokenCut.

    Localization is not trained. The patches of an image are the nodes of a graph, with edges between patches whose keys
    in the last block are similar. The map is the second smallest eigenvector of (D - W) v = mu D v, the relaxation of
    the graph's normalized cut. It is the same for all classes, which CAM's head learns on the frozen backbone.

    The sign of an eigenvector is arbitrary. Released code assigns the patch of the largest absolute value to the object
    (``polarity="peak"``), which fails if the object fills the image.

    Args:
        backbone: any; the paper's is DINO ViT-S/16. It stays frozen and in evaluation mode.
        tau: patches whose keys have a cosine above tau, in [0, 1), are connected. 0.2 is TokenCut's default, 0.05 its
            setting for localization with class labels.
        edges: weight of a connection: ``binary`` 1, as released, or ``cosine`` the cosine. Binary graphs need a tau for
            each backbone; ``cosine`` with ``tau=0`` does not.
        polarity: which side is the object: ``peak`` the side of the largest absolute value, ``border`` the side with
            the smaller fraction of its patches on the image border.
        map: ``eigenvector``, or ``mask``: 1 on TokenCut's object (above the mean and connected to the peak), else 0.
    """

    # TokenCut bipartitions at the mean, which is near the middle of [0, 1]; on cub10, 0.3 gave the best boxes.
    advice = "for DINO backbones: quick to train; cuts out the salient object, whatever its class"
    default_threshold = 0.3
    needs_attention = True
    exportable = False  # ONNX has no eigenvalue solver
    test_options: ClassVar[tuple[str, ...]] = ("tau", "edges", "polarity", "map")

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        tau: float = 0.2,
        edges: Edges = "binary",
        polarity: Polarity = "peak",
        map: Map = "eigenvector",
    ) -> None:
        super().__init__(backbone, num_classes)
        if not 0 <= tau < 1:
            raise ValueError(f"tau is a cosine in [0, 1); got {tau}")
        self.tau, self.edges = tau, one_of("edges", edges, Edges)
        self.polarity, self.map = one_of("polarity", polarity, Polarity), one_of("map", map, Map)

    def pool(self, features: Features) -> Tensor:
        """Return the mean patch token, [B, D]."""
        return features.patches.mean(dim=1)

    def from_pooled(self, pooled: Tensor) -> Output:
        """Return the class scores of ``pooled``."""
        return Output(self.head(pooled))

    def class_maps(self, images: Tensor) -> tuple[Tensor, ClassMaps]:
        """Return logits [B, C], and a function from classes [B, K] to the one map of each image, [B, K, h, w]."""
        features = self.backbone(images, FeatureRequest(keys=True))
        return self.from_pooled(self.pool(features)).logits, shared_map(self.object_map(features))

    def intermediate_maps(self, images: Tensor, classes: Tensor) -> dict[str, Tensor]:
        """Return the eigenvector and TokenCut's object; see ``Method.intermediate_maps``."""
        del classes
        location = self.eigenvector_map(self.backbone(images, FeatureRequest(keys=True)))
        return {"eigenvector": location, "object": object_masks(location).float()}

    def object_map(self, features: Features) -> Tensor:
        """Return the map [B, h, w] float32 of features with keys; 0 everywhere if no cut is best."""
        location = self.eigenvector_map(features)
        if self.polarity == "border":
            inside = torch.zeros(location.shape[-2:], dtype=torch.bool, device=location.device)
            inside[1:-1, 1:-1] = True
            location = oriented(location, inside)
        return self.located(location)

    def located(self, maps: Tensor) -> Tensor:
        """Return eigenvector maps [..., h, w] oriented to the object, as they are or as TokenCut's objects."""
        return object_masks(maps.flatten(0, -3)).view_as(maps).float() if self.map == "mask" else maps

    def eigenvector_map(self, features: Features) -> Tensor:
        """Return the second smallest eigenvector, [B, h, w] float32, its largest absolute value positive."""
        return eigenvector_maps(features.require("keys").detach(), features.grid, self.tau, self.edges)
