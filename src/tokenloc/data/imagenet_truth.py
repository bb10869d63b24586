"""Boxes and classes of ILSVRC's images, from the official XML, Kaggle's tables or the lists of released code."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from functools import cache
from pathlib import Path
from posixpath import basename, dirname, splitext
from typing import NamedTuple

import numpy as np

from tokenloc.boxes.frame import Size
from tokenloc.data.annotations import read_voc
from tokenloc.data.base import NO_BOXES, Boxes, as_boxes, require_unique
from tokenloc.data.images import names_under
from tokenloc.data.lists import integer, number, rows

WNID = re.compile(r"n\d{8}")
"""A WordNet id, which names a class of ILSVRC."""

_LISTS = ("LOC_val_solution.csv", "ILSVRC2012_list/val_folder_new.txt")
_TITLE_FILES = ("LOC_synset_mapping.txt", "synset_words.txt", "classes.txt")


class Truth(NamedTuple):
    """The annotation of an image; None if the file states no class, or no (width, height)."""

    wnid: str | None
    boxes: Boxes
    size: Size | None = None


@cache
def all_wnids() -> tuple[str, ...]:
    """Return the 1000 WordNet ids of ILSVRC 2012 in the order of their labels, which is alphabetical."""
    from timm.data import ImageNetInfo  # takes seconds to import, and is rarely needed

    return tuple(ImageNetInfo("imagenet-1k").label_names())


def wnid_of(label: int, source: str) -> str:
    """Return the WordNet id of a label; raises ValueError, naming the ``source``, unless it is 0 to 999."""
    wnids = all_wnids()
    if not 0 <= label < len(wnids):
        raise ValueError(f"{source}: label {label} is not one of ILSVRC's, 0 to {len(wnids) - 1}; download it again")
    return wnids[label]


def find_truth(folders: Sequence[Path]) -> list[Path]:
    """Return the folders of XML files and the lists that hold boxes of val, official ones first."""
    below = ("Annotations/CLS-LOC/val", "Annotations/val", "val")
    found = [folder / name for folder in folders for name in below if next((folder / name).rglob("*.xml"), None)]
    return found + [folder / name for folder in folders for name in _LISTS if (folder / name).is_file()]


def read_truth(path: Path, wanted: Collection[str] | None = None) -> dict[str, Truth]:
    """Read a folder of XML files, Kaggle's LOC_*_solution.csv or a list of released code, by the images' stems.

    Boxes are kept unchanged: ILSVRC counts pixels from 0 (corners run from 0 to width - 1, in a few files to width),
    and `wsol-eval` and every released evaluator read them so. A list of released code has lines of
    `[WNID/]FILE LABEL x0 y0 x1 y1 …`, four numbers for each box.

    Args:
        path: the folder or file.
        wanted: stems of the images whose XML files to read; None for all.

    Raises:
        FileNotFoundError: if the path does not exist.
        ValueError: for a malformed line or file, or an image listed twice.
    """
    if path.is_dir():
        names = names_under(path, {".xml"})
        require_unique(list(map(stem_of, names)), path)
        return {stem_of(name): _from_voc(path / name) for name in names if wanted is None or stem_of(name) in wanted}
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file or folder; check option annotations")
    parse: Callable[[str, str], tuple[str, Truth]] = _csv_line if path.suffix.lower() == ".csv" else _released_line
    entries = [parse(row[0], line) for line, row in rows(path, 1) if row[0] != "ImageId,PredictionString"]
    require_unique([stem for stem, _ in entries], path)
    return dict(entries)


def read_titles(folders: Sequence[Path]) -> dict[str, str]:
    """Return names in words by WordNet id, from the first list that exists; empty if none does.

    A name is the first of its synonyms; a name that two classes share (ILSVRC has two cranes) also states the id.
    """
    path = next((folder / name for name in _TITLE_FILES for folder in folders if (folder / name).is_file()), None)
    if path is None:
        return {}
    titles: dict[str, str] = {}
    for line, row in rows(path, 1):
        match = re.search(r"\b(n\d{8})[\s,]+(\S.*)", row[0])
        if match is None:
            raise ValueError(f"{line}: expected a WordNet id and a name, got {row[0]!r}; correct or remove the file")
        titles[match[1]] = match[2].split(",")[0].strip()
    names = list(titles.values())
    return {wnid: f"{name} ({wnid})" if names.count(name) > 1 else name for wnid, name in titles.items()}


def _from_voc(path: Path) -> Truth:
    """Return the boxes of the first object's class; in ILSVRC all objects of a file are of one class."""
    annotation = read_voc(path, counted_from=0)
    if not annotation.objects:
        return Truth(None, NO_BOXES, annotation.size)
    wnid = annotation.objects[0][0]
    return Truth(wnid, as_boxes([box for name, box in annotation.objects if name == wnid]), annotation.size)


def _csv_line(text: str, line: str) -> tuple[str, Truth]:
    """Read `ID,WNID x0 y0 x1 y1 WNID x0 …`."""
    stem, _, objects = text.partition(",")
    cells = objects.split()
    if not cells or len(cells) % 5:
        raise ValueError(f"{line}: expected ID,WNID x0 y0 x1 y1 …, got {text!r}; correct it, or download it again")
    corners = [number(cell, line) for position, cell in enumerate(cells) if position % 5]
    return stem, Truth(cells[0], as_boxes(np.reshape(corners, (-1, 4))))


def _released_line(text: str, line: str) -> tuple[str, Truth]:
    """Read `[WNID/]FILE LABEL x0 y0 x1 y1 …`."""
    name, *cells = text.split()
    if len(cells) % 4 != 1:
        raise ValueError(f"{line}: expected FILE LABEL x0 y0 x1 y1 …, got {text!r}; correct it, or download it again")
    wnid = wnid_of(integer(cells[0], line), line)
    folder = basename(dirname(name))
    if WNID.fullmatch(folder) and folder != wnid:
        raise ValueError(f"{line}: the folder says {folder}, but label {cells[0]} is {wnid}; download it again")
    corners = [number(cell, line) for cell in cells[1:]]
    return stem_of(name), Truth(wnid, as_boxes(np.reshape(corners, (-1, 4))))


def stem_of(name: str) -> str:
    """Return a file's name without folders and suffix."""
    return splitext(basename(name))[0]
