"""Tiny trees in the layouts of official datasets; every image is 12x8 unless said otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

Corners = Sequence[float]

SIZE = (12, 8)


def image(path: Path, size: tuple[int, int] = SIZE) -> Path:
    """Write an image of random pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(path))).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path, "JPEG" if path.suffix.lower() in (".jpeg", ".jpg") else None)
    return path


def images(folder: Path, names: Sequence[str], size: tuple[int, int] = SIZE) -> Path:
    """Write several images below a folder."""
    for name in names:
        image(folder / name, size)
    return folder


def text(path: Path, lines: Sequence[str]) -> Path:
    """Write lines to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def voc(path: Path, name: str, boxes: Sequence[Corners], size: tuple[int, int] = SIZE) -> Path:
    """Write a Pascal VOC XML file with objects of one class."""
    tags = ("xmin", "ymin", "xmax", "ymax")
    objects = "".join(
        f"<object><name>{name}</name><bndbox>"
        + "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(tags, box, strict=True))
        + "</bndbox></object>"
        for box in boxes
    )
    extent = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return text(path, [f"<annotation><folder>%s</folder><filename>%s</filename>{extent}{objects}</annotation>"])


def split_files(folder: Path, labels: Mapping[str, int], localization: Sequence[str] = ()) -> Path:
    """Write a split of the `wsol-eval` evaluator's files; sizes are left out."""
    text(folder / "image_ids.txt", list(labels))
    text(folder / "class_labels.txt", [f"{name},{label}" for name, label in labels.items()])
    if localization:
        text(folder / "localization.txt", localization)
    return folder


def mat(path: Path, **variables: object) -> Path:
    """Write a MATLAB file; a list of strings becomes a column of cells, as the Stanford datasets have them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {name: _cells(value) if isinstance(value, list) else value for name, value in variables.items()})
    return path


def _cells(values: list[str]) -> np.ndarray:
    column = np.empty((len(values), 1), object)
    column[:, 0] = values
    return column


def structures(rows: Sequence[Mapping[str, object]]) -> np.ndarray:
    """Return a 1xN structure array, as MATLAB keeps annotations."""
    array = np.empty((1, len(rows)), [(name, object) for name in rows[0]])
    for column, row in enumerate(rows):
        array[0, column] = tuple(row.values())
    return array
