"""CUB in the official layout: whole, in part, damaged, by the `wsol-eval` evaluator's lists, and the real images."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tokenloc.data import create_dataset, stratified_split
from tokenloc.data.cub import CubDataset

MakeCub = Callable[..., Path]
MakeImage = Callable[..., Path]


def test_train_and_test_are_those_of_the_lists(tmp_path: Path, make_cub: MakeCub) -> None:
    folder = make_cub(tmp_path)
    train, test = CubDataset(folder, "train"), CubDataset(folder, "test")
    assert train.classes == test.classes == ("001.Ant", "002.Bee", "003.Cat")
    assert [sample.id for sample in train][:3] == ["001.Ant/Ant_0.jpg", "001.Ant/Ant_1.jpg", "002.Bee/Bee_0.jpg"]
    assert test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert not {sample.id for sample in train} & {sample.id for sample in test}
    assert train[2].path == folder / "images/002.Bee/Bee_0.jpg"
    assert train.image(2).size == (12, 8)
    assert train.has_boxes
    assert train.check() == test.check() == []


def test_boxes_are_corners_as_they_stand(tmp_path: Path, make_cub: MakeCub) -> None:
    train = CubDataset(make_cub(tmp_path), "train")
    assert [sample.boxes.tolist() for sample in train][:3] == [[[0, 1, 6, 6]], [[1, 1, 7, 6]], [[1, 1, 7, 6]]]


def test_the_root_may_be_the_folder_above(tmp_path: Path, make_cub: MakeCub) -> None:
    folder = make_cub(tmp_path)
    assert CubDataset(tmp_path, "test")[0].path == CubDataset(str(folder), "test")[0].path


def test_labels_follow_a_selection_of_classes(tmp_path: Path, make_cub: MakeCub) -> None:
    dataset = create_dataset("cub", make_cub(tmp_path), "test", ["003.Cat", "001.Ant"])
    assert dataset.classes == ("001.Ant", "003.Cat")
    assert [(sample.id[:3], sample.label) for sample in dataset] == [("001", 0), ("001", 0), ("003", 1), ("003", 1)]
    with pytest.raises(ValueError, match=r"unknown class '001.And'; did you mean '001.Ant'\? Valid: 001.Ant, 002.Bee"):
        create_dataset("cub", tmp_path, "test", ["001.And"])


def test_only_the_split_that_is_used_is_needed(tmp_path: Path, make_cub: MakeCub) -> None:
    folder = make_cub(tmp_path)
    for sample in CubDataset(folder, "train"):
        assert sample.path is not None
        sample.path.unlink()
    assert len(CubDataset(folder, "test")) == 6
    with pytest.raises(FileNotFoundError, match="6 of the 6 images of cub train are not in"):
        CubDataset(folder, "train", missing="skip")


def test_absent_images_are_an_error_or_skipped_aloud(
    tmp_path: Path, make_cub: MakeCub, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_cub(tmp_path)
    (folder / "images/001.Ant/Ant_1.jpg").unlink()
    shutil.rmtree(folder / "images/003.Cat")
    message = (
        r"3 of the 6 images of cub train are not in .*images: 001.Ant/Ant_1.jpg, 003.Cat/Cat_0.jpg, "
        r"003.Cat/Cat_1.jpg. Unpack all .*classes=.*missing='skip'"
    )
    with pytest.raises(FileNotFoundError, match=message):
        CubDataset(folder, "train")
    assert len(CubDataset(folder, "train", ["002.Bee"])) == 2
    with caplog.at_level(logging.WARNING):
        dataset = CubDataset(folder, "train", missing="skip")
    assert "3 of the 6 images of cub train are not in" in caplog.text
    assert dataset.skipped == ("001.Ant/Ant_1.jpg", "003.Cat/Cat_0.jpg", "003.Cat/Cat_1.jpg")
    assert dataset.classes == ("001.Ant", "002.Bee", "003.Cat")  # labels are as without skipping
    assert dataset.labels.tolist() == [0, 1, 1]


def test_options_are_validated(tmp_path: Path, make_cub: MakeCub) -> None:
    folder = make_cub(tmp_path)
    with pytest.raises(ValueError, match=r"unknown value of option missing: 'skipp'; did you mean 'skip'\?"):
        CubDataset(folder, "train", missing="skipp")
    with pytest.raises(ValueError, match="unknown split of dataset 'cub': 'all'"):
        CubDataset(folder, "all")
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder; expected CUB_200_2011 from vision.caltech"):
        CubDataset(tmp_path / "nowhere", "train")


@pytest.mark.parametrize("name", ["images.txt", "classes.txt", "image_class_labels.txt", "bounding_boxes.txt"])
def test_a_missing_list_is_named(tmp_path: Path, make_cub: MakeCub, name: str) -> None:
    folder = make_cub(tmp_path)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"missing {name} in .*looked for images.txt, .*vision.caltech.edu"):
        CubDataset(folder, "test")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("images.txt", "1 a/1.jpg\n2 a/2.jpg\n3 a/1.jpg\n", r"images.txt lists images more than once \(1\): a/1.jpg"),
        ("train_test_split.txt", "1 1\n", r"train_test_split.txt has no line for 11 listed images: 2, 3"),
        ("image_class_labels.txt", "1 1\n", r"image_class_labels.txt has no line for 11 listed images"),
        ("bounding_boxes.txt", "1 0 0 5 5\n", r"bounding_boxes.txt has no line for 5 listed images: 2, 5, 6, 9"),
        ("bounding_boxes.txt", "1 0 0 5\n", r"bounding_boxes.txt, line 1: expected 5 values, got '1 0 0 5'"),
        ("bounding_boxes.txt", "1 0 0 five 5\n", r"bounding_boxes.txt, line 1: 'five' is not a number"),
        (
            "classes.txt",
            "1 001.Ant\n2 002.Bee\n",
            r"image_class_labels.txt uses classes 3, which .*classes.txt does not",
        ),
    ],
)
def test_a_damaged_list_is_named(tmp_path: Path, make_cub: MakeCub, name: str, text: str, message: str) -> None:
    folder = make_cub(tmp_path)
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        CubDataset(folder, "train")


@pytest.mark.parametrize("place", ["CUB_200_2011/segmentations", "segmentations"])
def test_masks_are_what_most_annotators_marked(tmp_path: Path, make_cub: MakeCub, place: str) -> None:
    folder = make_cub(tmp_path)
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
    assert mask.sum() == 3
    assert any("Ant_1.png: no such image" in str(problem) for problem in train.check())


def test_val_is_cubv2_by_class_folders(tmp_path: Path, make_cub: MakeCub, make_image: MakeImage) -> None:
    folder = make_cub(tmp_path)
    for name in ("001.Ant/77.jpg", "2/78.jpg", "003/79.jpg", "200/80.jpg"):
        make_image(folder / "CUBV2" / name)
    val = CubDataset(folder, "val")
    assert [(sample.id, sample.label) for sample in val] == [("001.Ant/77.jpg", 0), ("003/79.jpg", 2), ("2/78.jpg", 1)]
    assert not val.has_boxes
    assert CubDataset(folder, "val", ["003.Cat"]).labels.tolist() == [0]


def test_without_cubv2_val_says_what_was_looked_for(tmp_path: Path, make_cub: MakeCub) -> None:
    with pytest.raises(FileNotFoundError, match=r"looked for .*CUBV2 and .*CUBV2; .*wsolevaluation.*stratified_split"):
        CubDataset(make_cub(tmp_path), "val")


def _write_split(folder: Path, lines: dict[str, tuple[int, str]]) -> None:
    folder.mkdir(parents=True)
    (folder / "image_ids.txt").write_text("".join(f"{name}\n" for name in lines))
    (folder / "class_labels.txt").write_text("".join(f"{name},{label}\n" for name, (label, _) in lines.items()))
    (folder / "localization.txt").write_text("".join(f"{name},{box}\n" for name, (_, box) in lines.items()))
    (folder / "image_sizes.txt").write_text("".join(f"{name},12,8\n" for name in lines))


VAL = {"003.Cat/9.jpg": (2, "1,2,10,7"), "001.Ant/8.jpg": (0, "0,0,5,6")}


@pytest.mark.parametrize("place", ["CUBV2", "images", ""])
@pytest.mark.parametrize("lists", ["metadata/CUB/val", "metadata/val", "metadata"])
def test_val_by_the_referees_lists(
    tmp_path: Path, make_cub: MakeCub, make_image: MakeImage, place: str, lists: str
) -> None:
    folder = make_cub(tmp_path)
    if place == "":
        shutil.rmtree(folder / "images")
    for name in VAL:
        make_image(folder / place / name)
    _write_split(tmp_path / lists, VAL)
    val = CubDataset(folder, "val", metadata=tmp_path / "metadata")
    assert val.classes == ("001.Ant", "003.Cat")
    assert [(sample.id, sample.label, sample.boxes.tolist()) for sample in val] == [
        ("003.Cat/9.jpg", 1, [[1, 2, 10, 7]]),
        ("001.Ant/8.jpg", 0, [[0, 0, 5, 6]]),
    ]
    assert val.declared_size(0) == (12, 8)
    assert val.check() == []


def test_lists_that_lie_with_cubv2_are_found(tmp_path: Path, make_cub: MakeCub, make_image: MakeImage) -> None:
    folder = make_cub(tmp_path)
    _write_split(tmp_path / "CUBV2", VAL)
    for name in VAL:
        make_image(tmp_path / "CUBV2" / name)
    assert CubDataset(folder, "val").has_boxes


def test_the_referees_lists_of_all_classes_serve_a_subset(tmp_path: Path, make_cub: MakeCub) -> None:
    folder = make_cub(tmp_path)
    lines = {
        f"{name}/{name[4:]}_2.jpg": (label, "0,0,5,5") for label, name in enumerate(["001.Ant", "002.Bee", "003.Cat"])
    }
    _write_split(tmp_path / "metadata/test", {**lines, "004.Dog/Dog_2.jpg": (3, "0,0,5,5")})
    test = CubDataset(folder, "test", metadata=tmp_path / "metadata")
    assert test.classes == ("001.Ant", "002.Bee", "003.Cat")
    (folder / "classes.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of the 4 images of cub test are not in .*images: 004.Dog/Dog_2"):
        CubDataset(folder, "test", metadata=tmp_path / "metadata")


def test_missing_or_contradicting_referees_lists_are_named(tmp_path: Path, make_cub: MakeCub) -> None:
    folder = make_cub(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"no image_ids.txt for CUB test: looked in .*CUB/test, .*wsolevaluation"
    ):
        CubDataset(folder, "test", metadata=tmp_path / "metadata")
    _write_split(tmp_path / "metadata/test", {"001.Ant/Ant_2.jpg": (0, "0,0,1,1"), "002.Bee/Bee_2.jpg": (0, "0,0,1,1")})
    with pytest.raises(ValueError, match=r"class_labels.txt: label 0 is both 001.Ant and 002.Bee"):
        CubDataset(folder, "test", metadata=tmp_path / "metadata")


def test_the_real_ten_classes(shared_dir: Path) -> None:
    root = shared_dir / "data/cub10"
    train, test = create_dataset("cub", root, "train"), create_dataset("cub", root / "CUB_200_2011", "test")
    assert (len(train), len(test), len(train.classes)) == (300, 123, 10)
    assert np.bincount(train.labels).min() > 0
    assert test[0].id == "001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg"
    assert test[0].boxes.tolist() == [[60, 27, 385, 331]]  # the `wsol-eval` evaluator's localization.txt says the same
    assert test.check() == []
    rest, held_out = stratified_split(train, 0.1)
    assert (len(rest), len(held_out)) == (270, 30)


def test_naming_the_ten_classes_of_a_full_folder_is_the_same_experiment(
    tmp_path: Path, shared_dir: Path, make_image: MakeImage
) -> None:
    ten = create_dataset("cub", shared_dir / "data/cub10", "test")
    full = tmp_path / "CUB_200_2011"
    shutil.copytree(shared_dir / "data/cub10/CUB_200_2011", full, copy_function=lambda a, b: Path(b).symlink_to(a))
    lines = {
        "images.txt": "0 000.Auk/1.jpg\n",
        "classes.txt": "0 000.Auk\n",
        "image_class_labels.txt": "0 0\n",
        "train_test_split.txt": "0 0\n",
        "bounding_boxes.txt": "0 0 0 5 5\n",
    }
    for name, line in lines.items():
        text = (full / name).read_text()
        (full / name).unlink()
        (full / name).write_text(line + text)
    (full / "images").chmod(0o755)
    make_image(full / "images/000.Auk/1.jpg")
    assert len(create_dataset("cub", full, "test").classes) == 11
    named = create_dataset("cub", full, "test", ten.classes)
    assert named.classes == ten.classes
    assert [(sample.id, sample.label) for sample in named] == [(sample.id, sample.label) for sample in ten]
