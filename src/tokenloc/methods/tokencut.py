"""TokenCut (Wang et al., CVPR 2022): the normalized cut of a graph of patches says where the object is."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tokenloc._names import one_of
from tokenloc.backbones import Backbone, FeatureRequest, Features
from tokenloc.methods._normalized_cut import Edges, eigenvector_maps, facing, object_masks
from tokenloc.methods.base import ClassMaps, Output, register_method
from tokenloc.methods.cam import CAM
from tokenloc.methods.frozen import Frozen

Polarity = Literal["peak", "border"]
Map = Literal["eigenvector", "mask"]


@register_method("tokencut")
class TokenCut(Frozen, CAM):
    """TokenCut.

    Nothing is trained to localize. The patches of an image are the nodes of a graph, joined where the keys of the last
    block are alike. The normalized cut that falls apart best separates the object from the rest: the second smallest
    eigenvector of (D - W) v = mu D v, as a map. It belongs to the image, not to a class.

    What to call the image is learned by CAM's head on the frozen backbone, which the paper leaves open.

    An eigenvector has no sign of its own. Released code takes the patch of the largest absolute value for the object's
    (``polarity="peak"``), which fails where the object fills the image.

    Args:
        backbone: any; the paper's is DINO ViT-S/16. It stays frozen and in evaluation mode.
        num_classes: C.
        tau: patches whose keys have a cosine above tau, in [0, 1), are joined. 0.2 is TokenCut's default, 0.05 its
            setting for localization by class labels.
        edges: the weight of a join: ``binary`` 1, as released, or ``cosine`` the cosine itself. Binary graphs need a
            tau for each backbone; ``cosine`` with ``tau=0`` does without.
        polarity: which side is the object: ``peak`` that of the largest absolute value, or ``border`` the one with
            the smaller share of its patches on the image's border.
        map: ``eigenvector``, or ``mask``: 1 on TokenCut's object, what exceeds the mean and is connected to the
            peak, else 0.

    Raises:
        ValueError: a value that is not among those above.
    """

    # The middle of [0, 1] lies near the mean, by which TokenCut bipartitions; on cub10 0.3 drew the best boxes.
    default_threshold = 0.3
    is_graph = False  # ONNX has no eigenvalue solver

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
        """Return the class scores of what ``pool`` returned."""
        return Output(self.head(pooled))

    def class_maps(self, images: Tensor) -> tuple[Tensor, ClassMaps]:
        """Return logits [B, C], and a function from classes [B, K] to the one map of each image, [B, K, h, w]."""
        features = self.backbone(images, FeatureRequest(keys=True))
        logits = self.from_pooled(self.pool(features)).logits
        location = self.object_map(features)[:, None]
        return logits, lambda classes: location.expand(-1, classes.shape[1], -1, -1)

    def intermediate_maps(self, images: Tensor, classes: Tensor) -> dict[str, Tensor]:
        """Return the eigenvector and the object that it cuts out; see ``Method.intermediate_maps``."""
        del classes
        location = self.eigenvector_map(self.backbone(images, FeatureRequest(keys=True)))
        return {"eigenvector": location, "object": object_masks(location).float()}

    def object_map(self, features: Features) -> Tensor:
        """Return the map of ``features``, made with keys: [B, h, w] float32; 0 everywhere where no cut is best."""
        location = self.eigenvector_map(features)
        if self.polarity == "border":
            location = facing(location, interior(location))
        return object_masks(location).float() if self.map == "mask" else location

    def eigenvector_map(self, features: Features) -> Tensor:
        """Return the second smallest eigenvector, [B, h, w] float32, its largest absolute value positive."""
        if features.keys is None:
            raise ValueError("the features were made without keys; ask for FeatureRequest(keys=True)")
        return eigenvector_maps(features.keys.detach(), features.grid, self.tau, self.edges)


def interior(maps: Tensor) -> Tensor:
    """Return the patches that are not on the border of ``maps`` [..., h, w]: [h, w] bool."""
    inside = torch.zeros(maps.shape[-2:], dtype=torch.bool, device=maps.device)
    inside[1:-1, 1:-1] = True
    return inside
