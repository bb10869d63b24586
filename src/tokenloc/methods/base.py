"""The interface of localization methods, and their registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tokenloc._names import Registry
from tokenloc.backbones import Backbone, FeatureRequest, Features, Normalisation
from tokenloc.methods.global_batch import cross_entropy

ClassMaps = Callable[[Tensor], Tensor]
"""A function from classes [B, K] int64 to their maps [B, K, h, w]."""


@dataclass(frozen=True)
class Output:
    """The output of a training pass over B images.

    Attributes:
        logits: class scores before the softmax, [B, C].
        auxiliary: further tensors that the method's loss needs, by name.
    """

    logits: Tensor
    auxiliary: dict[str, Tensor] = field(default_factory=dict)


class Method(nn.Module, ABC):
    """A localization method on a backbone, for ``num_classes`` C.

    Subclasses add their head, and their options as keyword-only arguments. They raise ValueError if an option has an
    invalid value, or if the backbone lacks what they need.

    Attributes:
        default_threshold: on maps scaled to [0, 1]; used until a model is calibrated.
        refinement: steps of ``tokenloc.refine``, names or ``{name: settings}``, that are part of the method and apply
            unless others are chosen.
        spatial_blocks: indices of blocks with a localization task, such as SAT's; freezing treats them separately.
        exportable: whether the method can be exported to ONNX.
        test_options: names of options with the same weights for every value, so that a checkpoint can be loaded with
            other values of them.
        needs_attention: whether it needs a transformer; if not, it also works on convolutional networks.
        advice: when to choose the method, for `tokenloc list methods`.
        learns_maps: whether it can learn target maps, of ``data.maps``.
        uses_conv_branch: whether the loss depends on ``Features.conv_features``, on backbones that have them.
        config: the arguments that recreate the model; set by ``create_model``.
        normalisation: of the images that the weights expect; set by ``create_model``.
    """

    default_threshold: float = 0.2
    refinement: tuple[str | Mapping[str, Any], ...] = ()
    spatial_blocks: tuple[int, ...] = ()
    exportable: bool = True
    test_options: ClassVar[tuple[str, ...]] = ()
    needs_attention: bool = True
    advice: ClassVar[str] = ""
    learns_maps: bool = False
    uses_conv_branch: bool = True
    config: ModelConfig
    normalisation: Normalisation

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        if self.needs_attention:
            backbone.require_attention(type(self).__name__)
        self.backbone = backbone
        self.num_classes = num_classes

    @abstractmethod
    def forward(self, images: Tensor) -> Output:
        """Run the training pass over ``images`` [B, 3, height, width]."""

    @abstractmethod
    def class_maps(self, images: Tensor) -> tuple[Tensor, ClassMaps]:
        """Return logits [B, C], and a function from classes [B, K] int64 to their maps [B, K, h, w]."""

    @staticmethod
    def stored_options(options: dict[str, Any], weights: Collection[str]) -> dict[str, Any]:
        """Return the options of a checkpoint with weights of these names; subclasses complete those of old versions."""
        del weights
        return options

    def loss(self, output: Output, labels: Tensor) -> dict[str, Tensor]:
        """Return the scalar terms of the loss by name, with their ``total``; by default the cross-entropy.

        ``labels`` are class indices, [B] int64. Terms are means over the batches of all processes
        (``methods.global_batch``), so every process must call this.
        """
        term = cross_entropy(output.logits, labels)
        return {"cross_entropy": term, "total": term}

    def scalars(self) -> dict[str, float]:
        """Return values to log after every epoch, by name; by default none."""
        return {}

    def features(self, images: Tensor, request: FeatureRequest | None = None) -> Features:
        """Return the backbone's features as the method computes them, for ``images`` [B, 3, height, width]."""
        features: Features = self.backbone(images, request)
        return features

    def intermediate_maps(self, images: Tensor, classes: Tensor) -> dict[str, Tensor]:
        """Return the maps [B, h, w] behind the localization map of ``classes`` [B], by title; by default none."""
        del images, classes
        return {}

    def figure_maps(self, images: Tensor, classes: Tensor) -> dict[str, Tensor]:
        """Return further maps [B, h, w] of ``classes`` [B] that the paper's figures show, by title; by default none."""
        del images, classes
        return {}

    def localize(self, images: Tensor, classes: Tensor | int | None = None) -> tuple[Tensor, Tensor]:
        """Classify ``images`` and return localization maps.

        Args:
            images: [B, 3, height, width], normalised.
            classes: [B, K] int64 in [0, C), or K for the min(K, C) most probable classes of each image; None is 1.

        Returns:
            logits [B, C] and maps [B, K, h, w] on the patch grid, float, of any range: larger means more object.

        Raises:
            ValueError: invalid ``classes``.
        """
        logits, maps_of = self.class_maps(images)
        if not isinstance(classes, Tensor):
            classes = top_classes(logits, 1 if classes is None else classes)
        self.check_classes(classes, len(images))
        return logits, maps_of(classes)

    def check_classes(self, classes: Tensor, batch: int) -> None:
        """Raise ValueError unless ``classes`` is [B, K] int64 in [0, C) with B = ``batch``."""
        if classes.ndim != 2 or len(classes) != batch or classes.dtype != torch.int64:
            form = f"{list(classes.shape)} {classes.dtype}"
            raise ValueError(f"classes must be [B, K] int64 with B = {batch}; got {form}")
        low, high = (int(classes.min()), int(classes.max())) if classes.numel() else (0, 0)
        if low < 0 or high >= self.num_classes:
            raise ValueError(f"class indices must lie in [0, {self.num_classes}); got {low} to {high}")


