"""Localization methods, one file per paper. Every file in this package is imported, which registers its methods."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from tokenloc.methods.base import METHODS, Method, ModelConfig, Output, list_methods, register_method, top_classes

__all__ = ["METHODS", "Method", "ModelConfig", "Output", "list_methods", "register_method", "top_classes"]

for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
