"""Small trees in the layouts of official datasets; every image is 12x8 unless stated otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

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


def tree(root: Path, counts: Mapping[str, int]) -> Path:
    """Write images `0.jpg` … into each folder: tree(root, {"train/cat": 3})."""
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        images(root / folder, [f"{number}.jpg" for number in range(count)])
    return root


def text(path: Path, lines: Sequence[str]) -> Path:
    """Write lines to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def cub(root: Path, classes: Sequence[str] = ("001.Ant", "002.Bee", "003.Cat")) -> Path:
    """Write and return a CUB_200_2011 folder with two train and two test images of each class."""
    names = [f"{name}/{name[4:]}_{number}.jpg" for name in classes for number in range(4)]
    folder = root / "CUB_200_2011"
    images(folder / "images", names)
    tables: dict[str, Sequence[object]] = {
        "images.txt": names,
        "classes.txt": classes,
        "image_class_labels.txt": [1 + index // 4 for index in range(len(names))],
        "train_test_split.txt": [int(index % 4 < 2) for index in range(len(names))],
        "bounding_boxes.txt": [f"{index % 3}.0 1.0 6.0 5.0" for index in range(len(names))],
    }
    for table, values in tables.items():
        text(folder / table, [f"{number} {value}" for number, value in enumerate(values, start=1)])
    return folder


def voc(path: Path, name: str, boxes: Sequence[Sequence[float]], size: tuple[int, int] = SIZE) -> Path:
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
    """Write a split of `wsol-eval` files without sizes."""
    text(folder / "image_ids.txt", list(labels))
    text(folder / "class_labels.txt", [f"{name},{label}" for name, label in labels.items()])
    if localization:
        text(folder / "localization.txt", localization)
    return folder


def mat(path: Path, **variables: object) -> Path:
    """Write a MATLAB file; a list of strings becomes a column of cells, as in the Stanford datasets."""
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {name: _cells(value) if isinstance(value, list) else value for name, value in variables.items()})
    return path


def _cells(values: list[str]) -> np.ndarray:
    column = np.empty((len(values), 1), object)
    column[:, 0] = values
    return column


def structures(rows: Sequence[Mapping[str, object]]) -> np.ndarray:
    """Return a 1xN structure array, as in MATLAB annotations."""
    array = np.empty((1, len(rows)), [(name, object) for name in rows[0]])
    for column, row in enumerate(rows):
        array[0, column] = tuple(row.values())
    return array
