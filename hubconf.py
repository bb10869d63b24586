"""Entry points of torch.hub, which work without an installation; see docs/sharing.md."""

from __future__ import annotations

import pathlib
import sys
import typing

if typing.TYPE_CHECKING:
    import tokenloc

dependencies = ["torch", "torchvision", "timm", "cv2", "skimage", "scipy", "numba", "safetensors", "huggingface_hub"]
sys.path.insert(0, str(pathlib.Path(__file__).parent / "src"))


def localizer(name: str, **options: typing.Any) -> tokenloc.Localizer:
    """Return ``tokenloc.Localizer.from_pretrained(name, **options)``: a trained model, of the Hub or a folder."""
    import tokenloc

    return tokenloc.Localizer.from_pretrained(name, **options)


def model(method: str, **options: typing.Any) -> typing.Any:
    """Return ``tokenloc.create_model(method, **options)``, a ``torch.nn.Module``."""
    import tokenloc

    return tokenloc.create_model(method, **options)
