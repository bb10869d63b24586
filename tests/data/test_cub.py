"""CUB in the official layout: complete, in part, damaged, by the `wsol-eval` lists, and the real images."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data import builders as build
from tokenloc.data import create_dataset
from tokenloc.data.cub import CubDataset


def test_train_and_test_are_those_of_the_lists(tmp_path: Path) -> None:
    folder = build.cub(tmp_path)
    train, test = CubDataset(folder, "train"), CubDataset(str(tmp_path), "test")
    assert train.classes == test.classes == ("001.Ant", "002.Bee", "003.Cat")
    assert list(train.ids)[:3] == ["001.Ant/Ant_0.jpg", "001.Ant/Ant_1.jpg", "002.Bee/Bee_0.jpg"]
    assert [sample.boxes.tolist() for sample in train][:3] == [[[0, 1, 6, 6]], [[1, 1, 7, 6]], [[1, 1, 7, 6]]]
    assert test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert not set(train.ids) & set(test.ids)
    assert train[2].path == folder / "images/002.Bee/Bee_0.jpg"
    assert train.check() == test.check() == []


def test_labels_follow_a_selection_of_classes(tmp_path: Path) -> None:
    dataset = create_dataset("cub", build.cub(tmp_path), "test", ["003.Cat", "001.Ant"])
    assert dataset.classes == ("001.Ant", "003.Cat")
    assert [(sample.id[:3], sample.label) for sample in dataset] == [("001", 0), ("001", 0), ("003", 1), ("003", 1)]
    with pytest.raises(ValueError, match=r"unknown class '001.And'; did you mean '001.Ant'\? Valid: 001.Ant, 002.Bee"):
        create_dataset("cub", tmp_path, "test", ["001.And"])


def test_bad_arguments_and_missing_lists_are_reported(tmp_path: Path) -> None:
    folder = build.cub(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder; expected CUB_200_2011 from vision.caltech"):
        CubDataset(tmp_path / "nowhere", "train")
    with pytest.raises(FileNotFoundError, match=r"looked for .*CUBV2 and .*CUBV2; .*wsolevaluation.*on train"):
        CubDataset(folder, "val")
    for name in ("images.txt", "bounding_boxes.txt"):
        (folder / name).unlink()
    message = r"missing files in .* \(2\): images.txt, bounding_boxes.txt; expected images.txt, .*vision.caltech.edu"
    with pytest.raises(FileNotFoundError, match=message):
        CubDataset(folder, "test")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("images.txt", "1 a/1.jpg\n2 a/2.jpg\n3 a/1.jpg\n", r"images.txt lists images more than once \(1\): a/1.jpg"),
        ("train_test_split.txt", "1 1\n", r"train_test_split.txt has no line for listed images \(11\): 2, 3"),
        ("bounding_boxes.txt", "1 0 0 5 5\n", r"bounding_boxes.txt has no line for listed images \(5\): 2, 5, 6, 9"),
        (
            "classes.txt",
            "1 001.Ant\n2 002.Bee\n",
            r"image_class_labels.txt uses classes that are not in .*classes.txt \(1\): 3",
        ),
    ],
)
def test_damaged_lists_are_reported(tmp_path: Path, name: str, text: str, message: str) -> None:
    folder = build.cub(tmp_path)
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        CubDataset(folder, "train")


@pytest.mark.parametrize("place", ["CUB_200_2011/segmentations", "segmentations"])
def test_masks_are_what_most_annotators_marked(tmp_path: Path, place: str) -> None:
    folder = build.cub(tmp_path)
    assert CubDataset(folder, "train").mask(0) is None
    assert not CubDataset(folder, "train").has_masks
    votes = np.zeros((8, 12), np.uint8)
    votes[2, :6] = [0, 51, 102, 153, 204, 255]
    (tmp_path / place / "001.Ant").mkdir(parents=True)
    Image.fromarray(votes).save(tmp_path / place / "001.Ant/Ant_0.png")
    train = CubDataset(folder, "train")
    assert train.has_masks
    mask = train.mask(0)
    assert mask is not None
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, (votes > 127).astype(np.uint8))
    assert any("Ant_1.png: no such image" in str(problem) for problem in train.check())


def test_val_is_cubv2_by_class_folders(tmp_path: Path) -> None:
    folder = build.cub(tmp_path)
    build.images(folder / "CUBV2", ["001.Ant/77.jpg", "2/78.jpg", "003/79.jpg", "200/80.jpg"])
    val = CubDataset(folder, "val")
    assert [(sample.id, sample.label) for sample in val] == [("001.Ant/77.jpg", 0), ("003/79.jpg", 2), ("2/78.jpg", 1)]
    assert not val.has_boxes
    assert CubDataset(folder, "val", ["003.Cat"]).labels.tolist() == [0]


def _write_split(folder: Path, labels: dict[str, int], box: str = "1,2,10,7") -> None:
    build.split_files(folder, labels, [f"{name},{box}" for name in labels])
    build.text(folder / "image_sizes.txt", [f"{name},12,8" for name in labels])


VAL = {"003.Cat/9.jpg": 2, "001.Ant/8.jpg": 0}


@pytest.mark.parametrize("place", ["CUBV2", "images", ""])
@pytest.mark.parametrize("lists", ["metadata/CUB/val", "metadata/val", "metadata"])
def test_val_by_the_wsol_eval_lists(tmp_path: Path, place: str, lists: str) -> None:
    folder = build.cub(tmp_path)
    if place == "":
        shutil.rmtree(folder / "images")
    build.images(folder / place, list(VAL))
    _write_split(tmp_path / lists, VAL)
    val = CubDataset(folder, "val", metadata=tmp_path / "metadata")
    assert val.classes == ("001.Ant", "003.Cat")
    assert [(sample.id, sample.label, sample.boxes.tolist()) for sample in val] == [
        ("003.Cat/9.jpg", 1, [[1, 2, 10, 7]]),
        ("001.Ant/8.jpg", 0, [[1, 2, 10, 7]]),
    ]
    assert val.declared_size(0) == (12, 8)
    assert val.check() == []


def test_lists_in_the_cubv2_folder_are_found(tmp_path: Path) -> None:
    _write_split(tmp_path / "CUBV2", VAL)
    build.images(tmp_path / "CUBV2", list(VAL))
    assert CubDataset(build.cub(tmp_path), "val").has_boxes


def test_wsol_eval_lists_of_all_classes_work_for_a_subset(tmp_path: Path) -> None:
    folder = build.cub(tmp_path)
    names = ["001.Ant", "002.Bee", "003.Cat", "004.Dog"]
    _write_split(tmp_path / "metadata/test", {f"{name}/{name[4:]}_2.jpg": label for label, name in enumerate(names)})
    test = CubDataset(folder, "test", metadata=tmp_path / "metadata")
    assert test.classes == ("001.Ant", "002.Bee", "003.Cat")
    (folder / "classes.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of the 4 images of cub test are not in .*images: 004.Dog/Dog_2"):
        CubDataset(folder, "test", metadata=tmp_path / "metadata")


def test_missing_or_contradictory_wsol_eval_lists_are_reported(tmp_path: Path) -> None:
    folder = build.cub(tmp_path)
    message = r"no image_ids.txt for CUB test: looked in .*CUB/test, .*wsolevaluation"
    with pytest.raises(FileNotFoundError, match=message):
        CubDataset(folder, "test", metadata=tmp_path / "metadata")
    _write_split(tmp_path / "metadata/test", {"001.Ant/Ant_2.jpg": 0, "002.Bee/Bee_2.jpg": 0})
    with pytest.raises(ValueError, match=r"class_labels.txt: label 0 is both 001.Ant and 002.Bee"):
        CubDataset(folder, "test", metadata=tmp_path / "metadata")


def test_the_real_ten_classes(shared_dir: Path) -> None:
    root = shared_dir / "data/cub10"
    train, test = create_dataset("cub", root, "train"), create_dataset("cub", root / "CUB_200_2011", "test")
    assert (len(train), len(test), len(train.classes)) == (300, 123, 10)
    assert np.bincount(train.labels).min() > 0
    assert test[0].id == "001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg"
    assert test[0].boxes.tolist() == [[60, 27, 385, 331]]  # as in localization.txt of wsol-eval
    assert test.check() == []
