"""Images with known classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from itertools import repeat

from tokenloc._names import unknown_name
from tokenloc.inference.inputs import ImageInput

Images = list[ImageInput] | tuple[ImageInput, ...]
Stream = Iterator[ImageInput]
Inputs = ImageInput | Images | Stream
Labels = str | Iterable[str] | None
"""The known class of all images, or of each; None for the most probable class."""

Classified = tuple[ImageInput, int | None]
"""An image and the index of its known class, if any."""


def with_classes(images: Iterable[ImageInput], labels: Labels, classes: Sequence[str]) -> Iterable[Classified]:
    """Return images with the indices of their known classes; ValueError for an unknown one, or another number."""

    def index_of(label: str) -> int:
        if label not in classes:
            raise unknown_name("class", label, classes)
        return classes.index(label)

    if labels is None or isinstance(labels, str):
        return zip(images, repeat(None if labels is None else index_of(labels)), strict=False)
    if isinstance(images, Sized) and isinstance(labels, Sized) and len(images) != len(labels):
        raise ValueError(f"{len(labels)} labels for {len(images)} images; give one label, or one for each image")
    return zip(images, map(index_of, labels), strict=True)
