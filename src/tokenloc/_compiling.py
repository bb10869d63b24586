"""What ``torch.compile`` leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])


def uncompiled(function: F) -> F:
    """Return ``function``, which runs as it is written where ``torch.compile`` compiles what is around it."""
    kept: F = torch.compiler.disable(function)
    return kept
