"""YOLO as Ultralytics has it: a text file an image; class, centre, width and height as shares of the image.

The format is documented at https://docs.ultralytics.com/datasets/detect. Scores have no place in it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tokenloc._files import UniqueNames, atomic_folder, write_text
from tokenloc.data.annotations import Annotation, Box
from tokenloc.data.images import IMAGE_SUFFIXES, files_under, read_image
from tokenloc.data.lists import integer, number
from tokenloc.export.base import FORMATS, AddImage, Destination, Format, boxes_of
from tokenloc.inference.localization import LocalizationRecord

PART = "train"
"""The one split that is written; its images are named for validation too, without which nothing trains."""


@contextmanager
def _writing(destination: Destination) -> Iterator[AddImage]:
    """Images are linked, labels beside them have the same name: each name once, though folders hold the same one.

    Names lie flat, since Ultralytics takes the last folder called images in a path for its own.
    """
    names = UniqueNames(".txt", longest=250)  # an image's suffix may be longer
    with atomic_folder(destination.folder / "yolo", replace=True) as folder:
        images, labels = folder / "images" / PART, folder / "labels" / PART
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        write_text(folder / "data.yaml", _data(destination.labels))

        def add(name: str, found: Sequence[LocalizationRecord]) -> None:
            source = Path(found[0].source)
            label = labels / names.take(Path(name).stem)
            label.write_text("".join(map(_lines, found)), encoding="utf-8", newline="\n")
            if source.is_file():
                _link(images / (label.stem + source.suffix), source)

        yield add


def _data(labels: Sequence[str]) -> str:
    images = f"images/{PART}"
    content = {"train": images, "val": images, "names": dict(enumerate(labels))}
    return str(yaml.safe_dump(content, allow_unicode=True, sort_keys=False))


def _lines(localization: LocalizationRecord) -> str:
    boxes = (yolo_box(box, localization.size) for box in boxes_of(localization))
    return "".join(f"{localization.class_index} {' '.join(f'{share:.8f}' for share in box)}\n" for box in boxes)


def yolo_box(box: Box, size: tuple[int, int]) -> Box:
    """Return a half-open box of pixels as centre x, centre y, width, height, each a share of the image in [0, 1].

    >>> yolo_box((10, 20, 30, 40), (100, 200))
    (0.2, 0.15, 0.2, 0.1)
    """
    (x0, y0, x1, y1), (width, height) = box, size
    return (x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height


def _link(link: Path, image: Path) -> None:
    try:
        link.symlink_to(image.resolve())
    except OSError:  # a file system, or a Windows user, without links
        shutil.copyfile(image, link)


def _read(folder: Path) -> list[Annotation]:
    """Return what a YOLO folder holds; the sizes come from the images, without which shares mean nothing."""
    data = folder / "data.yaml"
    if not data.is_file():
        raise FileNotFoundError(f"{data}: no such file; name a folder with data.yaml, images and labels")
    names = _class_names(data)
    images = {path.stem: path for path in files_under(folder / "images" / PART, IMAGE_SUFFIXES)}
    labels = files_under(folder / "labels" / PART, {".txt"})
    for path in labels:
        if path.stem not in images:
            raise ValueError(f"{path}: its image is not in images/{PART}; YOLO's boxes are shares of the image")
    return [_annotation(path, images[path.stem], names) for path in labels]


def _class_names(data: Path) -> dict[int, str]:
    try:
        names: Any = yaml.safe_load(data.read_text(encoding="utf-8"))["names"]
        return dict(enumerate(names)) if isinstance(names, list) else {int(key): str(names[key]) for key in names}
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{data}: expected YAML with the class names under 'names' ({error})") from error


def _annotation(path: Path, image: Path, names: dict[int, str]) -> Annotation:
    size = read_image(image).size
    objects = tuple(_object(line, size, names, path) for line in path.read_text(encoding="utf-8").splitlines())
    return Annotation(image.name, objects, size)


def _object(line: str, size: tuple[int, int], names: dict[int, str], path: Path) -> tuple[str, Box]:
    words = line.split()
    if len(words) != 5 or integer(words[0], str(path)) not in names:
        raise ValueError(f"{path}: expected 'class cx cy width height' with a class of data.yaml, got {line!r}")
    cx, cy, width, height = (number(word, str(path)) for word in words[1:])
    x, y = size
    box = ((cx - width / 2) * x, (cy - height / 2) * y, (cx + width / 2) * x, (cy + height / 2) * y)
    return names[int(words[0])], box


YOLO = FORMATS.add("yolo", Format(("yolo",), _writing, _read))
"""Ultralytics' YOLO: data.yaml, a text file and a link for each image."""
