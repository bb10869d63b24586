"""Small dataset trees, made for each test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MakeImage = Callable[..., Path]


@pytest.fixture
def make_image() -> MakeImage:
    """Write an image of random pixels: make_image(path, size=(width, height))."""

    def make(path: Path, size: tuple[int, int] = (12, 8)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(len(str(path))).integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return make


@pytest.fixture
def make_tree(make_image: MakeImage) -> Callable[[Path, Mapping[str, int]], Path]:
    """Write n images `0.jpg` … in each folder: make_tree(root, {"train/cat": 3})."""

    def make(root: Path, counts: Mapping[str, int]) -> Path:
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                make_image(root / folder / f"{number}.jpg")
        return root

    return make


@pytest.fixture
def make_cub(make_image: MakeImage) -> Callable[..., Path]:
    """Write a CUB_200_2011 folder with two train and two test images, 12x8, of each class; return it."""

    def make(root: Path, classes: Sequence[str] = ("001.Ant", "002.Bee", "003.Cat")) -> Path:
        folder = root / "CUB_200_2011"
        names = [f"{name}/{name[4:]}_{number}.jpg" for name in classes for number in range(4)]
        for name in names:
            make_image(folder / "images" / name)
        tables = {
            "images.txt": names,
            "classes.txt": classes,
            "image_class_labels.txt": [1 + index // 4 for index in range(len(names))],
            "train_test_split.txt": [int(index % 4 < 2) for index in range(len(names))],
            "bounding_boxes.txt": [f"{index % 3}.0 1.0 6.0 5.0" for index in range(len(names))],
        }
        for table, values in tables.items():
            lines = [f"{number} {value}\n" for number, value in enumerate(values, start=1)]
            (folder / table).write_text("".join(lines))
        return folder

    return make
