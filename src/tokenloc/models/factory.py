"""Creating models: a localization method on a backbone."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from tokenloc._names import unknown_name
from tokenloc.backbones import create_backbone
from tokenloc.methods.base import METHODS, Method, ModelConfig


def method_options(name: str) -> dict[str, Any]:
    """Return the options of a method with their defaults."""
    parameters = inspect.signature(METHODS[name].__init__).parameters
    return {key: p.default for key, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def create_model(
    method: str,
    backbone: str = "deit_small_patch16_224",
    num_classes: int = 1000,
    pretrained: bool | str | Path = True,
    image_size: int | tuple[int, int] | None = None,
    backbone_options: dict[str, Any] | None = None,
    **options: Any,
) -> Method:
    """Create a model: a localization method on a backbone.

    Args:
        method: a name from ``list_methods()``.
        backbone: a name from ``list_backbones()``.
        num_classes: C, at least 1.
        pretrained: True for timm's weights, False for random weights, or the path of a safetensors or PyTorch file.
        image_size: side or (height, width) in pixels that determines the size of the position embeddings; None uses
            the backbone's default. The model accepts images of other sizes too.
        backbone_options: further arguments of the backbone, such as ``{"drop_path_rate": 0.1}``.
        options: options of the method; see its class.

    Raises:
        ValueError: if a method, backbone or option is unknown, or a value is out of range.
        FileNotFoundError: if the weights are neither on disk nor downloadable.

    >>> import torch
    >>> model = create_model("tscam", "vit_tiny_patch16_224", num_classes=3, pretrained=False)
    >>> logits, maps = model.localize(torch.zeros(2, 3, 224, 224))
    >>> list(logits.shape), list(maps.shape)
    ([2, 3], [2, 1, 14, 14])
    """
    kind, known = METHODS[method], method_options(method)
    for name in options:
        if name not in known:
            raise unknown_name(f"option of {method}", name, known)
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1; got {num_classes}")
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    trunk, normalisation = create_backbone(backbone, pretrained, size, **(backbone_options or {}))
    model = kind(trunk, num_classes, **options)
    model.config = ModelConfig(method, backbone, num_classes, size, options, backbone_options or {})
    model.normalisation = normalisation
    return model
