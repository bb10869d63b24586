"""Scaling of maps to [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor


def min_max(maps: Tensor) -> Tensor:
    """Return ``maps`` [..., h, w], each scaled so that its minimum is 0 and its maximum 1; a constant map becomes 0.

    >>> min_max(torch.tensor([[1.0, 3.0], [2.0, 5.0]])).tolist()
    [[0.0, 0.5], [0.25, 1.0]]
    """
    low = maps.amin(dim=(-2, -1), keepdim=True)
    span = maps.amax(dim=(-2, -1), keepdim=True) - low
    return (maps - low) / torch.where(span > 0, span, 1.0)