class Frozen(Method):
    """A method with a frozen backbone, in evaluation mode, so that the head's inputs can be cached on disk.

    A subclass splits its training pass: ``pool`` reduces the backbone's features, ``from_pooled`` does the rest.
    """

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__(backbone, num_classes)
        backbone.requires_grad_(False).eval()  # trainers preserve each module's initial mode

    def train(self, mode: bool = True) -> Frozen:
        """Set the mode of the head only."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> Output:
        """Run the training pass over ``images`` [B, 3, height, width]."""
        return self.from_pooled(self.pool(self.backbone(images)))

    @abstractmethod
    def pool(self, features: Features) -> Tensor:
        """Return the inputs of the head, [B, ...], computed without trainable parameters."""

    @abstractmethod
    def from_pooled(self, pooled: Tensor) -> Output:
        """Run the rest of the training pass on ``pooled`` [B, ...], the output of ``pool``."""


def top_classes(logits: Tensor, count: int) -> Tensor:
    """Return the ``count`` most probable classes of ``logits`` [B, C], best first, [B, min(count, C)] int64.

    Equal logits keep the order of their classes.

    >>> top_classes(torch.tensor([[1.0, 3.0, 3.0]]), 2).tolist()
    [[1, 2]]
    """
    if count < 1:
        raise ValueError(f"the number of classes to map must be at least 1; got {count}")
    return logits.argsort(dim=1, descending=True, stable=True)[:, :count]


def pick_classes(maps: Tensor, classes: Tensor) -> Tensor:
    """Return the maps of ``classes`` [B, K] out of those of all classes [B, C, h, w]: [B, K, h, w]."""
    return maps.gather(1, classes[:, :, None, None].expand(-1, -1, *maps.shape[-2:]))


def shared_map(maps: Tensor) -> ClassMaps:
    """Return the function that gives all classes of an image the same map, of ``maps`` [B, h, w]."""
    return lambda classes: maps[:, None].expand(-1, classes.shape[1], -1, -1)


METHODS: Registry[type[Method]] = Registry("method")
"""The methods by name."""

register_method = METHODS.register
"""``@register_method(name)`` registers a subclass of ``Method``."""


def list_methods(pattern: str | None = None) -> list[str]:
    """Return the sorted names of the methods; ``pattern`` is a shell wildcard."""
    return METHODS.names(pattern)


@dataclass(frozen=True)
class ModelConfig:
    """The arguments that create a model: plain values, which a checkpoint can store. See ``create_model``."""

    method: str
    backbone: str
    num_classes: int
    image_size: tuple[int, int] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    backbone_options: dict[str, Any] = field(default_factory=dict)
