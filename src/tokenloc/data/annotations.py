"""Boxes written by annotation tools: COCO JSON, Label Studio's JSON export and Pascal VOC XML."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

from tokenloc._files import open_regular, read_text
from tokenloc._plain import load_json
from tokenloc.boxes.frame import Size
from tokenloc.data.base import NO_BOXES, Boxes, as_boxes, shorten
from tokenloc.data.lists import number

Box = tuple[float, float, float, float]

LOCAL_FILES = "/data/local-files/?d="
"""Start of Label Studio's address of a local file."""


@dataclass(frozen=True)
class Annotation:
    """The annotation of one image."""

    file_name: str
    """As in the file, possibly with folders."""
    objects: tuple[tuple[str, Box], ...]
    """(class name, xyxy half-open box in original pixels)."""
    size: Size | None = None
    """(width, height), if the file states it."""

    def boxes_of(self, name: str, classes: Collection[str]) -> Boxes:
        """Return the boxes [G, 4] of class ``name`` and those whose name is not in ``classes``.

        A box named "object" or "1" thus counts for an image of any class; a box of another class does not.
        """
        boxes = [box for label, box in self.objects if label == name or label not in classes]
        return as_boxes(boxes) if boxes else NO_BOXES


def read_json(path: str | Path) -> list[Annotation]:
    """Return the annotated images of a COCO file (an object) or of Label Studio's JSON export (a list of tasks).

    COCO's crowds are left out. Of a task's annotations, the last that was not cancelled counts; tasks without one are
    left out, so that a model is not evaluated on its own predictions.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it is not JSON of either kind, or a box is rotated.
    """
    path, kind = Path(path), "COCO or Label Studio tasks"
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such annotation file; check option annotations")
    try:
        content = load_json(read_text(path))
        kind = "Label Studio tasks with boxes" if isinstance(content, list) else "COCO"
        return list(_from_tasks(content) if isinstance(content, list) else _from_coco(content))
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path}: not valid {kind} ({type(error).__name__}: {error}); export it again") from error


