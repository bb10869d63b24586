"""Small versions of the folders in the pages: images by class, and each dataset in its official layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from tests.conftest import REPOSITORY
from tests.data import builders as build
from tokenloc.data import create_dataset

CLASSES = ("bird", "cat", "dog")
SIZE = (60, 48)


def images(folder: Path, classes: tuple[str, ...], count: int, split: str) -> list[tuple[Path, list[float]]]:
    """Write ``count`` scenes of each class into a folder per class; return paths and boxes."""
    scenes = create_dataset("scenes", None, split, size=SIZE, length=6 * count)
    written = []
    for index, sample in enumerate(scenes):
        if sample.label < len(classes):
            path = folder / classes[sample.label] / f"{index:03d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            scenes.image(index).save(path)
            written.append((path, sample.boxes[0].tolist()))
    return written


def own_images(home: Path) -> None:
    """Write PHOTOS by class and their heatmaps, IMAGES unsorted, and CHECKED with its boxes in corrected.json."""
    for path, _ in images(home / "PHOTOS", CLASSES, 8, "train"):
        map_ = (home / "heatmaps" / path.relative_to(home / "PHOTOS")).with_suffix(".npy")
        map_.parent.mkdir(parents=True, exist_ok=True)
        np.save(map_, np.eye(14))
    for path, _ in images(home / "sorted", CLASSES, 1, "val"):
        (home / "IMAGES").mkdir(exist_ok=True)
        path.rename(home / "IMAGES" / path.name)
    Image.open(next((home / "IMAGES").iterdir())).save(home / "photo.jpg")
    checked = [pair for split in ("val", "test") for pair in images(home / "CHECKED" / split, CLASSES, 2, split)]
    tasks = [task(path.relative_to(home).as_posix(), path.parent.name, box) for path, box in checked]
    (home / "corrected.json").write_text(json.dumps(tasks))


def task(name: str, label: str, box: list[float]) -> dict[str, Any]:
    """Return an annotated task as Label Studio exports it."""
    x, y, right, bottom = (100 * value / side for value, side in zip(box, 2 * SIZE, strict=True))
    value = {"x": x, "y": y, "width": right - x, "height": bottom - y, "rotation": 0, "rectanglelabels": [label]}
    region = {"type": "rectanglelabels", "original_width": SIZE[0], "original_height": SIZE[1], "value": value}
    return {"data": {"image": f"/data/local-files/?d=home/{name}"}, "annotations": [{"result": [region]}]}


def cub(folder: Path) -> None:
    """Write the ten classes of recipes/cub10: two training images and one test image of each, with masks."""
    classes = yaml.safe_load((REPOSITORY / "recipes/cub10/_data.yaml").read_text())["classes"]
    scenes = create_dataset("scenes", None, "train", size=SIZE, length=3 * len(classes))
    names, boxes = [], []
    for index, sample in enumerate(scenes):
        name = classes[index // 3]
        names.append(f"{name}/{name[4:]}_{index:04d}.jpg")
        for kind, drawn in (("images", scenes.image(index)), ("segmentations", scenes.mask(index))):
            path = (folder / kind / names[-1]).with_suffix(".jpg" if kind == "images" else ".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            (drawn if isinstance(drawn, Image.Image) else Image.fromarray(255 * np.asarray(drawn))).save(path)
        x, y, right, bottom = sample.boxes[0]
        boxes.append(f"{x} {y} {right - x} {bottom - y}")
    tables = {
        "images.txt": names,
        "classes.txt": classes,
        "image_class_labels.txt": [1 + index // 3 for index in range(len(names))],
        "train_test_split.txt": [int(index % 3 < 2) for index in range(len(names))],
        "bounding_boxes.txt": boxes,
    }
    for table, values in tables.items():
        build.text(folder / table, [f"{index} {value}" for index, value in enumerate(values, start=1)])


def imagenet(folder: Path) -> None:
    """Write val of ILSVRC with XML, and val2 beside it."""
    for stem, wnid in (("ILSVRC2012_val_00000001", "n01443537"), ("ILSVRC2012_val_00000002", "n01440764")):
        build.image(folder / "val" / f"{stem}.JPEG")
        build.voc(folder / "Annotations/CLS-LOC/val" / f"{stem}.xml", wnid, [(0, 1, 11, 7), (2, 2, 6, 6)])
    build.images(folder / "val2", ["0/a.jpeg", "1/b.jpeg"])


def openimages(folder: Path) -> None:
    """Write the three splits of OpenImages30k, with a mask for each image of val and test."""
    for split in ("train", "val", "test"):
        build.image(folder / split / "0bt_c3/0a.jpg")
    for split in ("val", "test"):
        mask = np.zeros((build.SIZE[1], build.SIZE[0]), np.uint8)
        mask[2:5, 3:8] = 255
        Image.fromarray(mask).save(folder / split / "0bt_c3/0a_m0bt_c3_1.png")


def stanford_dogs(folder: Path) -> None:
    """Write a breed of Stanford Dogs."""
    stem = "n02085620-Chihuahua/n02085620_7"
    build.image(folder / "Images" / f"{stem}.jpg")
    build.voc(folder / "Annotation" / stem, "Chihuahua", [(0, 1, 11, 7)])
    lists = {"file_list": [f"{stem}.jpg"], "annotation_list": [stem], "labels": np.array([[1]], np.uint8)}
    for split in ("train", "test"):
        build.mat(folder / "lists" / f"{split}_list.mat", **lists)


def stanford_cars(folder: Path) -> None:
    """Write a make of Stanford Cars."""
    corners = {name: np.uint8(value) for name, value in zip(("x1", "y1", "x2", "y2"), (1, 1, 12, 8), strict=True)}
    row = {f"bbox_{name}": value for name, value in corners.items()} | {"class": np.uint8(1), "fname": "00001.jpg"}
    for split, table in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        build.image(folder / f"cars_{split}" / "00001.jpg")
        build.mat(folder / table, annotations=build.structures([row]))
    build.mat(folder / "devkit/cars_meta.mat", class_names=np.array([["Acura RL Sedan 2012"]], object))


def fgvc_aircraft(folder: Path) -> None:
    """Write an image of each split of FGVC-Aircraft."""
    stems = {"train": "0034309", "val": "0034958", "test": "1025794"}
    build.images(folder / "images", [f"{stem}.jpg" for stem in stems.values()], (30, 50))
    build.text(folder / "images_box.txt", [f"{stem} 2 3 20 25" for stem in stems.values()])
    for plural, level in (("variants", "variant"), ("families", "family"), ("manufacturers", "manufacturer")):
        build.text(folder / f"{plural}.txt", ["Boeing 737"])
        lines = {split: f"{stem} Boeing 737" for split, stem in stems.items()}
        for split, line in lines.items():
            build.text(folder / f"images_{level}_{split}.txt", [line])
        build.text(folder / f"images_{level}_trainval.txt", [lines["train"], lines["val"]])


def datasets(folder: Path) -> None:
    """Write every dataset in the layout of its page."""
    cub(folder / "CUB_200_2011")
    imagenet(folder / "ILSVRC")
    openimages(folder / "OpenImages")
    stanford_dogs(folder / "stanford_dogs")
    stanford_cars(folder / "stanford_cars")
    fgvc_aircraft(folder / "fgvc-aircraft-2013b/data")
