"""LCAR: Local Consistency Aware Re-prediction (Pan et al., AAAI 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenloc._names import one_of
from tokenloc.backbones import Backbone, FeatureRequest, Features
from tokenloc.methods._normalized_cut import Edges, oriented
from tokenloc.methods._scaling import min_max
from tokenloc.methods.base import ClassMaps, Output, register_method, shared_map
from tokenloc.methods.global_batch import cross_entropy, global_mean
from tokenloc.methods.tokencut import Map, TokenCut

Teacher = Literal["mlp", "linear"]
Polarity = Literal["seed", "peak", "border"]


@register_method("lcar")
class LCAR(TokenCut):
    """Local Consistency Aware Re-prediction.

    TokenCut's eigenvector map outlines the salient regions; a class activation map decides which side of the cut is the
    object (Eqs. 2, 10, 11). The class activation map comes from a student head on the patch tokens. A teacher head,
    which also sees the class token, distils its predictions into the student (Eqs. 3 to 6) and gives the class scores.

    The second half of the paper refines the map. It applies to any method and is ``tokenloc.refine``; ``refinement``
    names the steps. The paper chooses the side after affinity refinement, on pixels; here it is chosen before, on
    patches; only the mean that separates the sides differs.

    Args:
        backbone: with a class token; the paper's is DINO ViT-S/16. It stays frozen and in evaluation mode.
        teacher: ``mlp`` is a hidden layer of twice the token width, GELU, and a linear layer; ``linear`` the linear
            layer only, the paper's choice for ILSVRC.
        label_weight: alpha in Eq. 6, in [0, 1]: the weight of the labels in the student's loss; 1 is plain CAM.
        temperature: T in Eq. 6, positive.
        seed_threshold: beta in Eq. 2, in [0, 1]: the seed is where the activation map, scaled to [0, 1], exceeds it.
        tau: see ``TokenCut``.
        edges: see ``TokenCut``.
        polarity: which side of the cut is the object: ``seed`` is the method; ``peak`` and ``border`` are those of
            ``TokenCut``, LCAR without SD-CAM (Table 1).
        map: see ``TokenCut``; the mask is of the side that ``polarity`` chooses.
        refinement: the steps of ``tokenloc.refine`` that follow (Table 1): ``affinity`` is ARM, ``reprediction`` SGRM,
            with ``{stride: 1, vote: false}`` in the paper's form; an empty sequence keeps the eigenvector map.
    """

    advice = "for DINO backbones: quick to train; TokenCut with a refinement that is slow at test time"
    test_options: ClassVar[tuple[str, ...]] = ("seed_threshold", "tau", "edges", "polarity", "map")

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        teacher: Teacher = "mlp",
        label_weight: float = 0.3,
        temperature: float = 3.0,
        seed_threshold: float = 0.6,
        tau: float = 0.2,
        edges: Edges = "binary",
        polarity: Polarity = "seed",
        map: Map = "eigenvector",
        refinement: Sequence[str | Mapping[str, Any]] = ("affinity", "reprediction"),
    ) -> None:
        one_of("polarity", polarity, Polarity)
        unseeded = "peak" if polarity == "seed" else polarity
        super().__init__(backbone, num_classes, tau=tau, edges=edges, polarity=unseeded, map=map)
        backbone.require_class_token("lcar")
        for name, value in {"label_weight": label_weight, "seed_threshold": seed_threshold}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must lie in [0, 1]; got {value}")
        if not temperature > 0:
            raise ValueError(f"temperature must be positive; got {temperature}")
        self.seeded = polarity == "seed"
        self.label_weight, self.seed_threshold, self.temperature = label_weight, seed_threshold, temperature
        self.refinement = (refinement,) if isinstance(refinement, str) else tuple(refinement)
        width, last = 2 * backbone.embed_dim, nn.Linear(2 * backbone.embed_dim, num_classes)
        mlp = one_of("teacher", teacher, Teacher) == "mlp"
        self.teacher = nn.Sequential(nn.Linear(width, width), nn.GELU(), last) if mlp else last

    def pool(self, features: Features) -> Tensor:
        """Return the class token and the mean patch token, [B, 2 * D]."""
        return torch.cat([features.require("class_token"), features.patches.mean(dim=1)], dim=1)

    def from_pooled(self, pooled: Tensor) -> Output:
        """Return the teacher's class scores z^t (Eq. 3); ``auxiliary`` has those of the student, [B, C]."""
        patches = pooled[:, self.backbone.embed_dim :]
        return Output(self.teacher(pooled), {"student": self.head(patches)})

    def loss(self, output: Output, labels: Tensor) -> dict[str, Tensor]:
        """Return the terms ``teacher`` (Eq. 4), ``student`` and ``distillation`` (Eq. 6), and ``total``."""
        student = output.auxiliary["student"]
        terms = {
            "teacher": cross_entropy(output.logits, labels),
            "student": cross_entropy(student, labels),
            "distillation": distillation(output.logits, student, self.temperature),
        }
        student_loss = self.label_weight * terms["student"] + (1 - self.label_weight) * terms["distillation"]
        return {**terms, "total": terms["teacher"] + student_loss}

    def class_maps(self, images: Tensor) -> tuple[Tensor, ClassMaps]:
        """Return the teacher's logits [B, C] and a function from classes [B, K] to maps that differ in their sign."""
        features = self.backbone(images, FeatureRequest(keys=True))
        logits = self.from_pooled(self.pool(features)).logits
        if not self.seeded:
            return logits, shared_map(self.object_map(features))
        location = self.eigenvector_map(features)[:, None]
        return logits, lambda classes: self.located(oriented(location, self.seeds(features, classes)))

    def intermediate_maps(self, images: Tensor, classes: Tensor) -> dict[str, Tensor]:
        """Return activation map, seed and eigenvector for ``classes`` [B]; see ``Method.intermediate_maps``."""
        features = self.backbone(images, FeatureRequest(keys=True))
        activation = self.activation_maps(features, classes[:, None])[:, 0]
        seed = self.seeds(features, classes[:, None])[:, 0].float()
        return {"activation map": activation, "seed": seed, "eigenvector": self.eigenvector_map(features)}

    def seeds(self, features: Features, classes: Tensor) -> Tensor:
        """Return the seeds of ``classes`` [B, K], where their activation is high, [B, K, h, w] bool (Eq. 2)."""
        return min_max(self.activation_maps(features, classes)) > self.seed_threshold


def distillation(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Return KL(teacher || student) of softmax(logits [B, C] / temperature) (Eq. 6), without gradient to the teacher.

    >>> same = torch.tensor([[1.0, 2.0]])
    >>> distillation(same, same, 3.0).item()
    0.0
    """
    target = (teacher.detach() / temperature).log_softmax(dim=1)
    predicted = (student / temperature).log_softmax(dim=1)
    return global_mean(F.kl_div(predicted, target, reduction="none", log_target=True).sum(dim=1))
