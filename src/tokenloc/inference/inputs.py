"""Images in every form that a user may have: a file, its bytes, a PIL image, an array, a tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, uint8

from tokenloc.data import read_image

ImageInput = str | Path | bytes | Image.Image | NDArray[np.uint8] | Tensor
"""A path, the bytes of a file, a PIL image, RGB [height, width, 3] uint8, or [3, height, width] uint8 or in [0, 1]."""


def as_image(image: ImageInput, min_size: tuple[int, int] | None = None) -> Image.Image:
    """Return an image in any accepted form as an upright RGB image; see ``read_image``.

    Raises:
        FileNotFoundError, ValueError: if a file is missing or cannot be read, or the input has another form.
    """
    if isinstance(image, (str, Path, bytes, Image.Image)):
        return read_image(image, min_size=min_size)
    array = _to_array(image) if isinstance(image, Tensor) else image
    if not isinstance(array, np.ndarray):
        kind = type(image).__name__
        raise ValueError(f"expected a path, bytes, a PIL image, an array or a tensor, or a list of these; got {kind}")
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ValueError(
            f"expected an RGB array [height, width, 3] uint8 or a tensor [3, height, width], got {array.dtype} "
            f"of shape {tuple(array.shape)}"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def name_of(image: ImageInput) -> str:
    """Return a name for an image: its path, if it has one."""
    if isinstance(image, (str, Path)):
        return str(image)
    return str(getattr(image, "filename", "") or "image in memory")


def _to_array(tensor: Tensor) -> NDArray[np.uint8]:
    if tensor.ndim != 3 or len(tensor) != 3:
        raise ValueError(f"expected a tensor [3, height, width], got {list(tensor.shape)}")
    if tensor.is_floating_point():
        low, high = float(tensor.min()), float(tensor.max())
        if not (low >= 0 and high <= 1):
            raise ValueError(f"a float tensor must hold RGB in [0, 1], not normalised; got values {low:g} to {high:g}")
        tensor = (tensor * 255).round().to(uint8)
    return np.asarray(tensor.permute(1, 2, 0).cpu().numpy())
