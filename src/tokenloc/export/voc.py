"""Pascal VOC: one XML file an image, boxes in whole pixels counted from 1, the last included.

The devkit of the challenge (VOC2012) defines it. Scores have no place in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from xml.sax.saxutils import escape

from tokenloc._files import UniqueNames, atomic_folder
from tokenloc.data.annotations import Annotation, Box, read_voc
from tokenloc.data.images import files_under
from tokenloc.export.base import FORMATS, AddImage, Destination, Format, boxes_of
from tokenloc.inference.localization import LocalizationRecord

_IMAGE = """\
<annotation>
  <folder>{folder}</folder>
  <filename>{name}</filename>
  <source><database>tokenloc</database></source>
  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>
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
def _writing(destination: Destination) -> Iterator[AddImage]:
    """Files lie in ``Annotations`` as the images do below the root; ``filename`` is the name below the root."""
    labels, names = destination.labels, UniqueNames(".xml")
    with atomic_folder(destination.folder / "voc", replace=True) as folder:
        annotations = folder / "Annotations"
        annotations.mkdir()

        def add(name: str, found: Sequence[LocalizationRecord]) -> None:
            path = annotations / names.take(inner_stem(name))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_image(name, found, labels), encoding="utf-8", newline="\n")

        yield add


def inner_stem(name: str) -> str:
    """Return an image's name without its suffix, and without what leads out of a folder.

    >>> inner_stem("a.b/x.jpg"), inner_stem("/home/../x"), inner_stem("..")
    ('a.b/x', 'home/x', 'image')
    """
    path = PurePosixPath(name)
    parts = [part for part in path.parent.parts if part not in (path.anchor, "..")]
    return "/".join([*parts, path.stem if path.stem not in ("", "..") else "image"])


def _image(name: str, found: Sequence[LocalizationRecord], labels: Sequence[str]) -> str:
    width, height = found[0].size
    objects = "".join(
        _OBJECT.format(*voc_box(box), label=_escaped(labels[localization.class_index]))
        for localization in found
        for box in boxes_of(localization)
    )
    folder = _escaped(name.rpartition("/")[0])
    return _IMAGE.format(folder=folder, name=_escaped(name), width=width, height=height, objects=objects)


def voc_box(box: Box) -> tuple[int, int, int, int]:
    """Return a half-open box of pixel edges as VOC's xmin, ymin, xmax, ymax: pixels from 1, the last included.

    Edges go to the nearest pixel edge, so read back they are half a pixel off at most. A box of less than a pixel,
    which would vanish, becomes the pixel that its first corner lies in.

    >>> voc_box((10.4, 20.6, 30.0, 40.0)), voc_box((3.6, 7.0, 3.9, 9.0))
    ((11, 22, 30, 40), (4, 8, 4, 9))
    """
    xmin, xmax = _pixels(box[0], box[2])
    ymin, ymax = _pixels(box[1], box[3])
    return xmin, ymin, xmax, ymax


def _pixels(start: float, end: float) -> tuple[int, int]:
    first, last = round(start) + 1, round(end)
    return (first, last) if first <= last else (math.floor(start) + 1, math.floor(start) + 1)


def _escaped(text: str) -> str:
    return escape(text, {"\r": "&#13;"})  # bare, a reader would take it for a line end


def _read(folder: Path) -> list[Annotation]:
    """Return what the XML files below a folder hold; see ``read_voc``."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of Pascal VOC XML files")
    return [read_voc(path) for path in files_under(folder, {".xml"})]


VOC = FORMATS.add("voc", Format(("voc",), _writing, _read))
"""Pascal VOC: an XML file for each image."""
