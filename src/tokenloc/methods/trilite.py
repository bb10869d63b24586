"""TriLite: foreground, background and ambiguous regions on a frozen transformer (Sabaghi and Oramas, CVPR 2026)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenloc._names import one_of
from tokenloc.backbones import Backbone, Features
from tokenloc.methods.base import ClassMaps, Frozen, Output, register_method, shared_map
from tokenloc.methods.global_batch import cross_entropy, global_mean

REGIONS = ("ambiguous", "foreground", "background")
EPSILON = 1e-6
Map = Literal["relative", "foreground"]


@register_method("trilite")
class TriLite(Frozen):
    """TriLite: efficient localization with universal visual features and three regions (arXiv 2602.23120).

    A convolution, a normalisation and a softmax over three channels divide the patch tokens F of a frozen transformer
    into regions M. Each region r has the feature f_r = sum_n M_rn F_n / (sum_n M_rn + epsilon). One linear layer
    classifies f of the foreground and of the background; another one classifies the class token and gives the class
    scores. For the class y of the image, the loss is

        -log p_y(class token) - log p_y(f_foreground) - log(1 - p_y(f_background)).

    No term depends on the ambiguous region, which can take the patches that would harm both others. The map is the same
    for all classes.

    The authors' code is not released, and we worked from summaries of the paper: the three regions, their layers, the
    backbone and the terms are the paper's. Ours are the size of the convolution, the start with equal regions (a scale
    of 0 in the normalisation), the equal weights of the terms, the map ``relative``, and the training settings; see the
    page of the method.

    On several devices, the normalisation is over the images of each device.

    Args:
        backbone: with a class token; the paper's is DINOv2 ViT-S/14. It stays frozen and in evaluation mode.
        num_classes: C, at least 2.
        kernel_size: of the convolution; odd.
        map: ``foreground``, or ``relative``: foreground / (foreground + background), which lies in (0, 1) also where
            most of a patch is ambiguous.
    """

    advice = "for a frozen backbone: trained in seconds from cached features; one map for all classes"
    default_threshold = 0.4  # on the training images of cub10
    uses_conv_branch = False
    test_options: ClassVar[tuple[str, ...]] = ("map",)

    def __init__(self, backbone: Backbone, num_classes: int, *, kernel_size: int = 1, map: Map = "relative") -> None:
        super().__init__(backbone, num_classes)
        backbone.require_class_token("trilite")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive; got {kernel_size}")
        if num_classes < 2:
            raise ValueError(f"trilite contrasts each class with the others and needs 2; got {num_classes}")
        self.map = one_of("map", map, Map)
        width = backbone.embed_dim
        conv = nn.Conv2d(width, len(REGIONS), kernel_size, padding=kernel_size // 2, bias=False)
        norm = nn.BatchNorm2d(len(REGIONS))
        nn.init.zeros_(norm.weight)  # the regions start equal: with a random start, some seeds swap them
        self.regions = nn.Sequential(conv, norm, nn.Softmax(dim=1))
        self.head = nn.Linear(width, num_classes)
        self.region_head = nn.Linear(width, num_classes)

    def pool(self, features: Features) -> Tensor:
        """Return the patch tokens as an image, below which one row repeats the class token: [B, D, h + 1, w]."""
        token = features.require("class_token")[:, :, None, None].expand(-1, -1, 1, features.grid[1])
        return torch.cat([features.patch_map(), token], dim=2)

    def from_pooled(self, pooled: Tensor) -> Output:
        """Return the class scores of the class token.

        ``auxiliary`` has ``regions``, M [B, 3, h, w] in the order of ``REGIONS``, and the class scores [B, C] of
        ``foreground`` and ``background``.
        """
        patches, token = pooled[:, :, :-1], pooled[:, :, -1, 0]
        regions = self.regions(patches)
        weights = regions.flatten(2)
        sums = torch.einsum("brn,bdn->brd", weights, patches.flatten(2))
        scores = self.region_head(sums / (weights.sum(dim=2, keepdim=True) + EPSILON))
        named = dict(zip(REGIONS[1:], scores[:, 1:].unbind(1), strict=True))
        return Output(self.head(token), {"regions": regions, **named})

    def loss(self, output: Output, labels: Tensor) -> dict[str, Tensor]:
        """Return the terms ``classification``, ``foreground`` and ``background``, and their ``total``."""
        terms = {
            "classification": cross_entropy(output.logits, labels),
            "foreground": cross_entropy(output.auxiliary["foreground"], labels),
            "background": absence(output.auxiliary["background"], labels),
        }
        return {**terms, "total": torch.stack(list(terms.values())).sum()}

    def class_maps(self, images: Tensor) -> tuple[Tensor, ClassMaps]:
        """Return logits [B, C], and a function from classes [B, K] to the map for each, [B, K, h, w] in (0, 1)."""
        output = self(images)
        _, foreground, background = output.auxiliary["regions"].unbind(1)
        found = foreground if self.map == "foreground" else foreground / (foreground + background).clamp(min=EPSILON)
        return output.logits, shared_map(found)

    def intermediate_maps(self, images: Tensor, classes: Tensor) -> dict[str, Tensor]:
        """Return the three regions, in (0, 1); see ``Method.intermediate_maps``."""
        del classes
        return dict(zip(REGIONS, self(images).auxiliary["regions"].unbind(1), strict=True))


def absence(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the ``global_mean`` of -log(1 - p_y), in nats, of ``logits`` [B, C] and class indices ``labels`` [B].

    It is the softplus of the log-odds of y, which stays finite where p_y rounds to 1.

    >>> round(absence(torch.zeros(1, 4), torch.tensor([2])).item(), 4)  # -log(3 / 4)
    0.2877
    """
    index = labels[:, None]
    others = logits.float().scatter(1, index, -torch.inf).logsumexp(dim=1)
    return global_mean(F.softplus(logits.float().gather(1, index)[:, 0] - others))
