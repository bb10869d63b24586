"""Models: creating them, and the checkpoint format that stores them."""

from tokenloc.models.factory import create_model, method_options

__all__ = ["create_model", "method_options"]
