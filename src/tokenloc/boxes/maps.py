"""Preparation of maps for thresholds: upsampling, scaling to [0, 1] and quantisation under a protocol."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from tokenloc.boxes.frame import Size, checked_size
from tokenloc.boxes.protocols import Protocol

PreparedMap = NDArray[np.float32] | NDArray[np.uint8]
"""[H, W]: float32 in [0, 1], or uint8 if the protocol quantises."""

_INTERPOLATION = {"bilinear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}


def prepare_map(map_: NDArray[np.floating], size: Size, protocol: Protocol) -> PreparedMap:
    """Return a localization map as ``protocol`` thresholds it.

    Args:
        map_: [h, w], any range, covering the network input.
        size: (width, height) of the network input.
        protocol: defines interpolation, scaling and quantisation.

    Returns:
        [height, width]: float32 in [0, 1], or uint8 if ``protocol.quantised``. A constant map, which carries no
        information, becomes 0 everywhere and so gives the protocol's empty box.

    Raises:
        ValueError: if the map is not two-dimensional, is empty, or is not finite. The `wsol-eval` evaluator scores a
            map with NaN as zeros.
    """
    scaled = scaled_map(map_, size, protocol)
    return quantised_map(scaled) if protocol.quantised else scaled


def scaled_map(map_: NDArray[np.floating], size: Size, protocol: Protocol) -> NDArray[np.float32]:
    """Return ``prepare_map`` before quantisation: [height, width] float32 in [0, 1], for the pixel metrics."""
    map_ = _checked_map(map_)
    if protocol.min_max == "before":
        return _upsampled(_min_max(map_, protocol.min_max_epsilon), size, protocol)
    return _min_max(_upsampled(map_, size, protocol), protocol.min_max_epsilon)


def ready_map(map_: NDArray[np.floating], size: Size, protocol: Protocol) -> NDArray[np.floating]:
    """Check a map that is already scaled and of the input size, as stored for `wsol-eval`, and return it unchanged.

    Its dtype is kept: the evaluator that it was made for quantises from that precision.

    Raises:
        ValueError: if the map is not [height, width] of ``size`` (width, height), or its values are not in [0, 1].
    """
    width, height = checked_size(size)
    if map_.shape != (height, width):
        raise ValueError(
            f"the map has shape {map_.shape}, expected {(height, width)} (height, width), the network input of "
            f"protocol {protocol.name!r}"
        )
    if not np.isfinite(map_).all():
        _checked_map(map_)
    low, high = float(map_.min()), float(map_.max())
    if low < 0 or high > 1:
        raise ValueError(f"the map has values from {low:g} to {high:g}, expected [0, 1]: scale it first")
    return map_


def quantised_map(scaled: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return a map in [0, 1] as uint8: x255, truncated (not rounded), as in the released evaluators."""
    return np.asarray(scaled * np.float32(255)).astype(np.uint8)


def _upsampled(map_: NDArray[np.float32], size: Size, protocol: Protocol) -> NDArray[np.float32]:
    resized = cv2.resize(map_, checked_size(size), interpolation=_INTERPOLATION[protocol.upsampling])
    return np.asarray(resized, dtype=np.float32)


def _min_max(map_: NDArray[np.float32], epsilon: float) -> NDArray[np.float32]:
    above = map_ - map_.min()
    peak = above.max()
    return np.asarray(above / (peak + np.float32(epsilon))) if peak > 0 else above


def _checked_map(map_: NDArray[np.floating]) -> NDArray[np.float32]:
    array = np.ascontiguousarray(map_, dtype=np.float32)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"a map must be [height, width] with at least one cell, got shape {array.shape}")
    bad = ~np.isfinite(array)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise ValueError(
            f"the map has {bad.sum()} of {array.size} values that are not finite, the first {array[row, column]} at "
            f"row {row}, column {column}; check for an overflow in the network (half precision, diverged training)"
        )
    return array
