"""YOLO as Ultralytics documents and reads it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from PIL import Image

from tests.export.examples import CLASSES, HOSTILE, found
from tokenloc.export import YOLO
from tokenloc.inference import Localization


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a/images/x.jpg", "b/x.JPG", "b/x.png", "c\n d 🐦.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 40)).save(path)
    return tmp_path / "photos"


def results_in(photos: Path) -> list[Localization]:
    return [
        found(str(photos / "a/images/x.jpg"), [[0, 0, 80, 40]], 0),
        found(str(photos / "b/x.JPG"), [], 1),
        found(str(photos / "b/x.png"), [[20, 10, 60, 20], [0, 0, 4, 4]], 2),
        found(str(photos / "c\n d 🐦.png"), [[79, 39, 80, 40]], 3),
    ]


def read_as_ultralytics(data: Path) -> dict[Path, list[tuple[int, float, float, float, float]]]:
    """Per its documentation and loader: images by glob, labels where the last `images` of a path is `labels`."""
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


def test_ultralytics_finds_every_image_and_its_boxes(photos: Path, tmp_path: Path) -> None:
    YOLO.write(results_in(photos), CLASSES, tmp_path / "out")
    assert read_as_ultralytics(tmp_path / "out/yolo/data.yaml") == {
        photos / "a/images/x.jpg": [(0, 0.5, 0.5, 1.0, 1.0)],
        photos / "b/x.JPG": [],
        photos / "b/x.png": [(2, 0.5, 0.375, 0.5, 0.25), (2, 0.025, 0.05, 0.05, 0.1)],
        photos / "c\n d 🐦.png": [(3, 0.99375, 0.9875, 0.0125, 0.025)],
    }


def test_images_are_linked_not_copied_and_outlive_the_folder(photos: Path, tmp_path: Path) -> None:
    (folder,) = YOLO.write(results_in(photos), CLASSES, tmp_path / "out")
    links = list((folder / "images/train").iterdir())
    assert len(links) == 4
    assert all(link.is_symlink() for link in links)
    YOLO.write([], CLASSES, tmp_path / "out", overwrite=True)
    assert list((folder / "images/train").iterdir()) == []
    assert len([path for path in photos.rglob("*") if path.is_file()]) == 4


def test_images_are_copied_where_there_are_no_links(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    (folder,) = YOLO.write(results_in(photos), CLASSES, tmp_path / "out")
    assert (folder / "images/train/x.jpg").read_bytes() == (photos / "a/images/x.jpg").read_bytes()
    assert not (folder / "images/train/x.jpg").is_symlink()


def test_class_names_of_any_kind_are_yaml(tmp_path: Path) -> None:
    YOLO.write([], HOSTILE, tmp_path)
    names = yaml.safe_load((tmp_path / "yolo/data.yaml").read_text(encoding="utf-8"))["names"]
    assert names == {index: name.replace("\x07", "\ufffd") for index, name in enumerate(HOSTILE)}


def test_names_of_the_longest_kind(tmp_path: Path) -> None:
    images = [tmp_path / folder / ("x" + "ü" * 124 + ".jpeg") for folder in "ab"]
    for image in images:
        image.parent.mkdir()
        Image.new("RGB", (80, 40)).save(image)
    YOLO.write([found(str(image)) for image in images], CLASSES, tmp_path / "out")
    assert set(read_as_ultralytics(tmp_path / "out/yolo/data.yaml")) == set(images)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("0 0.5 0.5 0.1", r"x\.txt: expected 'class cx cy width height' .*got '0 0.5 0.5 0.1'"),
        ("4 0.5 0.5 0.1 0.1", "with a class of data.yaml, got '4 0.5"),
        ("0 0.5 0.5 0.1 wide", r"x\.txt: 'wide' is not a number"),
        ("bird 0.5 0.5 0.1 0.1", r"x\.txt: 'bird' is not a whole number"),
    ],
)
def test_a_broken_label_file_is_named(label: str, message: str, photos: Path, tmp_path: Path) -> None:
    (folder,) = YOLO.write(results_in(photos), CLASSES, tmp_path / "out")
    (folder / "labels/train/x.txt").write_text(label)
    with pytest.raises(ValueError, match=message):
        YOLO.read(folder)


def test_labels_without_their_image_say_so(photos: Path, tmp_path: Path) -> None:
    (folder,) = YOLO.write([found("in memory")], CLASSES, tmp_path / "out")
    with pytest.raises(ValueError, match=r"in memory\.txt: its image is not in images/train"):
        YOLO.read(folder)
    (folder / "data.yaml").write_text("nothing: here")
    with pytest.raises(ValueError, match=r"data\.yaml: expected YAML with the class names under 'names'"):
        YOLO.read(folder)


def test_class_names_may_be_a_list(photos: Path, tmp_path: Path) -> None:
    (folder,) = YOLO.write(results_in(photos)[:1], CLASSES, tmp_path / "out")
    (folder / "data.yaml").write_text("names: [dog]")
    assert YOLO.read(folder)[0].objects == (("dog", (0.0, 0.0, 80.0, 40.0)),)
