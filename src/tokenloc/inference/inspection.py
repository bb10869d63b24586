"""What is inside a model for an image: attention, features and similarities in every block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tokenloc.backbones import FeatureRequest, ViT
from tokenloc.boxes import scaled_map
from tokenloc.data import evaluation_transform
from tokenloc.inference.inputs import ImageInput, as_image
from tokenloc.inference.localization import Localization
from tokenloc.inference.localizer import Localizer

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Inspection:
    """The inside of a model for one image of N patches; maps on the image are [height, width] in [0, 1].

    Attributes:
        results: localizations of the most probable classes, best first.
        maps: the method's intermediate maps on the image, by title.
        figures: further maps of the paper's figures on the image, by title.
        refinement: the map of the most probable class before and in the course of refinement, on the image, by title
            (LCAR, Figs. 3 and 4); empty without steps.
        attention: the class token's attention to the patches in each block (TS-CAM, Figs. 11 and 12), mean over heads,
            each scaled to [0, 1] on the image; without a class token none.
        feature_maps: the tokens that enter the first block and leave each block, or the maps of a CNN's stages,
            [D, h, w] each (TS-CAM, Fig. 4).
        similarities: cosines between all patches, for each of ``feature_maps``, [N, N] in [-1, 1] (TS-CAM, Fig. 9).
        positions: cosines between the position embeddings of all patches, [N, N]; None without such embeddings.
        distances: Euclidean distances between the patches that enter the first block, [N, N] (TS-CAM, Fig. 5).
    """

    results: list[Localization]
    maps: dict[str, Array]
    figures: dict[str, Array]
    refinement: dict[str, Array]
    attention: list[Array]
    feature_maps: list[Array]
    similarities: list[Array]
    positions: Array | None
    distances: Array


@torch.inference_mode()
def inspect_image(localizer: Localizer, image: ImageInput, classes: int = 5) -> Inspection:
    """Return what is inside the model of ``localizer`` for an image, and the ``classes`` most probable classes.

    Raises:
        FileNotFoundError, ValueError: if the image cannot be read.
    """
    model, protocol = localizer.model, localizer.protocol
    tensor, frame = evaluation_transform(localizer.metadata.preprocessing, protocol.input_frame)(as_image(image))
    has_class_token = model.backbone.has_class_token
    request = FeatureRequest(feature_maps=True, class_attention=has_class_token)
    features = model.features(tensor[None].to(localizer.predictor.device), request)
    maps = [each[0].float() for each in features.feature_maps or ()]
    tokens = [each.flatten(1).T for each in maps]
    rows = features.require("class_attention")[0] if has_class_token else ()
    attention = [row.reshape(features.grid).float().cpu().numpy() for row in rows]
    positions = model.backbone.positions(features.grid) if isinstance(model.backbone, ViT) else None
    return Inspection(
        results=localizer.top(image, min(classes, model.num_classes)),
        maps=localizer.intermediate_maps(image),
        figures=localizer.intermediate_maps(image, figures=True),
        refinement=localizer.refinement_maps(image) if localizer.predictor.steps else {},
        attention=[frame.map_to_original(scaled_map(each, frame.input_size, protocol)) for each in attention],
        feature_maps=[each.cpu().numpy() for each in maps],
        similarities=[_cosines(each).cpu().numpy() for each in tokens],
        positions=None if positions is None else _cosines(positions[0, -len(tokens[0]) :]).cpu().numpy(),
        distances=torch.cdist(tokens[0], tokens[0]).cpu().numpy(),
    )


def _cosines(tokens: Tensor) -> Tensor:
    """Return the cosines between ``tokens`` [N, D], [N, N]."""
    directions = F.normalize(tokens.float(), dim=1)
    return directions @ directions.T
