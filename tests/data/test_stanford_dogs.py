"""Stanford Dogs in the official layout."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.data import builders as build
from tokenloc.data import create_dataset
from tokenloc.data.stanford_dogs import StanfordDogsDataset

BREEDS = ("n02085620-Chihuahua", "n02085782-Japanese_spaniel")
NUMBERS = {"train": (10074, 7), "test": (2650,)}
BOXES = {10074: [(0, 1, 11, 7)], 7: [(1, 1, 5, 5), (6, 2, 12, 8)], 2650: [(0, 0, 12, 8)]}


def _stems(split: str) -> list[str]:
    return [f"{breed}/{breed[:9]}_{number}" for breed in BREEDS for number in NUMBERS[split]]


def _list(path: Path, stems: list[str], labels: list[int]) -> Path:
    column = np.array(labels, np.uint8)[:, None]
    return build.mat(path, file_list=[f"{stem}.jpg" for stem in stems], annotation_list=stems, labels=column)


def _dogs(root: Path, lists: str = "lists") -> Path:
    for split in NUMBERS:
        stems = _stems(split)
        build.images(root / "Images", [f"{stem}.jpg" for stem in stems])
        for stem in stems:
            build.voc(root / "Annotation" / stem, stem.split("/")[0][10:], BOXES[int(stem.rpartition("_")[2])])
        _list(root / lists / f"{split}_list.mat", stems, [1 + BREEDS.index(stem.split("/")[0]) for stem in stems])
    return root


@pytest.mark.parametrize("lists", ["lists", ""])
@pytest.mark.parametrize("place", ["", "stanford_dogs", "whatever"])
def test_images_and_boxes_are_those_of_the_lists(tmp_path: Path, lists: str, place: str) -> None:
    _dogs(tmp_path / place, lists)
    train, test = create_dataset("stanford_dogs", tmp_path, "train"), create_dataset("stanford_dogs", tmp_path, "test")
    assert train.classes == test.classes == BREEDS
    assert [(sample.id, sample.label) for sample in train] == [
        ("n02085620-Chihuahua/n02085620_10074.jpg", 0),
        ("n02085620-Chihuahua/n02085620_7.jpg", 0),
        ("n02085782-Japanese_spaniel/n02085782_10074.jpg", 1),
        ("n02085782-Japanese_spaniel/n02085782_7.jpg", 1),
    ]
    assert [sample.id for sample in test] == [f"{stem}.jpg" for stem in _stems("test")]
    assert train[0].path == tmp_path / place / "Images" / train[0].id
    assert train.check() == test.check() == []
    second = create_dataset("stanford_dogs", tmp_path, "train", [BREEDS[1]])
    assert second.labels.tolist() == [0, 0]
    assert [sample.boxes.tolist() for sample in second] == [[[0, 1, 11, 7]], [[1, 1, 5, 5], [6, 2, 12, 8]]]


def test_incomplete_folders_are_reported(tmp_path: Path) -> None:
    for name in ("Images", "Annotation", "lists/train_list.mat"):
        root = _dogs(tmp_path / name.replace("/", "-"))
        shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()
        message = rf"missing files .*: {Path(name).name}; expected Images, Annotation, train_list.mat.*lists.tar"
        with pytest.raises(FileNotFoundError, match=message):
            StanfordDogsDataset(root, "train")
    assert len(StanfordDogsDataset(root, "test")) == 2  # the train list is not needed


def test_missing_images_and_annotations_are_reported(tmp_path: Path) -> None:
    root = _dogs(tmp_path)
    (root / "Annotation/n02085620-Chihuahua/n02085620_7").unlink()
    message = r"annotation files of stanford_dogs train are missing in .*Annotation \(1\): n02085620-Chihuahua/"
    with pytest.raises(FileNotFoundError, match=message):
        StanfordDogsDataset(root, "train")
    shutil.rmtree(root / "Annotation/n02085620-Chihuahua")
    shutil.rmtree(root / "Images/n02085620-Chihuahua")
    with pytest.raises(FileNotFoundError, match=r"2 of the 4 images of stanford_dogs train are not in .*Images"):
        StanfordDogsDataset(root, "train")
    assert len(StanfordDogsDataset(root, "train", missing="skip")) == 2


def test_an_annotation_without_an_object_is_reported(tmp_path: Path) -> None:
    root = _dogs(tmp_path)
    build.voc(root / "Annotation/n02085620-Chihuahua/n02085620_7", "Chihuahua", [])
    assert [(problem.id, problem.reason) for problem in StanfordDogsDataset(root, "train").check()] == [
        ("n02085620-Chihuahua/n02085620_7.jpg", "has no box, while others have")
    ]


@pytest.mark.parametrize(
    ("stems", "labels", "message"),
    [
        (["a/1", "a/1"], [1, 1], r"train_list.mat lists images more than once \(1\): a/1.jpg"),
        (["a/1", "b/2"], [1, 1], r"train_list.mat: label 1 is both a and b"),
        (["a/1", "b/2"], [1], r"train_list.mat: its columns have lengths \[2, 2, 1\]"),
    ],
)
def test_damaged_lists_are_reported(tmp_path: Path, stems: list[str], labels: list[int], message: str) -> None:
    root = _dogs(tmp_path)
    _list(root / "lists/train_list.mat", stems, labels)
    with pytest.raises(ValueError, match=message):
        StanfordDogsDataset(root, "train")


def test_a_damaged_annotation_is_reported(tmp_path: Path) -> None:
    root = _dogs(tmp_path)
    build.text(root / "Annotation/n02085620-Chihuahua/n02085620_7", ["<annotation>"])
    with pytest.raises(ValueError, match=r"n02085620_7: not a Pascal VOC XML file"):
        StanfordDogsDataset(root, "train")
    assert len(StanfordDogsDataset(root, "train", [BREEDS[1]])) == 2  # annotations of other breeds are not read
