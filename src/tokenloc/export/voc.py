"""Pascal VOC (devkit of VOC2012): one XML file per image, boxes in pixels from 1, the last included; no scores."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from xml.sax.saxutils import escape

from tokenloc._files import UniqueNames, atomic_folder
from tokenloc.data.annotations import Box
from tokenloc.export.base import FORMATS, Destination, Format, WriteImage, rounded_boxes
from tokenloc.inference.localization import LocalizationRecord

_IMAGE = """\
<annotation>
  <folder>{folder}</folder>
  <filename>{name}</filename>
  <source><database>tokenloc</database></source>
  <size><width>{0}</width><height>{1}</height><depth>3</depth></size>
  <segmented>0</segmented>
{objects}</annotation>
"""

_OBJECT = """\
  <object>
    <name>{label}</name>
    <pose>Unspecified</pose>
    <truncated>0</truncated>
    <difficult>0</difficult>
    <bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox>
  </object>
"""


@contextmanager
def _open(destination: Destination) -> Iterator[WriteImage]:
    """The folder ``Annotations`` mirrors the folders of the images; ``filename`` is the name relative to the root."""
    labels, names = [_escape(label) for label in destination.labels], UniqueNames(".xml")
    with atomic_folder(destination.folder / "voc", replace=True) as folder:
        annotations = folder / "Annotations"
        annotations.mkdir()

        def write_image(name: str, records: Sequence[LocalizationRecord]) -> None:
            path = annotations / names.take(safe_stem(name))
            path.parent.mkdir(parents=True, exist_ok=True)
            boxes = [(labels[record.class_index], box) for record in records for box in rounded_boxes(record)]
            objects = "".join(_OBJECT.format(*voc_box(box), label=label) for label, box in boxes)
            parent = _escape(name.rpartition("/")[0])
            xml = _IMAGE.format(*records[0].size, folder=parent, name=_escape(name), objects=objects)
            path.write_text(xml, encoding="utf-8", newline="\n")

        yield write_image


def safe_stem(name: str) -> str:
    """Return the name of an image without its suffix and without components that lead out of a folder.

    >>> safe_stem("a.b/x.jpg"), safe_stem("/home/../x"), safe_stem(".."), safe_stem("a.xml/x.jpg")
    ('a.b/x', 'home/x', 'image', 'a_xml/x')
    """
    path = PurePosixPath(name)
    folders = [_folder_name(part) for part in path.parent.parts if part not in (path.anchor, "..")]
    return "/".join([*folders, path.stem if path.stem not in ("", "..") else "image"])


def _folder_name(name: str) -> str:
    """Return a name of at most 255 bytes, the limit of file systems, that no annotation file beside it can have."""
    name = re.sub(r"\.xml$", "_xml", name, flags=re.IGNORECASE)
    return name.encode()[:255].decode("utf-8", "ignore")


def voc_box(box: Box) -> tuple[int, int, int, int]:
    """Return a half-open box as VOC's xmin, ymin, xmax, ymax: pixels from 1, the last included.

    Each edge moves to the nearest pixel edge; a box smaller than a pixel becomes the pixel of its first corner.

    >>> voc_box((10.4, 20.6, 30.0, 40.0)), voc_box((3.6, 7.0, 3.9, 9.0))
    ((11, 22, 30, 40), (4, 8, 4, 9))
    """
    (xmin, xmax), (ymin, ymax) = _pixels(box[0], box[2]), _pixels(box[1], box[3])
    return xmin, ymin, xmax, ymax


def _pixels(start: float, end: float) -> tuple[int, int]:
    first, last = round(start) + 1, round(end)
    return (first, last) if first <= last else (math.floor(start) + 1, math.floor(start) + 1)


def _escape(text: str) -> str:
    return escape(text, {"\r": "&#13;"})  # XML readers would turn a plain carriage return into a line feed


FORMATS.add("voc", Format(("voc",), _open))
