"""YOLO as Ultralytics documents and reads it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from PIL import Image

from tests.export.examples import CLASSES, HOSTILE, localization
from tokenloc.export import FORMATS
from tokenloc.inference import Localization


def save_images(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 40)).save(path)
    return paths


@pytest.fixture
def results(tmp_path: Path) -> list[Localization]:
    """Of images with the same stem, in other folders, and with special characters."""
    sources = save_images(tmp_path / "photos", "a/images/x.jpg", "b/x.JPG", "b/x.png", "c\n d 🐦.png")
    boxes = [[0, 0, 80, 40]], [], [[20, 10, 60, 20], [0, 0, 4, 4]], [[79, 39, 80, 40]]
    pairs = enumerate(zip(sources, boxes, strict=True))
    return [localization(str(source), corners, index) for index, (source, corners) in pairs]


def read_as_ultralytics(data: Path) -> dict[Path, list[tuple[int, float, float, float, float]]]:
    """As its documentation and loader: images by glob, labels where the last `images` of a path is `labels`."""
    content = yaml.safe_load(data.read_text(encoding="utf-8"))
    read = {}
    for image in map(str, (data.parent / content["val"]).rglob("*.*")):
        label = f"{os.sep}labels{os.sep}".join(image.rsplit(f"{os.sep}images{os.sep}", 1)).rsplit(".", 1)[0] + ".txt"
        rows = [line.split() for line in Path(label).read_text().strip().splitlines()]
        assert all(len(row) == 5 for row in rows)
        boxes = [(int(row[0]), *map(float, row[1:])) for row in rows]
        assert all(0 <= value <= 1 for box in boxes for value in box[1:])
        assert all(box[0] < len(content["names"]) for box in boxes)
        read[Path(image).resolve()] = boxes
    return read


def test_ultralytics_finds_every_image_and_its_boxes(results: list[Localization], tmp_path: Path) -> None:
    FORMATS["yolo"].write(results, CLASSES, tmp_path / "out")
    boxes: list[list[tuple[float, ...]]] = [
        [(0, 0.5, 0.5, 1.0, 1.0)],
        [],
        [(2, 0.5, 0.375, 0.5, 0.25), (2, 0.025, 0.05, 0.05, 0.1)],
        [(3, 0.99375, 0.9875, 0.0125, 0.025)],
    ]
    expected = {Path(result.source): rows for result, rows in zip(results, boxes, strict=True)}
    assert read_as_ultralytics(tmp_path / "out/yolo/data.yaml") == expected


def test_images_are_links_and_overwrite_does_not_remove_them(results: list[Localization], tmp_path: Path) -> None:
    (folder,) = FORMATS["yolo"].write(results, CLASSES, tmp_path / "out")
    assert [path.is_symlink() for path in (folder / "images/train").iterdir()] == [True] * 4
    FORMATS["yolo"].write([], CLASSES, tmp_path / "out", overwrite=True)
    assert list((folder / "images/train").iterdir()) == []
    assert all(Path(result.source).is_file() for result in results)


def test_images_are_copied_if_links_are_impossible(
    results: list[Localization], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    (folder,) = FORMATS["yolo"].write(results, CLASSES, tmp_path / "out")
    assert (folder / "images/train/x.jpg").read_bytes() == Path(results[0].source).read_bytes()
    assert not (folder / "images/train/x.jpg").is_symlink()


def test_class_names_are_valid_yaml(tmp_path: Path) -> None:
    FORMATS["yolo"].write([], HOSTILE, tmp_path)
    names = yaml.safe_load((tmp_path / "yolo/data.yaml").read_text(encoding="utf-8"))["names"]
    assert names == {index: name.replace("\x07", "\ufffd") for index, name in enumerate(HOSTILE)}


def test_the_longest_names(tmp_path: Path) -> None:
    images = save_images(tmp_path, *(f"{folder}/x{'ü' * 124}.jpeg" for folder in "ab"))
    FORMATS["yolo"].write([localization(str(image)) for image in images], CLASSES, tmp_path / "out")
    assert set(read_as_ultralytics(tmp_path / "out/yolo/data.yaml")) == set(images)
