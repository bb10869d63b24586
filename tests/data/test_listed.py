"""Datasets with an official layout: selection, missing images, and the check."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from tests.data import builders as build
from tokenloc.data.base import Sample, SampleTable, as_boxes
from tokenloc.data.listed import ListedDataset, own_folder
from tokenloc.data.lists import Listing

IDS = [f"{name}/{number}.jpg" for name in ("cat", "dog") for number in range(3)]
BOX = as_boxes([[0, 0, 5, 5]])


class _Pets(ListedDataset):
    name = "pets"
    source = "Pets 1.0 from pets.example"
    markers = ()

    def __init__(self, root: Path, classes: list[str] | None, missing: str, listing: dict[str, object]) -> None:
        self.listing = listing
        super().__init__(root, "train", classes, missing=missing)

    def _list_images(self, folder: Path, split: str) -> Listing:
        del folder, split
        return Listing(("cat", "dog"), **self.listing)


def _pets(root: Path, classes: list[str] | None = None, missing: str = "error", **options: object) -> _Pets:
    known = {"class_of": {name: name[:3] for name in IDS}, "folders": (root,), "boxes": dict.fromkeys(IDS, BOX)}
    return _Pets(root, classes, missing, {**known, **options})


def test_samples_are_those_of_the_lists(tmp_path: Path) -> None:
    build.tree(tmp_path, {"cat": 3, "dog": 3})
    pets = _pets(tmp_path, sizes={"cat/0.jpg": (12, 8)})
    assert [sample.id for sample in pets] == list(pets.ids) == IDS
    assert [sample.label for sample in pets] == pets.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert pets.labels.dtype == np.int64
    assert pets[4].path == tmp_path / "dog/1.jpg"
    assert pets[4].boxes.tolist() == [[0, 0, 5, 5]]
    assert pets.declared_size(0) == (12, 8)
    assert pets.check() == []
    subset = pets.subset([5, 0])
    assert [(sample.id, sample.label, len(sample.boxes)) for sample in subset] == [(IDS[5], 1, 1), (IDS[0], 0, 1)]


def test_a_table_is_a_sequence_of_samples(tmp_path: Path) -> None:
    table = SampleTable(IDS, np.array([0, 0, 0, 1, 1, 1]), tmp_path, {IDS[5]: "dogs/two.png"}, {IDS[1]: BOX})

    def plain(samples: list[Sample]) -> list[object]:
        return [(sample.id, sample.path, sample.label, sample.boxes.tolist()) for sample in samples]

    expected: list[object] = [(name, tmp_path / name, int(name[0] == "d"), []) for name in IDS]
    expected[1] = (IDS[1], tmp_path / IDS[1], 0, BOX.tolist())
    expected[5] = (IDS[5], tmp_path / "dogs/two.png", 1, [])
    assert plain(list(table)) == expected
    assert plain(table[1:5:2]) == expected[1:5:2]
    assert plain([table[-1]]) == expected[-1:]
    with pytest.raises(IndexError):
        table[6]


def test_the_first_folder_with_an_image_is_used(tmp_path: Path) -> None:
    build.tree(tmp_path, {"empty/cat": 0, "full/cat": 3, "full/dog": 3, "also/cat": 3})
    folders = tuple(tmp_path / name for name in ("nowhere", "empty", "full", "also"))
    assert _pets(tmp_path, folders=folders)[0].path == tmp_path / "full/cat/0.jpg"


def test_files_may_have_other_names(tmp_path: Path) -> None:
    build.tree(tmp_path, {"flat": 6})
    files = {name: f"flat/{number}.jpg" for number, name in enumerate(IDS)}
    pets = _pets(tmp_path, ["dog"], files=files)
    assert [sample.path for sample in pets] == [tmp_path / f"flat/{number}.jpg" for number in (3, 4, 5)]
    (tmp_path / "flat/4.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of the 3 images of pets train are not in .*: dog/1.jpg\. Unpack"):
        _pets(tmp_path, ["dog"], files=files)


def test_missing_images_are_reported_or_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    build.tree(tmp_path, {"cat": 2, "dog": 0})
    message = (
        r"4 of the 6 images of pets train are not in .*: cat/2.jpg, dog/0.jpg, dog/1.jpg, dog/2.jpg. "
        r"Unpack all of Pets 1.0 from pets.example, .*--data\.classes.*--data\.options\.missing skip"
    )
    with pytest.raises(FileNotFoundError, match=message):
        _pets(tmp_path)
    with caplog.at_level(logging.WARNING):
        pets = _pets(tmp_path, missing="skip")
    assert "4 of the 6 images of pets train are not in" in caplog.text
    assert "1 of the 2 classes of pets train have no image: dog" in caplog.text
    assert pets.skipped == ("cat/2.jpg", "dog/0.jpg", "dog/1.jpg", "dog/2.jpg")
    assert (pets.classes, pets.labels.tolist()) == (("cat", "dog"), [0, 0])
    assert [str(problem) for problem in pets.check()] == [
        *(f"{name}: is missing and was skipped (missing='skip')" for name in pets.skipped),
        "dog: is a class without an image in the train split",
    ]
    with pytest.raises(FileNotFoundError, match="3 of the 3 images of pets train are not in"):
        _pets(tmp_path, ["dog"], "skip")
    with pytest.raises(ValueError, match=r"unknown value of option missing: 'skipp'; did you mean 'skip'\?"):
        _pets(tmp_path, None, "skipp")


def test_an_image_with_another_suffix_is_pointed_out(tmp_path: Path) -> None:
    build.tree(tmp_path, {"cat": 3, "dog": 2})
    (tmp_path / "cat/1.jpg").rename(tmp_path / "cat/1.JPEG")
    message = r"2 of the 6 .*: cat/1.jpg, dog/2.jpg \(1 exist under another name: cat/1.JPEG for cat/1.jpg\)\. Unpack"
    with pytest.raises(FileNotFoundError, match=message):
        _pets(tmp_path)


def test_images_without_a_box_are_reported(tmp_path: Path) -> None:
    build.tree(tmp_path, {"cat": 3, "dog": 3})
    some = _pets(tmp_path, ["cat"], boxes={"cat/1.jpg": BOX})
    assert [(problem.id, problem.reason) for problem in some.check()] == [
        ("cat/0.jpg", "has no box, while others have"),
        ("cat/2.jpg", "has no box, while others have"),
    ]
    none = _pets(tmp_path, ["dog"], boxes={"cat/1.jpg": BOX})
    assert not none.has_boxes
    assert none.check() == []
    with pytest.raises(ValueError, match=r"the train split of pets has no image of the classes \('cat', 'dog'\)"):
        _pets(tmp_path, class_of={})


def test_the_own_folder_is_root_or_one_below(tmp_path: Path) -> None:
    for name in ("a/b/train", "c/train", "d/other"):
        (tmp_path / name).mkdir(parents=True)
    assert own_folder(tmp_path / "c", ["train"]) == tmp_path / "c"
    assert own_folder(tmp_path, ["train"]) == tmp_path / "c"
    assert own_folder(tmp_path, ["train"], ["a/b"]) == tmp_path / "a/b"
    assert own_folder(tmp_path / "d", ["train"]) == tmp_path / "d"
    (tmp_path / "d/train").mkdir()
    with pytest.raises(ValueError, match=r"the dataset may be in any of .*/c, .*/d; give the folder itself"):
        own_folder(tmp_path, ["train"])
