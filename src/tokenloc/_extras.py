"""Optional dependencies, imported when they are used."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def library(module: str, extra: str | None = None) -> ModuleType:
    """Import a module; if it is missing, raise ImportError with the command that installs ``extra``, or the module.

    >>> library("no_such_module", "parquet")
    Traceback (most recent call last):
    ImportError: no_such_module is not installed; install it with: pip install 'tokenloc[parquet]'
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        name = (error.name or module).split(".")[0]
        package = f"'tokenloc[{extra}]'" if extra else name
        raise ImportError(f"{name} is not installed; install it with: pip install {package}") from error
