"""Models: creating them, the checkpoint format, and sharing them on the Hugging Face Hub."""

from tokenloc.models.factory import create_model, method_options

__all__ = ["create_model", "method_options"]
