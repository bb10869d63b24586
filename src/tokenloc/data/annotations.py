"""Boxes that a person's annotation tool wrote: COCO JSON and Pascal VOC XML."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from tokenloc.data.base import NO_BOXES, as_boxes, named
from tokenloc.data.splits import number

Size = tuple[int, int]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Annotation:
    """What a file says of one image.

    Args:
        file_name: the image's name as the file has it, maybe with folders.
        objects: (class name, xyxy half-open box in original pixels), as annotated.
        size: (width, height) of the image, None where the file states none.
        scores: of the objects, in [0, 1], where the file states them; else none at all.
    """

    file_name: str
    objects: tuple[tuple[str, Box], ...]
    size: Size | None = None
    scores: tuple[float, ...] = ()

    def boxes_of(self, name: str, classes: Collection[str]) -> NDArray[np.float64]:
        """Return the boxes [G, 4] of class ``name``: those named so, and those whose name is no class at all.

        A box named "object" or "1" counts for whatever class the image is of; one of another class does not.
        """
        kept = [box for label, box in self.objects if label == name or label not in classes]
        return as_boxes(kept) if kept else NO_BOXES


def read_coco(path: str | Path) -> list[Annotation]:
    """Return a COCO JSON file's images, with their boxes `x, y, width, height` as corners; crowds are left out.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where the file is not JSON, lacks `images` or `annotations`, or an entry is not as it should be.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such annotation file; check option annotations")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not a JSON file ({error}); export it again") from error
    if not isinstance(content, dict) or not {"images", "annotations"} <= set(content):
        raise ValueError(f"{path}: expected COCO: an object with lists 'images' and 'annotations'; export it again")
    try:
        return _coco_annotations(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: not as COCO has it ({type(error).__name__}: {error}); export it again") from error


def _coco_annotations(content: Mapping[str, Any]) -> list[Annotation]:
    names = {category["id"]: str(category["name"]) for category in content.get("categories", [])}
    objects: dict[object, list[tuple[str, Box]]] = {image["id"]: [] for image in content["images"]}
    scores: dict[object, list[float]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        if annotation["image_id"] not in objects:
            raise ValueError(f"an annotation's image_id {annotation['image_id']!r} is not among the images")
        if "bbox" in annotation and not annotation.get("iscrowd"):
            x, y, width, height = map(float, annotation["bbox"])
            name = names.get(annotation.get("category_id"), "")
            objects[annotation["image_id"]].append((name, (x, y, x + width, y + height)))
            scores[annotation["image_id"]] += [float(annotation["score"])] if "score" in annotation else []
    return [
        Annotation(
            str(image["file_name"]).replace("\\", "/"),
            tuple(objects[image["id"]]),
            (int(image["width"]), int(image["height"])) if "width" in image and "height" in image else None,
            tuple(scores[image["id"]] if len(scores[image["id"]]) == len(objects[image["id"]]) else ()),
        )
        for image in content["images"]
    ]


def read_voc(path: str | Path, counted_from: int = 1) -> Annotation:
    """Return what a Pascal VOC XML file says of its image.

    VOC counts pixels from 1 and includes the last: xmin, ymin, xmax, ymax become xmin - 1, ymin - 1, xmax, ymax.
    Tools that count from 0 write 0 there; this stays 0.

    Args:
        path: the XML file.
        counted_from: 0 where the files count pixels from 0, which keeps their corners as they stand; see
            ``half_open``.

    Raises:
        ValueError: where the file is not XML or not as VOC has it, or declares entities (none is ever expanded).
    """
    path = Path(path)
    root = _parsed(path)
    objects = tuple(_voc_object(element, path, counted_from) for element in root.iter("object"))
    width, height = root.findtext("size/width"), root.findtext("size/height")
    size = (round(number(width, str(path))), round(number(height, str(path)))) if width and height else None
    file_name = (root.findtext("filename") or path.stem).strip().replace("\\", "/")
    return Annotation(file_name, objects, None if size == (0, 0) else size)


def _voc_object(element: Element, path: Path, counted_from: int) -> tuple[str, Box]:
    corners = [element.findtext(f"bndbox/{name}") for name in ("xmin", "ymin", "xmax", "ymax")]
    if None in corners:
        raise ValueError(f"{path}: an object lacks a bndbox with xmin, ymin, xmax, ymax; export it again")
    box = half_open((number(str(corner), str(path)) for corner in corners), counted_from)
    return (element.findtext("name") or "").strip(), box


def half_open(corners: Iterable[float], counted_from: int) -> Box:
    """Return corners x0, y0, x1, y1 of an annotation file as a half-open box that counts pixels from 0.

    Args:
        corners: of the first and the last pixel.
        counted_from: 1 where the file counts pixels from 1 and includes the last: x0 - 1, y0 - 1, x1, y1 (a 0 stays
            0). 0 where it counts from 0: corners are kept as they stand, as every published evaluator takes them.

    >>> half_open([1, 1, 12, 8], counted_from=1)
    (0, 0, 12, 8)
    """
    x0, y0, x1, y1 = corners
    left, top = (low - counted_from if low >= counted_from else low for low in (x0, y0))
    return left, top, x1, y1


def _parsed(path: Path) -> Element:
    """Return an XML file's root element; a file with a document type, the home of entities, is refused."""
    builder, parser = TreeBuilder(), expat.ParserCreate()
    parser.StartDoctypeDeclHandler = _refuse_document_type
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(path.read_bytes(), True)
    except (expat.ExpatError, ValueError) as error:
        raise ValueError(f"{path}: not a Pascal VOC XML file ({error}); export it again, or remove it") from error
    return builder.close()


def _refuse_document_type(*_: object) -> None:
    raise ValueError("it has a document type declaration, which VOC files have not and which may hide an attack")


def match(file_names: Iterable[str], ids: Mapping[str, str], source: Path) -> dict[str, str]:
    """Return the annotated file name of each image that has one.

    A file name stands for the image whose id it ends, folder by folder, or which ends it: so "cat/1.jpg" is the
    image "train/cat/1.jpg", and so is "data/train/cat/1.jpg".

    Args:
        file_names: names as the annotations have them, each once.
        ids: by image, what to compare with: its id, or its id without suffix.
        source: the annotations' file or folder, for messages.

    Raises:
        ValueError: where a file name may be any of several images, or two file names fit one.

    >>> match(["cat/1.jpg", "3.jpg"], {"train/cat/1.jpg": "train/cat/1.jpg"}, Path("boxes.json"))
    {'train/cat/1.jpg': 'cat/1.jpg'}
    """
    by_name: dict[str, list[str]] = {}
    for image, compared in ids.items():
        by_name.setdefault(compared.rpartition("/")[2], []).append(image)
    matched: dict[str, str] = {}
    for file_name in file_names:
        candidates = by_name.get(file_name.rpartition("/")[2], [])
        fitting = [name for name in candidates if _is_end(ids[name], file_name) or _is_end(file_name, ids[name])]
        if len(fitting) > 1:
            raise ValueError(f"{source}: {file_name} may be any of {named(fitting)}; name its folder too")
        for image in fitting:
            if matched.setdefault(image, file_name) != file_name:
                raise ValueError(f"{source}: {matched[image]} and {file_name} both fit {image}; keep one")
    return matched


def _is_end(whole: str, end: str) -> bool:
    return whole == end or whole.endswith("/" + end)
