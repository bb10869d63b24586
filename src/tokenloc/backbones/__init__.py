"""Backbones: any timm ViT and the Conformers, with tokens and attention request through one interface."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from tokenloc._names import matching, unknown_name
from tokenloc.backbones.base import Backbone
from tokenloc.backbones.conformer import CONFORMERS, PUBLISHED_AT, Conformer, create_conformer
from tokenloc.backbones.features import FeatureRequest, Features, Gate, SpatialQuery, as_map
from tokenloc.backbones.vit import ViT
from tokenloc.backbones.weights import load_into, not_available, read_weights, require_download

__all__ = [
    "Backbone",
    "Conformer",
    "FeatureRequest",
    "Features",
    "Gate",
    "Normalisation",
    "SpatialQuery",
    "ViT",
    "as_map",
    "create_backbone",
    "list_backbones",
]

FAMILIES = ("vision_transformer", "deit", "eva")
# Members of these families whose blocks compute something else (parallel branches, differential attention, post-norm).
OTHERWISE = (
    "*18x2*",
    "*_rpn_*",
    "*_xp_*",
    "*wee_*",
    "vit_dlittle_*",
    "*_rope_*",
    "*_sapiens2",
    "vit_pe_*",
    "eva02_enormous_*",
)


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation per colour channel (RGB in [0, 1]) that a set of weights was trained with."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def list_backbones(pattern: str | None = None) -> list[str]:
    """Return the names of the backbones that tokenloc can use, sorted; ``pattern`` is a shell wildcard.

    The names are timm's; those of the Conformers, which timm does not have, are their authors'.

    >>> list_backbones("deit_small*")
    ['deit_small_distilled_patch16_224', 'deit_small_patch16_224']
    """
    of_timm = [name for family in FAMILIES for name in timm.list_models(module=family)]
    of_timm = [name for name in of_timm if not any(fnmatchcase(name, other) for other in OTHERWISE)]
    return matching([*of_timm, *CONFORMERS], pattern)


def create_backbone(
    name: str,
    pretrained: bool | str | Path = True,
    image_size: int | tuple[int, int] | None = None,
    **options: Any,
) -> tuple[Backbone, Normalisation]:
    """Make a backbone and tell the normalisation that belongs to its weights.

    Args:
        name: a name of ``list_backbones()``, with or without timm's weight tag (``vit_small_patch16_224.dino``).
        pretrained: True for timm's weights (the Conformers have none there), False for random ones, or the path of a
            safetensors or torch file.
        image_size: pixels, one side or (height, width), that the position embeddings are laid out for; None keeps the
            backbone's own. Other sizes work too: position embeddings are then interpolated in every pass.
        options: further arguments of the network, such as ``drop_path_rate`` or ``depth``.

    Returns:
        the backbone, and the normalisation: from the file's notes where it has them, else timm's for that name.

    Raises:
        ValueError: unknown or unsupported name, unknown option, or a file of another network.
        FileNotFoundError: weights that are not there, not to be had offline, or not of timm.
    """
    known = list_backbones()
    if name.split(".")[0] not in known:
        near = difflib.get_close_matches(name.split(".")[0], known, n=5)
        what = f"unknown backbone {name!r}"
        if timm.is_model(name):
            what = (
                f"{name} has no class token beside one grid of patch tokens, so it is no backbone for localization here"
            )
        raise ValueError(
            f"{what}; {'nearest: ' + ', '.join(near) + '. ' if near else ''}"
            f"`tokenloc list backbones 'deit*'` lists those that fit ({len(known)} in all)"
        )
    _check_tag(name)
    make = _make_conformer if name in CONFORMERS else _make_vit
    backbone, trunk, normalisation = make(name, pretrained is True, image_size, options)
    if isinstance(pretrained, bool):
        return backbone, normalisation
    weights = read_weights(pretrained)
    load_into(trunk, weights, pretrained)
    mean = _numbers(weights.notes.get("mean"), normalisation.mean)
    std = _numbers(weights.notes.get("std"), normalisation.std)
    return backbone, Normalisation(_triple(mean), _triple(std))


# A backbone, the network that checkpoints are loaded into (for a ViT timm's own, whose parameters it shares), and what
# its weights expect of images.
Made = tuple[Backbone, nn.Module, Normalisation]
ImageSize = int | tuple[int, int] | None


def _check_tag(name: str) -> None:
    """Refuse a weight tag (behind the point of a name) that timm does not know."""
    architecture, point, tag = name.partition(".")
    tags = [tagged.partition(".")[2] for tagged in timm.list_models(f"{architecture}.*", pretrained=True)]
    if point and tag not in tags:
        raise unknown_name(f"weights of {architecture}:", tag, tags)


def _make_vit(name: str, pretrained: bool, image_size: ImageSize, options: dict[str, Any]) -> Made:
    options = {"num_classes": 0, "dynamic_img_size": True, **options}
    if image_size is not None:
        options["img_size"] = image_size
    trunk = _create_trunk(name, pretrained, options)
    cfg = trunk.pretrained_cfg
    return ViT(trunk, name), trunk, Normalisation(_triple(cfg["mean"]), _triple(cfg["std"]))


def _make_conformer(name: str, pretrained: bool, image_size: ImageSize, options: dict[str, Any]) -> Made:
    if pretrained:
        raise FileNotFoundError(
            f"timm has no weights of {name}; its authors publish them at {PUBLISHED_AT}: download the file and give "
            "its path (pretrained=PATH.pth), or start from random weights (pretrained=False)"
        )
    backbone = create_conformer(name, **options)
    if image_size is not None:
        backbone.grid_of(*((image_size, image_size) if isinstance(image_size, int) else image_size))
    return backbone, backbone, Normalisation(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


def _create_trunk(name: str, pretrained: bool, options: dict[str, Any]) -> Any:
    if pretrained:
        cfg = timm.get_pretrained_cfg(name)
        if cfg is None or not cfg.has_weights:
            raise ValueError(f"timm has no pretrained weights for {name}; use pretrained=False or a local file")
        require_download(name, cfg.to_dict())
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except OSError as error:
        raise FileNotFoundError(not_available(name, "timm's hub")) from error
    except TypeError as error:
        raise ValueError(f"the backbone {name} does not take these options: {error}") from error


def _numbers(text: str | None, default: Any) -> Any:
    return default if text is None else [float(word) for word in text.split()]


def _triple(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
