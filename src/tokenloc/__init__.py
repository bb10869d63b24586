"""Learn to draw boxes from image labels alone, with vision transformers.

Public names are imported on first use, so that ``import tokenloc`` is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenloc.backbones import list_backbones as list_backbones
    from tokenloc.boxes import list_protocols as list_protocols
    from tokenloc.commands.photos import train as train
    from tokenloc.data import list_datasets as list_datasets
    from tokenloc.inference import Localization as Localization
    from tokenloc.inference import Localizer as Localizer
    from tokenloc.inference import PredictionOptions as PredictionOptions
    from tokenloc.inference import TestTimeAugmentation as TestTimeAugmentation
    from tokenloc.methods import list_methods as list_methods
    from tokenloc.models import create_model as create_model
    from tokenloc.refinement import refine as refine

__version__ = "0.1.0"

_PACKAGES = {
    "Localization": "inference",
    "Localizer": "inference",
    "PredictionOptions": "inference",
    "TestTimeAugmentation": "inference",
    "create_model": "models",
    "list_backbones": "backbones",
    "list_datasets": "data",
    "list_methods": "methods",
    "list_protocols": "boxes",
    "refine": "refinement",
    "train": "commands.photos",
}

__all__ = ["__version__", *_PACKAGES]


def __getattr__(name: str) -> Any:
    if name not in _PACKAGES:
        raise AttributeError(f"module 'tokenloc' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"tokenloc.{_PACKAGES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
