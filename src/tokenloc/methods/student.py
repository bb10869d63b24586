"""Student: the knowledge distillation (Hinton et al., 2015) of a model's maps into a head of high resolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenloc.backbones import Backbone, FeatureRequest, Features
from tokenloc.methods._scaling import min_max
from tokenloc.methods.base import ClassMaps, Method, Output, pick_classes, register_method, shared_map
from tokenloc.methods.global_batch import cross_entropy, global_mean
from tokenloc.methods.tscam import PooledClassifier, semantic_head

PATCH = 16  # pixels of a patch, for the convolutions on the image


@register_method("student")
class Student(Method):
    """A small head of high resolution that learns the maps of another model; see `tokenloc distill`.

    The patch tokens of four blocks are upsampled twice by convolutions, the second time together with convolutions of
    the image; the map has 4 x 4 cells for each patch, and is the same for all classes. TS-CAM's head on the last tokens
    learns the classes.

    In training, images may have a fourth channel: the target map, scaled to [0, 1], negative where there is none. The
    student learns, by binary cross-entropy, the probability sigmoid((target - teacher_threshold) / temperature) of the
    object. Without the channel, the target is the class map of the label, scaled to [0, 1].

    Args:
        backbone: any transformer; of a convolution branch (Conformer) only the classifier depends.
        width: channels of the head.
        teacher_threshold: of the target maps: where the object ends; in [0, 1].
        temperature: of the targets: the smaller, the harder the boundary; positive.
    """

    advice = "one pass, but boxes as tight as those of many: learns the maps of a trained model (tokenloc distill)"
    default_threshold = 0.5
    learns_maps = True

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        width: int = 48,
        teacher_threshold: float = 0.5,
        temperature: float = 0.1,
    ) -> None:
        super().__init__(backbone, num_classes)
        if not 0 <= teacher_threshold <= 1:
            raise ValueError(f"teacher_threshold is of maps in [0, 1]; got {teacher_threshold}")
        if temperature <= 0 or width < 1:
            raise ValueError(f"temperature must be positive, and width at least 1; got {temperature} and {width}")
        self.teacher_threshold, self.temperature = teacher_threshold, temperature
        self.head = semantic_head("conv2d", backbone.embed_dim, num_classes)
        self.pool = PooledClassifier(backbone, num_classes)
        self.decoder = Decoder(backbone.embed_dim, width)
        self.taps = [round(backbone.depth * part / 4) for part in range(1, 5)]

    def forward(self, images: Tensor) -> Output:
        """Run the training pass over ``images`` [B, 3 or 4, height, width]; see the class for the fourth channel.

        ``auxiliary`` has ``map``, the logits of the map, [B, h, w]; ``semantic``, the class maps [B, C, rows, columns];
        and ``target`` [B, height, width] if it is given.
        """
        features, semantic, located = self._run(images[:, :3])
        target = {"target": images[:, 3]} if images.shape[1] > 3 else {}
        return Output(self.pool(semantic, features), {"map": located, "semantic": semantic, **target})

    def class_maps(self, images: Tensor) -> tuple[Tensor, ClassMaps]:
        """Return logits [B, C], and a function from classes [B, K] to the one map of each image, [B, K, h, w]."""
        features, semantic, located = self._run(images)
        return self.pool(semantic, features), shared_map(located.sigmoid())

    def loss(self, output: Output, labels: Tensor) -> dict[str, Tensor]:
        """Return ``cross_entropy`` of the classes, ``map``, the mean over cells with a target, and ``total``."""
        terms = {"cross_entropy": cross_entropy(output.logits, labels)}
        target = output.auxiliary.get("target")
        if target is None:
            target = min_max(pick_classes(output.auxiliary["semantic"], labels[:, None])[:, 0].detach().float())
        terms["map"] = global_mean(self._map_loss(output.auxiliary["map"].float(), target.float()))
        return {**terms, "total": torch.stack(list(terms.values())).sum()}

    def _map_loss(self, located: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy [B] of logits [B, h, w], on the finer of their grid and that of the ``target``."""
        finer = max(located, target, key=lambda map_: map_.shape[-1]).shape[-2:]
        located, target = (F.interpolate(map_[:, None], finer, mode="bilinear") for map_ in (located, target))
        known = (target >= 0).flatten(1).float()
        soft = torch.sigmoid((target - self.teacher_threshold) / self.temperature)
        losses = F.binary_cross_entropy_with_logits(located, soft, reduction="none").flatten(1)
        return (losses * known).sum(dim=1) / known.sum(dim=1).clamp(min=1)

    def _run(self, images: Tensor) -> tuple[Features, Tensor, Tensor]:
        """Return features, class maps [B, C, rows, columns] and the logits of the map [B, h, w]."""
        features = self.features(images, FeatureRequest(feature_maps=True))
        maps = features.feature_maps or ()
        semantic: Tensor = self.head(features.patch_map())
        return features, semantic, self.decoder(images, [maps[block] for block in self.taps])


class Decoder(nn.Module):
    """From four maps of patch tokens, ``embed_dim`` wide, and the image to a map of 4 x 4 cells for each patch."""

    def __init__(self, embed_dim: int, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(embed_dim) for _ in range(4))
        self.tokens = nn.Linear(4 * embed_dim, width)
        self.coarse = nn.Conv2d(width, width, 3, padding=1)
        self.image = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.GELU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.GELU()
        )
        self.fine = nn.Sequential(
            nn.Conv2d(width + 32, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, 1, 1),
        )

    def forward(self, images: Tensor, tokens: list[Tensor]) -> Tensor:
        """Return logits [B, 4 rows, 4 columns] of ``images`` [B, 3, H, W] and four ``tokens`` [B, D, rows, columns]."""
        pairs = zip(self.norms, tokens, strict=True)
        mixed = self.tokens(torch.cat([norm(map_.permute(0, 2, 3, 1)) for norm, map_ in pairs], dim=3))
        coarse = F.gelu(self.coarse(_doubled(F.gelu(mixed).permute(0, 3, 1, 2))))
        size = [PATCH * side for side in tokens[0].shape[-2:]]
        if list(images.shape[-2:]) != size:
            images = F.interpolate(images, size, mode="bilinear")
        fine: Tensor = self.fine(torch.cat([_doubled(coarse), self.image(images)], dim=1))
        return fine[:, 0]


def _doubled(maps: Tensor) -> Tensor:
    return F.interpolate(maps, scale_factor=2, mode="bilinear")
