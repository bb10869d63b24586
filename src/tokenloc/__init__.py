"""Learn to draw boxes from image labels alone, with vision transformers.

Public names are imported on first use, so that ``import tokenloc`` is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenloc.backbones import list_backbones
    from tokenloc.boxes import list_protocols
    from tokenloc.data import list_datasets
    from tokenloc.inference import Localization, Localizer, PredictionOptions, TestTimeAugmentation
    from tokenloc.methods import list_methods
    from tokenloc.models import create_model
    from tokenloc.refinement import refine

__version__ = "0.1.0"

_PACKAGES = {
    "create_model": "models",
    "list_methods": "methods",
    "list_backbones": "backbones",
    "list_datasets": "data",
    "list_protocols": "boxes",
    "Localizer": "inference",
    "Localization": "inference",
    "PredictionOptions": "inference",
    "TestTimeAugmentation": "inference",
    "refine": "refinement",
}

__all__ = [
    "Localization",
    "Localizer",
    "PredictionOptions",
    "TestTimeAugmentation",
    "__version__",
    "create_model",
    "list_backbones",
    "list_datasets",
    "list_methods",
    "list_protocols",
    "refine",
]


def __getattr__(name: str) -> Any:
    if name not in _PACKAGES:
        raise AttributeError(f"module 'tokenloc' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"tokenloc.{_PACKAGES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
