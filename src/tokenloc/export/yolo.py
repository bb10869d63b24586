"""YOLO by Ultralytics, https://docs.ultralytics.com/datasets/detect: one text file per image; no scores."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import yaml

from tokenloc._files import UniqueNames, atomic_folder, write_text
from tokenloc.data.annotations import Box
from tokenloc.export.base import FORMATS, Destination, Format, WriteImage, rounded_boxes
from tokenloc.inference.localization import LocalizationRecord

Placement = Literal["hardlink", "symlink", "copy"]
"""How images get into a folder; a link that the file system, or the Windows user, cannot make becomes a copy."""


class YoloSplit:
    """Writes images and their labels into ``folder``/images/``name`` and ``folder``/labels/``name``."""

    def __init__(self, folder: Path, name: str, placement: Placement = "symlink") -> None:
        self.images, self.labels, self.placement = folder / "images" / name, folder / "labels" / name, placement
        self.images.mkdir(parents=True)
        self.labels.mkdir(parents=True)
        # No subfolders: Ultralytics replaces the last folder called images in a path by labels.
        self._names = UniqueNames(".txt", longest=250)  # the suffix of an image may be longer

    def write(self, name: str, records: Sequence[LocalizationRecord]) -> Path:
        """Write the boxes of an image, named after ``name``; return the image's path, without a file if it has none."""
        source = Path(records[0].source)
        label = self.labels / self._names.take(Path(name).stem)
        boxes = [(one.class_index, yolo_box(box, one.size)) for one in records for box in rounded_boxes(one)]
        lines = [f"{index} {' '.join(f'{value:.8f}' for value in box)}\n" for index, box in boxes]
        label.write_text("".join(lines), encoding="utf-8", newline="\n")
        image = self.images / (label.stem + source.suffix)
        if source.is_file():
            _place(source.resolve(), image, self.placement)
        return image


def _place(source: Path, target: Path, placement: Placement) -> None:
    with suppress(OSError):
        if placement == "hardlink":
            return target.hardlink_to(source)
        if placement == "symlink":
            return target.symlink_to(source)
    shutil.copyfile(source, target)
    return None


def write_data(folder: Path, classes: Sequence[str], val: str = "val") -> None:
    """Write data.yaml, which names the splits and the classes."""
    data = {"train": "images/train", "val": f"images/{val}", "names": dict(enumerate(classes))}
    write_text(folder / "data.yaml", yaml.safe_dump(data, allow_unicode=True, sort_keys=False))


@contextmanager
def _open(destination: Destination) -> Iterator[WriteImage]:
    with atomic_folder(destination.folder / "yolo", replace=True) as folder:
        # The only split is also the validation split, without which Ultralytics does not train.
        write_data(folder, destination.categories, val="train")
        yield YoloSplit(folder, "train").write


def yolo_box(box: Box, size: tuple[int, int]) -> Box:
    """Return a half-open box in pixels as centre x, centre y, width, height, fractions of the image in [0, 1].

    >>> yolo_box((10, 20, 30, 40), (100, 200))
    (0.2, 0.15, 0.2, 0.1)
    """
    (x0, y0, x1, y1), (width, height) = box, size
    return (x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height


FORMATS.add("yolo", Format(("yolo",), _open))
