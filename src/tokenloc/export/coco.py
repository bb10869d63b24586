"""COCO JSON: one file, boxes as x, y, width, height in pixels; https://cocodataset.org/#format-data."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from tempfile import TemporaryFile

from tokenloc._files import atomic_text
from tokenloc.export.base import FORMATS, PIXEL_DIGITS, Destination, Format, JsonArray, WriteImage, rounded_boxes
from tokenloc.inference.localization import LocalizationRecord


@contextmanager
def _open(destination: Destination) -> Iterator[WriteImage]:
    """Ids of images, annotations and categories count from 1; the category id is the class index + 1."""
    # The annotations follow the images in the file: a temporary file collects them, not memory.
    with atomic_text(destination.folder / "coco.json") as file, TemporaryFile("w+", encoding="utf-8") as collected:
        categories, images, annotations = JsonArray(file), JsonArray(file), JsonArray(collected)
        file.write('{"info": {"description": "boxes by tokenloc"},\n"licenses": [],\n"categories": [')
        for label in destination.categories:
            categories.append({"id": categories.count + 1, "name": label, "supercategory": ""})
        file.write('],\n"images": [')

        def write_image(name: str, records: Sequence[LocalizationRecord]) -> None:
            size = dict(zip(("width", "height"), records[0].size, strict=True))
            images.append({"id": images.count + 1, "file_name": name, **size})
            for record in records:
                for x0, y0, x1, y1 in rounded_boxes(record):
                    width, height = round(x1 - x0, PIXEL_DIGITS), round(y1 - y0, PIXEL_DIGITS)
                    annotation = {
                        "id": annotations.count + 1,
                        "image_id": images.count,
                        "category_id": record.class_index + 1,
                        "bbox": [x0, y0, width, height],
                        "area": round(width * height, PIXEL_DIGITS),
                        "iscrowd": 0,
                        "segmentation": [],  # tools would display an outline instead of the box
                        "score": round(record.score, 6),
                    }
                    annotations.append(annotation)

        yield write_image
        file.write('],\n"annotations": [')
        collected.seek(0)
        shutil.copyfileobj(collected, file)
        file.write("]}\n")


FORMATS.add("coco", Format(("coco.json",), _open))
