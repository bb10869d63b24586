"""Backbones: timm's vision transformers and CNNs, and the Conformers, with attention outputs on request."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from tokenloc._names import matching, unknown_name
from tokenloc.backbones.base import Backbone
from tokenloc.backbones.conformer import CONFORMERS, WEIGHTS_URL, Conformer
from tokenloc.backbones.convnet import ConvNet
from tokenloc.backbones.features import FeatureRequest, Features, Gate, SpatialQuery, as_map
from tokenloc.backbones.vit import ViT
from tokenloc.backbones.weights import load_into, read_weights, require_download, unavailable

__all__ = [
    "Backbone",
    "Conformer",
    "ConvNet",
    "FeatureRequest",
    "Features",
    "Gate",
    "Normalisation",
    "SpatialQuery",
    "ViT",
    "as_map",
    "check_options",
    "create_backbone",
    "list_backbones",
]

FAMILIES = ("vision_transformer", "deit", "eva")
CONVOLUTIONAL = ("vgg", "resnet", "inception_v3", "convnext")
UNDILATED = ("vgg", "inception_v3")  # timm has no ``output_stride`` for them
# Members of these families with other blocks (parallel branches, differential attention, post-norm).
UNSUPPORTED = re.compile("18x2|_rpn_|_xp_|wee_|^vit_dlittle_|_rope_|_sapiens2$|^vit_pe_|^eva02_enormous_")
# timm.create_model loads files or downloads for these arguments; they do not describe a network.
_OTHER_ARGUMENTS = {
    name for name, one in inspect.signature(timm.create_model).parameters.items() if one.kind is not one.VAR_KEYWORD
}


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation per colour channel (RGB in [0, 1]) that a set of weights was trained with."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


# The backbone, the network that checkpoints are loaded into (for a ViT timm's, with shared parameters), and the
# normalisation of its weights.
Created = tuple[Backbone, nn.Module, Normalisation]
ImageSize = int | tuple[int, int] | None


def list_backbones(pattern: str | None = None) -> list[str]:
    """Return the sorted names (timm's) of the available backbones; ``pattern`` is a shell wildcard.

    >>> list_backbones("deit_small*")
    ['deit_small_distilled_patch16_224', 'deit_small_patch16_224']
    """
    names = [name for family in (*FAMILIES, *CONVOLUTIONAL) for name in timm.list_models(module=family)]
    return matching([*(name for name in names if not UNSUPPORTED.search(name)), *CONFORMERS], pattern)


def create_backbone(
    name: str, pretrained: bool | str | Path = True, image_size: ImageSize = None, **options: Any
) -> tuple[Backbone, Normalisation]:
    """Create a backbone, and return it with the normalisation of its weights (a file's metadata, else timm's).

    Args:
        name: a name from ``list_backbones()``, with or without timm's weight tag (``vit_small_patch16_224.dino``).
        pretrained: True for timm's weights (not for Conformers), False for random ones, or the path of a weights file.
        image_size: pixels, one side or (height, width), for which position embeddings are created; None for the
            backbone's default. For images of other sizes they are interpolated.
        options: further arguments of the network, such as ``drop_path_rate`` or ``depth``. A CNN takes
            ``output_stride``, the largest stride of its feature map: ResNets and ConvNeXts are dilated (8, 16 or 32),
            VGGs and Inception-v3 end before the layer that would exceed it. ``smooth_outliers`` interpolates the
            outlier tokens of a ViT (``backbones.outliers``), and does nothing in others.

    Raises:
        ValueError: an unknown or unsupported name, an unknown option, or a file of another network.
        FileNotFoundError: the weights do not exist or cannot be downloaded.
    """
    _check_name(name)
    check_options(options)
    if not isinstance(smooth_outliers := options.pop("smooth_outliers", False), bool):
        raise ValueError(f"smooth_outliers must be true or false; got {smooth_outliers!r}")
    create = _create_conformer if name in CONFORMERS else _create_convnet if _is_convnet(name) else _create_vit
    try:
        backbone, trunk, normalisation = create(name, pretrained is True, image_size, options)
    except (FileNotFoundError, ValueError):
        raise
    except Exception as error:  # timm may raise any type for an option that it does not expect
        raise ValueError(f"the backbone {name} does not take these options: {error}") from error
    if not isinstance(pretrained, bool):
        tensors, metadata = read_weights(pretrained)
        load_into(trunk, tensors, pretrained)
        mean, std = (metadata.get(key, "").split() for key in ("mean", "std"))
        normalisation = Normalisation(_triple(mean or normalisation.mean), _triple(std or normalisation.std))
    if isinstance(backbone, ViT):
        backbone.smooth_outliers = smooth_outliers
    if isinstance(backbone, ConvNet):
        backbone.prune()  # after loading, since the files have all layers
    return backbone, normalisation


def _is_convnet(name: str) -> bool:
    return any(name.partition(".")[0] in timm.list_models(module=family) for family in CONVOLUTIONAL)


def check_options(options: Mapping[str, Any]) -> None:
    """Raise ValueError for an option that does not describe the network, such as timm's ``checkpoint_path``."""
    for name in _OTHER_ARGUMENTS & options.keys():
        raise ValueError(f"{name!r} is not allowed in backbone_options: it does not describe a network")


def _check_name(name: str) -> None:
    """Refuse an unsupported architecture, or a weight tag (after the point) that timm does not have."""
    architecture, point, tag = name.partition(".")
    names = list_backbones()
    if architecture not in names:
        nearest = difflib.get_close_matches(architecture, names, n=5)
        problem = f"unknown backbone {name!r}"
        if timm.is_model(name):
            problem = (
                f"{name} is not supported: it is neither a vision transformer with a single grid of patch tokens nor a "
                "VGG, ResNet, Inception-v3 or ConvNeXt"
            )
        raise ValueError(
            f"{problem}; {'nearest: ' + ', '.join(nearest) + '. ' if nearest else ''}"
            f"`tokenloc list backbones 'deit*'` lists the available ones ({len(names)} in all)"
        )
    tags = [tagged.partition(".")[2] for tagged in timm.list_models(f"{architecture}.*", pretrained=True)]
    if point and tag not in tags:
        raise unknown_name(f"weights of {architecture}:", tag, tags)


def _create_vit(name: str, pretrained: bool, image_size: ImageSize, options: dict[str, Any]) -> Created:
    size = {} if image_size is None else {"img_size": image_size}
    trunk, normalisation = _create_trunk(name, pretrained, {"dynamic_img_size": True, **options, **size})
    return ViT(trunk, name), trunk, normalisation


def _create_convnet(name: str, pretrained: bool, image_size: ImageSize, options: dict[str, Any]) -> Created:
    del image_size  # any
    stride = options.get("output_stride")
    if name.startswith(UNDILATED):
        options = {key: value for key, value in options.items() if key != "output_stride"}
    elif stride not in (None, 8, 16, 32):
        raise ValueError(f"output_stride of {name} must be 8, 16 or 32; got {stride!r}")
    trunk, normalisation = _create_trunk(name, pretrained, options)
    return ConvNet(trunk, name, stride), trunk, normalisation


def _create_trunk(name: str, pretrained: bool, options: dict[str, Any]) -> tuple[Any, Normalisation]:
    if pretrained:
        cfg = timm.get_pretrained_cfg(name)
        if cfg is None or not cfg.has_weights:
            raise ValueError(f"timm has no weights for {name}; give a local file, or --model.pretrained false")
        require_download(name, cfg.to_dict())
    try:
        trunk = timm.create_model(name, pretrained=pretrained, **{"num_classes": 0, **options})
    except OSError as error:
        raise unavailable(name, "timm's hub") from error
    cfg = trunk.pretrained_cfg
    return trunk, Normalisation(_triple(cfg["mean"]), _triple(cfg["std"]))


def _create_conformer(name: str, pretrained: bool, image_size: ImageSize, options: dict[str, Any]) -> Created:
    if pretrained:
        raise FileNotFoundError(
            f"timm has no weights of {name}; its authors publish them at {WEIGHTS_URL}: download the file and give "
            "its path (pretrained=PATH.pth), or start from random weights (pretrained=False)"
        )
    backbone = Conformer(name, **{**CONFORMERS[name], **options})
    if image_size is not None:
        backbone.grid_of(*((image_size, image_size) if isinstance(image_size, int) else image_size))
    return backbone, backbone, Normalisation(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


def _triple(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
