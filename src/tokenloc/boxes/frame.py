"""The frame: the mapping between original and input pixels.

Coordinates are continuous, origin top left: pixel i covers [i, i + 1], its centre is i + 0.5. Sizes and points are
(x, y), that is (width, height); arrays are [height, width].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Size = tuple[int, int]
"""(width, height) in pixels, both at least 1."""

InputFrame = Literal["resize", "crop", "shorter_side"]
"""The part of an image that a network sees; see ``Frame.of``."""

Pixel = TypeVar("Pixel", bound=np.generic)

MOST_PIXELS = 1 << 28  # of a frame in a file, more than of any image that is decoded
_BAND_PIXELS = 1 << 20  # that are resampled at once


@dataclass(frozen=True)
class Frame:
    """The mapping between original and input pixels: x_input = x_original · scale_x - offset_x, likewise for y.

    The transform creates it, and the sample carries it. No other code does this arithmetic.

    Args:
        original_size: (width, height) of the image, in original pixels.
        input_size: (width, height) of the network input, in input pixels.
        scale: (x, y), input pixels per original pixel; positive.
        offset: (x, y), left and top of the network input on the resized image, in input pixels.

    Raises:
        ValueError: if a size is not two positive integers, or scale or offset are not two finite numbers.

    >>> frame = Frame.center_cropped((500, 375), resized_size=(256, 256), crop_size=(224, 224))
    >>> frame.to_original([[0, 0, 224, 224]]).round(2).tolist()
    [[31.25, 23.44, 468.75, 351.56]]
    """

    original_size: Size
    input_size: Size
    scale: tuple[float, float]
    offset: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        """Validate, and convert to Python numbers, so that equal frames compare and hash equal."""
        for name in ("original_size", "input_size"):
            object.__setattr__(self, name, checked_size(getattr(self, name), name))
        for name in ("scale", "offset"):
            object.__setattr__(self, name, _checked_pair(getattr(self, name), name))
        if min(self.scale) <= 0:
            raise ValueError(f"a frame's scale must be positive in x and y, got {self.scale}")

    @classmethod
    def identity(cls, size: Size) -> Frame:
        """Return the frame of a network input that is the image itself; ``size`` is (width, height)."""
        return cls.resized(size, size)

    @classmethod
    def resized(cls, original_size: Size, input_size: Size) -> Frame:
        """Return the frame of a direct resize of the whole image; sizes are (width, height)."""
        original, input_ = checked_size(original_size, "original_size"), checked_size(input_size, "input_size")
        return cls(original, input_, (input_[0] / original[0], input_[1] / original[1]))

    @classmethod
    def center_cropped(cls, original_size: Size, resized_size: Size, crop_size: Size) -> Frame:
        """Return the frame of a resize and a centre crop; sizes are (width, height).

        The corner of the crop is torchvision's: int(round((resized - crop) / 2)). Raises ValueError if a size is
        invalid, or the crop does not fit into the resized image.
        """
        resized, crop = checked_size(resized_size, "resized_size"), checked_size(crop_size, "crop_size")
        if crop[0] > resized[0] or crop[1] > resized[1]:
            raise ValueError(
                f"crop_size {crop} does not fit into resized_size {resized} (width, height); "
                "resize to a larger size or crop a smaller one"
            )
        whole = cls.resized(original_size, resized)
        left, top = (round((side - part) / 2.0) for side, part in zip(resized, crop, strict=True))
        return cls(whole.original_size, crop, whole.scale, (float(left), float(top)))

    @classmethod
    def shorter_side_cropped(cls, original_size: Size, shorter: int, crop_size: Size) -> Frame:
        """Return the frame of a resize in proportion, of the shorter side to ``shorter``, and a centre crop.

        As LCTR's release converts boxes: both axes have one scale, although the longer side is truncated to pixels, and
        the corner of the crop is round((side - crop + 1) / 2). Raises ValueError if the crop does not fit.
        """
        original, crop = checked_size(original_size, "original_size"), checked_size(crop_size, "crop_size")
        if max(crop) > shorter:
            raise ValueError(f"crop_size {crop} does not fit into an image of {shorter} pixels on its shorter side")
        scale = shorter / min(original)
        left, top = (round((side * scale - part + 1) / 2) for side, part in zip(original, crop, strict=True))
        return cls(original, crop, (scale, scale), (float(left), float(top)))

    @classmethod
    def of(cls, kind: InputFrame, original_size: Size, resized_size: Size, input_size: Size) -> Frame:
        """Return the frame of a direct "resize" to ``input_size``; of a "crop" of that size from a resize to
        ``resized_size``; or from a resize of the "shorter_side" to that of ``resized_size``. Sizes are (width, height).
        """
        if kind == "resize":
            return cls.resized(original_size, input_size)
        if kind == "crop":
            return cls.center_cropped(original_size, resized_size, input_size)
        return cls.shorter_side_cropped(original_size, min(resized_size), input_size)

    def to_array(self) -> NDArray[np.float64]:
        """Return [8] float64: original and input (width, height), scale and offset (x, y)."""
        return np.array([*self.original_size, *self.input_size, *self.scale, *self.offset], dtype=np.float64)

    @classmethod
    def from_array(cls, values: NDArray[np.float64]) -> Frame:
        """Return the frame of ``to_array``; ValueError if it has a size of more than ``MOST_PIXELS``."""
        numbers = values.tolist()
        frame = cls(*(tuple(numbers[start : start + 2]) for start in range(0, 8, 2)))
        for width, height in (frame.original_size, frame.input_size):
            if width * height > MOST_PIXELS:
                raise ValueError(f"a frame has {width} x {height} pixels, more than {MOST_PIXELS}")
        return frame

    def of_original(self, size: Size) -> Frame:
        """Return the frame for the original of ``size`` (width, height), if this frame is that of a resized copy.

        >>> Frame.resized((500, 375), (224, 224)).of_original((4000, 3000)) == Frame.resized((4000, 3000), (224, 224))
        True
        """
        width, height = checked_size(size, "original_size")
        (x, y), (small_width, small_height) = self.scale, self.original_size
        return Frame(size, self.input_size, (x * small_width / width, y * small_height / height), self.offset)

    def to_input(self, boxes: ArrayLike) -> NDArray[np.float64]:
        """Convert ``boxes`` [N, 4] xyxy from original to input pixels; float64, not clipped."""
        return checked_boxes(boxes) * _twice(self.scale) - _twice(self.offset)

    def to_original(self, boxes: ArrayLike, clip: bool = True) -> NDArray[np.float64]:
        """Convert ``boxes`` [N, 4] xyxy from input to original pixels; float64, by default clipped to the image."""
        original = (checked_boxes(boxes) + _twice(self.offset)) / _twice(self.scale)
        return np.clip(original, 0.0, _twice(self.original_size)) if clip else original

    def map_to_original(self, map_: NDArray[np.floating]) -> NDArray[np.float32]:
        """Resample a map [h, w] of any resolution, covering the network input, to original pixels.

        Returns [height, width] float32: bilinear between cell centres, constant beyond the outermost ones, and zero at
        pixels whose centre is outside the network input. Raises ValueError if ``map_`` is empty or not [h, w].
        """
        cells = np.asarray(map_, dtype=np.float32)
        if cells.ndim != 2 or cells.size == 0:
            raise ValueError(f"a map must be [height, width] with at least one cell, got shape {cells.shape}")
        low_y, high_y, part_y, covered_y = self._samples(1, cells.shape[0])
        low_x, high_x, part_x, covered_x = self._samples(0, cells.shape[1])
        width, height = self.original_size
        original = np.empty((height, width), np.float32)
        for start in range(0, height, step := max(1, _BAND_PIXELS // width)):  # in bands, to need little memory
            band = slice(start, start + step)
            rows = cells[low_y[band]] * (1 - part_y[band])[:, None] + cells[high_y[band]] * part_y[band][:, None]
            original[band] = rows[:, low_x] * (1 - part_x) + rows[:, high_x] * part_x
        original[~covered_y] = original[:, ~covered_x] = 0
        return original

    def pixels_to_input(self, pixels: NDArray[Pixel]) -> NDArray[Pixel]:
        """Resample original pixels [height, width], such as a mask, to input pixels, by nearest neighbour.

        The nearest pixel is that of OpenCV and the `wsol-eval` evaluator (Choe et al.): floor(x_original) of the top
        left corner of an input pixel, not of its centre. Raises ValueError if ``pixels`` is not of the original size.
        """
        width, height = self.original_size
        if pixels.shape != (height, width):
            raise ValueError(f"expected original pixels of shape {(height, width)} (height, width), got {pixels.shape}")
        corners = ((np.arange(self.input_size[axis]) + self.offset[axis]) / self.scale[axis] for axis in (1, 0))
        # Round first: an integer that float64 puts one ulp too low must not select the previous pixel.
        rows, columns = (np.floor(np.round(corner, 9)).astype(np.intp) for corner in corners)
        resampled: NDArray[Pixel] = pixels[np.ix_(rows.clip(0, height - 1), columns.clip(0, width - 1))]
        return resampled

    def _samples(
        self, axis: int, cells: int
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32], NDArray[np.bool_]]:
        """Return the cells on both sides of each original pixel along an axis (0: x), the weight of the second, and
        whether the network input covers the pixel.
        """
        centre = (np.arange(self.original_size[axis]) + 0.5) * self.scale[axis] - self.offset[axis]
        covered = (centre >= 0) & (centre <= self.input_size[axis])
        cell = np.clip(centre * cells / self.input_size[axis] - 0.5, 0, cells - 1)
        low = np.floor(cell).astype(np.intp)
        return low, np.minimum(low + 1, cells - 1), (cell - low).astype(np.float32), covered


def checked_size(size: Size, name: str = "size") -> Size:
    """Return ``size`` as two Python integers (width, height); raise ValueError unless both are integers ≥ 1."""
    try:
        width, height = size
        if int(width) == width >= 1 and int(height) == height >= 1:
            return int(width), int(height)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"{name} must be (width, height), two integers of at least 1 pixel, got {size!r}")


def same_shape(size: Size, other: Size) -> bool:
    """Return whether two (width, height) are of one image in two resolutions, apart from the rounding of a side.

    >>> same_shape((500, 375), (250, 188)), same_shape((500, 375), (501, 375))
    (True, False)
    """
    pairs = ((size, other), (other, size))
    return any(min(abs(high * w / wide - h), abs(wide * h / high - w)) <= 0.5 for (w, h), (wide, high) in pairs)


def checked_boxes(boxes: ArrayLike) -> NDArray[np.float64]:
    """Return ``boxes`` as float64 [N, 4]; an empty array of any shape is [0, 4]. Raise ValueError for other shapes."""
    array = np.asarray(boxes, dtype=np.float64)
    if array.size == 0:
        return array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"boxes must be [N, 4] as x0, y0, x1, y1, got shape {array.shape}")
    return array


def _twice(pair: tuple[float, float]) -> NDArray[np.float64]:
    """Return (x, y) as [x, y, x, y], for boxes."""
    return np.array([*pair, *pair], dtype=np.float64)


def _checked_pair(pair: tuple[float, float], name: str) -> tuple[float, float]:
    try:
        x, y = (float(value) for value in pair)
        if np.isfinite(x) and np.isfinite(y):
            return x, y
    except (TypeError, ValueError):
        pass
    raise ValueError(f"a frame's {name} must be two finite numbers (x, y), got {pair!r}")
