"""The scores of a set of images on disk, in the order they were added."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from tokenloc.boxes import Frame
from tokenloc.metrics.scores import ImageScores


class ScoreTable:
    """One record per image in ``file``, an empty temporary file; memory does not grow with the arrays."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._lengths: list[int] = []

    def __len__(self) -> int:
        return len(self._lengths)

    def append(self, scores: ImageScores) -> None:
        """Add an image, as a line of JSON followed by the bytes of the arrays; not while iterating."""
        values = {**vars(scores), "frame": scores.frame.to_array()}
        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        plain = {name: value for name, value in values.items() if name not in arrays}
        layout = [(name, array.dtype.str, array.shape) for name, array in arrays.items()]
        parts = (json.dumps([plain, layout]).encode(), b"\n", *(array.tobytes() for array in arrays.values()))
        self._lengths.append(self._file.write(zlib.compress(b"".join(parts), level=1)))

    def __iter__(self) -> Iterator[ImageScores]:
        start = 0
        for length in self._lengths:
            self._file.seek(start)
            yield _unpack(zlib.decompress(self._file.read(length)))
            start += length


def _unpack(record: bytes) -> ImageScores:
    start = record.index(b"\n") + 1
    values: dict[str, Any]
    values, layout = json.loads(record[:start])
    for name, dtype, shape in layout:
        values[name] = np.frombuffer(record, dtype, math.prod(shape), start).reshape(shape)
        start += values[name].nbytes
    return ImageScores(**{**values, "frame": Frame.from_array(values["frame"])})