def _from_coco(content: Mapping[str, Any]) -> Iterator[Annotation]:
    names = {category["id"]: str(category["name"]) for category in content.get("categories", [])}
    objects: dict[object, list[tuple[str, Box]]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        if annotation["image_id"] not in objects:
            raise ValueError(f"an annotation's image_id {annotation['image_id']!r} is not among the images")
        if "bbox" in annotation and not annotation.get("iscrowd"):
            x, y, width, height = map(float, annotation["bbox"])
            name = names.get(annotation.get("category_id"), "")
            objects[annotation["image_id"]].append((name, (x, y, x + width, y + height)))
    for image in content["images"]:
        size = (int(image["width"]), int(image["height"])) if "width" in image and "height" in image else None
        yield Annotation(str(image["file_name"]).replace("\\", "/"), tuple(objects[image["id"]]), size)


def _from_tasks(tasks: Sequence[Mapping[str, Any]]) -> Iterator[Annotation]:
    for task in tasks:
        address, local, path = task["data"]["image"].partition(LOCAL_FILES)
        results = [one for one in task.get("annotations") or [] if not one.get("was_cancelled")]
        if results:
            regions = [region for region in results[-1].get("result", []) if region["type"] == "rectanglelabels"]
            sizes = [(int(region["original_width"]), int(region["original_height"])) for region in regions]
            objects = tuple(region_box(region) for region in regions)
            yield Annotation(unquote(path if local else address), objects, sizes[0] if sizes else None)


def region_box(region: Mapping[str, Any]) -> tuple[str, Box]:
    """Return the label and the xyxy box, in original pixels, of a ``rectanglelabels`` region of Label Studio.

    Raises ValueError, LookupError or TypeError if it is rotated, not labeled, or not such a region.
    """
    value, width, height = region["value"], region["original_width"], region["original_height"]
    if value.get("rotation"):
        raise ValueError(f"a box is rotated by {value['rotation']} degrees, but boxes must be upright; rotate it back")
    x0, y0 = value["x"] * width / 100, value["y"] * height / 100
    x1, y1 = x0 + value["width"] * width / 100, y0 + value["height"] * height / 100
    labels = value["rectanglelabels"]
    if not isinstance(labels, list) or not labels or not isinstance(labels[0], str):
        raise ValueError(f"a box has {labels!r:.80} as its rectanglelabels, expected the name of a class; label it")
    return labels[0], (x0, y0, x1, y1)


def read_voc(path: str | Path, counted_from: int = 1) -> Annotation:
    """Return the annotation of a Pascal VOC XML file; see ``half_open`` for ``counted_from``.

    A document type declaration raises a ValueError, as other files do: entities are never expanded.
    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            root = parse_xml(file.read())
    except ValueError as error:
        raise ValueError(f"{path}: not a Pascal VOC XML file ({error}); export it again, or remove it") from error
    objects = tuple(_voc_object(element, path, counted_from) for element in root.iter("object"))
    width, height = root.findtext("size/width"), root.findtext("size/height")
    size = (round(number(width, str(path))), round(number(height, str(path)))) if width and height else None
    file_name = (root.findtext("filename") or path.stem).strip().replace("\\", "/")
    return Annotation(file_name, objects, None if size == (0, 0) else size)


def parse_xml(text: str | bytes) -> ElementTree.Element:
    """Return the root of XML without a document type declaration; raise ValueError for anything else."""
    try:
        return ElementTree.fromstring(text, ElementTree.XMLParser(target=_WithoutDocumentType()))
    except (ElementTree.ParseError, LookupError) as error:  # LookupError: an unknown encoding
        raise ValueError(str(error)) from error


class _WithoutDocumentType(ElementTree.TreeBuilder):
    def doctype(self, *_: object) -> None:
        raise ValueError("it has a document type declaration, which may hide an attack; remove it")


def _voc_object(element: ElementTree.Element, path: Path, counted_from: int) -> tuple[str, Box]:
    corners = [element.findtext(f"bndbox/{name}") for name in ("xmin", "ymin", "xmax", "ymax")]
    if None in corners:
        raise ValueError(f"{path}: an object lacks a bndbox with xmin, ymin, xmax, ymax; export it again")
    box = half_open((number(str(corner), str(path)) for corner in corners), counted_from)
    return (element.findtext("name") or "").strip(), box


def half_open(corners: Iterable[float], counted_from: int) -> Box:
    """Return corners x0, y0, x1, y1 of the first and the last pixel as a half-open box that counts pixels from 0.

    If they are counted from 1, as in VOC, that is x0 - 1, y0 - 1, x1, y1; a 0, which tools that count from 0 write,
    stays 0. If they are counted from 0, they are unchanged, as in every published evaluator.

    >>> half_open([1, 1, 12, 8], counted_from=1)
    (0, 0, 12, 8)
    """
    x0, y0, x1, y1 = corners
    left, top = (low - counted_from if low >= counted_from else low for low in (x0, y0))
    return left, top, x1, y1


def match(file_names: Iterable[str], ids: Mapping[str, str], source: Path) -> dict[str, str]:
    """Return the annotated file name of each image that has one.

    A file name matches an image if one ends with the other, folder by folder: "cat/1.jpg" and "data/train/cat/1.jpg"
    both match the image "train/cat/1.jpg". Several matches raise a ValueError.

    Args:
        file_names: unique names in the annotations.
        ids: text to compare with, by image: its id, with or without suffix.
        source: the annotations' file or folder, for messages.

    >>> match(["cat/1.jpg", "3.jpg"], {"train/cat/1.jpg": "train/cat/1.jpg"}, Path("boxes.json"))
    {'train/cat/1.jpg': 'cat/1.jpg'}
    """
    by_name: dict[str, list[str]] = {}
    for image, compared in ids.items():
        by_name.setdefault(compared.rpartition("/")[2], []).append(image)
    matched: dict[str, str] = {}
    for file_name in file_names:
        candidates = by_name.get(file_name.rpartition("/")[2], [])
        fitting = [name for name in candidates if _ends(ids[name], file_name) or _ends(file_name, ids[name])]
        if len(fitting) > 1:
            raise ValueError(f"{source}: {file_name} matches several images: {shorten(fitting)}; add its folder")
        for image in fitting:
            if matched.setdefault(image, file_name) != file_name:
                raise ValueError(f"{source}: {matched[image]} and {file_name} both match {image}; keep one")
    return matched


def _ends(whole: str, end: str) -> bool:
    return whole == end or whole.endswith("/" + end)
