"""Textures of the generated scenes, one for each class.

A texture is a function of two coordinates in periods, [h, w] float32 each. It is positive where the second of the
object's two colours appears, and its slope at the border is about that of a sine, so that clipping it gives soft edges.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]
Texture = Callable[[Plane, Plane], Plane]

_TURN, _PI = np.float32(2 * np.pi), np.float32(np.pi)


def _zigzag(u: Plane, v: Plane) -> Plane:
    bent: Plane = v + np.float32(1.2) * np.abs(u / 2 - np.round(u / 2))
    return _wave(bent)


def _wave(x: Plane) -> Plane:
    value: Plane = np.sin(_TURN * x)
    return value


TEXTURES: dict[str, Texture] = {
    "stripes": lambda _, v: _wave(v),
    "columns": lambda u, _: _wave(u),
    "checks": lambda u, v: np.sin(_PI * u) * np.sin(_PI * v),
    "dots": lambda u, v: np.cos(_TURN * u) + np.cos(_TURN * v) - np.float32(0.6),
    "grid": lambda u, v: np.maximum(np.cos(_TURN * u), np.cos(_TURN * v)) - np.float32(0.75),
    "zigzag": _zigzag,
}
"""All textures by name, which is a class name."""
