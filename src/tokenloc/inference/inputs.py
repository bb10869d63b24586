"""Images in every form that a user may have, and threads that read them ahead of their consumer."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from threading import Condition
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, uint8

from tokenloc.boxes.frame import Size
from tokenloc.data import read_image, read_size

T = TypeVar("T")
R = TypeVar("R")
THREADS = min(8, os.cpu_count() or 1)
ImageInput = str | Path | bytes | Image.Image | NDArray[np.uint8] | Tensor
"""A path, the bytes of a file, a PIL image, RGB [height, width, 3] uint8, or [3, height, width] uint8 or in [0, 1]."""


class PixelBudget:
    """Limits the pixels of the images that threads hold at original size at the same time.

    An image with more pixels than the ``limit`` waits until no other is held.
    """

    def __init__(self, limit: int) -> None:
        self.limit = self._free = limit
        self._changed = Condition()

    @contextmanager
    def hold(self, size: Size) -> Iterator[None]:
        """Wait until an image of ``size`` (width, height) is within the limit, and count it until the block ends."""
        pixels = min(size[0] * size[1], self.limit)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= pixels)
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()


ORIGINALS = PixelBudget(1 << 27)
"""Of this process: 134 million pixels, which take 1 to 2 GB while they are decoded."""


def size_of(image: ImageInput) -> Size:
    """Return the (width, height) of an image without decoding it; raises as ``as_image``."""
    if isinstance(image, (str, Path, bytes)):
        return read_size(image)
    if isinstance(image, Image.Image):
        return image.size
    shape = image.shape[1:] if isinstance(image, Tensor) else np.shape(image)
    return (shape[1], shape[0]) if len(shape) > 1 else (1, 1)  # as_image refuses other forms


def as_image(image: ImageInput, min_size: tuple[int, int] | None = None) -> Image.Image:
    """Return an upright RGB image; raise FileNotFoundError or ValueError if it cannot be read or has another form."""
    if isinstance(image, (str, Path, bytes, Image.Image)):
        return read_image(image, min_size=min_size)
    array = _to_array(image) if isinstance(image, Tensor) else image
    if not isinstance(array, np.ndarray):
        kind = type(image).__name__
        raise ValueError(f"expected a path, bytes, a PIL image, an array or a tensor, or a list of these; got {kind}")
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        got = f"{array.dtype} of shape {tuple(array.shape)}"
        raise ValueError(f"expected an RGB array [height, width, 3] uint8 or a tensor [3, height, width], got {got}")
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


def batched(items: Iterator[T], size: int) -> Iterator[list[T]]:
    """Yield lists of ``size`` items, the last one shorter; it keeps no reference to them.

    >>> list(batched(iter("abc"), 2))
    [['a', 'b'], ['c']]
    """
    return iter(lambda: list(islice(items, size)), [])


def map_ahead(
    function: Callable[[T], R], items: Iterable[T], ahead: int, threads: int = THREADS
) -> Generator[R, None, None]:
    """Yield ``function(item)`` for each item, in order, while threads compute the next results.

    The caller's thread takes at most ``ahead`` items (at least 1) before their result is yielded. An exception is
    raised at the position of its item; like closing, it cancels the calls that have not started.

    >>> list(map_ahead(str.upper, ["a", "b", "c"], ahead=2))
    ['A', 'B', 'C']
    """
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="tokenloc")
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            del item  # keep no reference to an item that was yielded
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
