"""COCO JSON: one file, boxes as x, y, width, height in pixels; https://cocodataset.org/#format-data."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import IO, Any

from tokenloc._files import atomic_write
from tokenloc.data.annotations import read_coco
from tokenloc.export._json_list import JsonList
from tokenloc.export.base import FORMATS, PIXEL_DIGITS, SCORE_DIGITS, AddImage, Destination, Format, boxes_of
from tokenloc.inference.localization import LocalizationRecord


@contextmanager
def _writing(destination: Destination) -> Iterator[AddImage]:
    """Ids of images, annotations and categories count from 1; category id = class index + 1."""
    with (
        atomic_write(destination.folder / "coco.json") as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as file,
        # Images and annotations come in turns, but lie in two arrays: the second waits here, not in memory.
        TemporaryFile("w+", encoding="utf-8", newline="\n") as waiting,
    ):
        images, annotations = JsonList(file), JsonList(waiting)
        file.write('{"info": {"description": "boxes by tokenloc"},\n"licenses": [],\n"categories": [')
        _add_categories(file, destination)
        file.write('],\n"images": [')

        def add(name: str, found: Sequence[LocalizationRecord]) -> None:
            width, height = found[0].size
            images.add({"id": images.count + 1, "file_name": name, "width": width, "height": height})
            for localization in found:
                for entry in _entries(localization):
                    annotations.add({"id": annotations.count + 1, "image_id": images.count, **entry})

        yield add
        file.write('],\n"annotations": [')
        waiting.seek(0)
        shutil.copyfileobj(waiting, file)
        file.write("]}\n")


def _add_categories(file: IO[str], destination: Destination) -> None:
    categories = JsonList(file)
    for index, label in enumerate(destination.labels):
        categories.add({"id": index + 1, "name": label, "supercategory": ""})


def _entries(localization: LocalizationRecord) -> Iterator[dict[str, Any]]:
    for x0, y0, x1, y1 in boxes_of(localization):
        width, height = round(x1 - x0, PIXEL_DIGITS), round(y1 - y0, PIXEL_DIGITS)
        yield {
            "category_id": localization.class_index + 1,
            "bbox": [x0, y0, width, height],
            "area": round(width * height, PIXEL_DIGITS),
            "iscrowd": 0,
            "segmentation": [],  # tools that find outlines there show them in place of the box
            "score": round(localization.score, SCORE_DIGITS),
        }


COCO = FORMATS.add("coco", Format(("coco.json",), _writing, read_coco))
"""COCO: coco.json."""
