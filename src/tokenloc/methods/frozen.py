"""Methods that learn on a backbone which stays as it is."""

from __future__ import annotations

from abc import abstractmethod
from typing import TypeVar

from torch import Tensor

from tokenloc.backbones import Backbone, Features
from tokenloc.methods.base import Method, Output

F = TypeVar("F", bound="Frozen")


class Frozen(Method):
    """A method whose backbone never changes, so that what its head learns from can be kept on disk.

    A subclass says where the cut goes: what it pools out of the backbone's tokens, and what it makes of that.

    Args:
        backbone: stays frozen and in evaluation mode, without dropout or drop path.
        num_classes: C.
    """

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__(backbone, num_classes)
        backbone.requires_grad_(False).eval()  # trainers keep the modes that they find

    def train(self: F, mode: bool = True) -> F:
        """Set the mode of the head; the frozen backbone stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> Output:
        """Run the training pass over ``images`` [B, 3, height, width]."""
        return self.from_pooled(self.pool(self.backbone(images)))

    @abstractmethod
    def pool(self, features: Features) -> Tensor:
        """Return all that the head learns from, [B, P]; nothing that learns takes part."""

    @abstractmethod
    def from_pooled(self, pooled: Tensor) -> Output:
        """Run the rest of the training pass, on what ``pool`` returned, [B, P]."""
