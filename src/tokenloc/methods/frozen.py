"""Methods that train a head on a frozen backbone."""

from __future__ import annotations

from abc import abstractmethod
from typing import TypeVar

from torch import Tensor

from tokenloc.backbones import Backbone, Features
from tokenloc.methods.base import Method, Output

F = TypeVar("F", bound="Frozen")


class Frozen(Method):
    """A method with a frozen backbone, so that the head's inputs can be cached on disk.

    A subclass splits its training pass: ``pool`` reduces the backbone's features, ``from_pooled`` does the rest.

    Args:
        backbone: stays frozen and in evaluation mode, without dropout or drop path.
        num_classes: C.
    """

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__(backbone, num_classes)
        backbone.requires_grad_(False).eval()  # trainers preserve each module's initial mode

    def train(self: F, mode: bool = True) -> F:
        """Set the mode of the head; the backbone stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> Output:
        """Run the training pass over ``images`` [B, 3, height, width]."""
        return self.from_pooled(self.pool(self.backbone(images)))

    @abstractmethod
    def pool(self, features: Features) -> Tensor:
        """Return the inputs of the head, [B, P], computed without trainable parameters."""

    @abstractmethod
    def from_pooled(self, pooled: Tensor) -> Output:
        """Run the rest of the training pass on ``pooled`` [B, P], the output of ``pool``."""
