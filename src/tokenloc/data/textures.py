"""The textures by which the classes of the generated scenes differ.

A texture is a function of two coordinates, in periods, [h, w] float32 each; it is positive where the second of the
object's two colours shows and its slope at the border is about that of a sine, so that clipping it draws soft edges.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]
Texture = Callable[[Plane, Plane], Plane]

_TURN = np.float32(2 * np.pi)


def stripes(u: Plane, v: Plane) -> Plane:
    """Bars that lie: they alternate from top to bottom."""
    del u
    value: Plane = np.sin(_TURN * v)
    return value


def columns(u: Plane, v: Plane) -> Plane:
    """Bars that stand: they alternate from left to right."""
    del v
    value: Plane = np.sin(_TURN * u)
    return value


def checks(u: Plane, v: Plane) -> Plane:
    """A chessboard."""
    value: Plane = np.sin(np.float32(np.pi) * u) * np.sin(np.float32(np.pi) * v)
    return value


def dots(u: Plane, v: Plane) -> Plane:
    """Discs on a square lattice."""
    value: Plane = np.cos(_TURN * u) + np.cos(_TURN * v) - np.float32(0.6)
    return value


def grid(u: Plane, v: Plane) -> Plane:
    """Thin lines across one another."""
    value: Plane = np.maximum(np.cos(_TURN * u), np.cos(_TURN * v)) - np.float32(0.75)
    return value


def zigzag(u: Plane, v: Plane) -> Plane:
    """Lying bars bent to and fro."""
    value: Plane = np.sin(_TURN * (v + np.float32(1.2) * np.abs(u / 2 - np.round(u / 2))))
    return value


TEXTURES: dict[str, Texture] = {texture.__name__: texture for texture in (stripes, columns, checks, dots, grid, zigzag)}
"""All textures by name, which is a class's name."""
