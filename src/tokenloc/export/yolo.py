"""YOLO by Ultralytics, https://docs.ultralytics.com/datasets/detect: one text file per image; no scores."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from tokenloc._files import UniqueNames, atomic_folder, write_text
from tokenloc.data.annotations import Box
from tokenloc.export.base import FORMATS, Destination, Format, WriteImage, rounded_boxes
from tokenloc.inference.localization import LocalizationRecord


@contextmanager
def _open(destination: Destination) -> Iterator[WriteImage]:
    # No subfolders: Ultralytics replaces the last folder called images in a path by labels.
    names = UniqueNames(".txt", longest=250)  # the suffix of an image may be longer
    # The only split is also the validation split, without which Ultralytics does not train.
    data = {"train": "images/train", "val": "images/train", "names": dict(enumerate(destination.categories))}
    with atomic_folder(destination.folder / "yolo", replace=True) as folder:
        images, labels = folder / "images/train", folder / "labels/train"
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        write_text(folder / "data.yaml", yaml.safe_dump(data, allow_unicode=True, sort_keys=False))

        def write_image(name: str, records: Sequence[LocalizationRecord]) -> None:
            source = Path(records[0].source)
            label = labels / names.take(Path(name).stem)
            boxes = [(one.class_index, yolo_box(box, one.size)) for one in records for box in rounded_boxes(one)]
            lines = [f"{index} {' '.join(f'{value:.8f}' for value in box)}\n" for index, box in boxes]
            label.write_text("".join(lines), encoding="utf-8", newline="\n")
            link = images / (label.stem + source.suffix)
            if source.is_file():
                try:
                    link.symlink_to(source.resolve())
                except OSError:  # the file system, or the Windows user, cannot make links
                    shutil.copyfile(source, link)

        yield write_image


def yolo_box(box: Box, size: tuple[int, int]) -> Box:
    """Return a half-open box in pixels as centre x, centre y, width, height, fractions of the image in [0, 1].

    >>> yolo_box((10, 20, 30, 40), (100, 200))
    (0.2, 0.15, 0.2, 0.1)
    """
    (x0, y0, x1, y1), (width, height) = box, size
    return (x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height


FORMATS.add("yolo", Format(("yolo",), _open))
