"""Datasets of listed images: selection, absent images, what a check says, and samples as columns."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tokenloc.data.base import Sample, as_boxes
from tokenloc.data.listed import ListedDataset, Listing, own_folder

MakeTree = Callable[..., Path]


class _Pets(ListedDataset):
    name = "pets"
    source = "Pets 1.0 from pets.example"


def _pets(root: Path, **options: object) -> Listing:
    class_of = {f"{name}/{number}.jpg": name for name in ("cat", "dog") for number in range(3)}
    boxes = {name: as_boxes([[0, 0, 5, 5]]) for name in class_of}
    return Listing(**{"classes": ("cat", "dog"), "class_of": class_of, "folders": (root,), "boxes": boxes, **options})


def test_samples_are_as_the_lists_say(tmp_path: Path, make_tree: MakeTree) -> None:
    make_tree(tmp_path, {"cat": 3, "dog": 3})
    pets = _Pets("train", _pets(tmp_path, sizes={"cat/0.jpg": (12, 8)}), None)
    assert [(sample.id, sample.label) for sample in pets] == [
        (f"{name}/{number}.jpg", label) for label, name in enumerate(("cat", "dog")) for number in range(3)
    ]
    assert pets[4].path == tmp_path / "dog/1.jpg"
    assert pets[4].boxes.tolist() == [[0, 0, 5, 5]]
    assert list(pets.ids) == [sample.id for sample in pets]
    assert pets.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert pets.labels.dtype == np.int64
    assert pets.declared_size(0) == (12, 8)
    assert pets.has_boxes
    assert pets.check() == []


def test_a_table_is_a_sequence_like_any_other(tmp_path: Path) -> None:
    listing = _pets(tmp_path, files={"dog/2.jpg": "dogs/two.png"})
    table = listing.table(list(listing.class_of), np.array([0, 0, 0, 1, 1, 1]), tmp_path)
    samples = [
        Sample(name, tmp_path / ("dogs/two.png" if name == "dog/2.jpg" else name), label, listing.boxes[name])
        for name, label in zip(listing.class_of, [0, 0, 0, 1, 1, 1], strict=True)
    ]

    def plain(several: list[Sample]) -> list[object]:
        return [(sample.id, sample.path, sample.label, sample.boxes.tolist()) for sample in several]

    assert plain(list(table)) == plain(samples)
    assert plain(table[1:5:2]) == plain(samples[1:5:2])
    assert plain([table[-1]]) == plain([samples[-1]])
    with pytest.raises(IndexError):
        table[6]


def test_the_first_folder_with_a_image_is_taken(tmp_path: Path, make_tree: MakeTree) -> None:
    make_tree(tmp_path, {"empty/cat": 0, "full/cat": 3, "full/dog": 3, "also/cat": 3})
    folders = tuple(tmp_path / name for name in ("nowhere", "empty", "full", "also"))
    assert _Pets("train", _pets(tmp_path, folders=folders), None)[0].path == tmp_path / "full/cat/0.jpg"


def test_images_may_lie_under_other_names(tmp_path: Path, make_tree: MakeTree) -> None:
    make_tree(tmp_path, {"flat": 6})
    files = {f"{name}/{number}.jpg": f"flat/{number + 3 * (name == 'dog')}.jpg" for name, number in _NUMBERED}
    pets = _Pets("train", _pets(tmp_path, files=files), ["dog"])
    assert [sample.path for sample in pets] == [tmp_path / f"flat/{number}.jpg" for number in (3, 4, 5)]
    (tmp_path / "flat/4.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of the 3 images of pets train are not in .*: dog/1.jpg\. Unpack"):
        _Pets("train", _pets(tmp_path, files=files), ["dog"])


_NUMBERED = [(name, number) for name in ("cat", "dog") for number in range(3)]


def test_absent_images_are_named_and_counted(
    tmp_path: Path, make_tree: MakeTree, caplog: pytest.LogCaptureFixture
) -> None:
    make_tree(tmp_path, {"cat": 2, "dog": 0})
    message = (
        r"4 of the 6 images of pets train are not in .*: cat/2.jpg, dog/0.jpg, dog/1.jpg, dog/2.jpg. "
        r"Unpack all of Pets 1.0 from pets.example, .*classes=.*missing='skip'"
    )
    with pytest.raises(FileNotFoundError, match=message):
        _Pets("train", _pets(tmp_path), None)
    with caplog.at_level(logging.WARNING):
        pets = _Pets("train", _pets(tmp_path), None, "skip")
    assert "4 of the 6 images of pets train are not in" in caplog.text
    assert "1 of the 2 classes of pets train have no image: dog" in caplog.text
    assert pets.skipped == ("cat/2.jpg", "dog/0.jpg", "dog/1.jpg", "dog/2.jpg")
    assert (pets.classes, pets.labels.tolist(), pets.empty_classes) == (("cat", "dog"), [0, 0], ("dog",))
    assert [str(problem) for problem in pets.check()] == [
        *(f"{name}: is absent; left out, as missing='skip' asks" for name in pets.skipped),
        "dog: is a class without an image in the train split",
    ]
    with pytest.raises(FileNotFoundError, match="3 of the 3 images of pets train are not in"):
        _Pets("train", _pets(tmp_path), ["dog"], "skip")
    with pytest.raises(ValueError, match=r"unknown value of option missing: 'skipp'; did you mean 'skip'\?"):
        _Pets("train", _pets(tmp_path), None, "skipp")


def test_a_image_with_another_suffix_is_pointed_out(tmp_path: Path, make_tree: MakeTree) -> None:
    make_tree(tmp_path, {"cat": 3, "dog": 2})
    (tmp_path / "cat/1.jpg").rename(tmp_path / "cat/1.JPEG")
    message = r"2 of the 6 .*: cat/1.jpg, dog/2.jpg \(1 lie there under another name: cat/1.JPEG for cat/1.jpg\)\. Unp"
    with pytest.raises(FileNotFoundError, match=message):
        _Pets("train", _pets(tmp_path), None)


def test_images_without_a_box_are_named(tmp_path: Path, make_tree: MakeTree) -> None:
    make_tree(tmp_path, {"cat": 3, "dog": 3})
    boxes = {"cat/1.jpg": as_boxes([[0, 0, 5, 5]])}
    some = _Pets("train", _pets(tmp_path, boxes=boxes), ["cat"])
    assert [(problem.id, problem.reason) for problem in some.check()] == [
        ("cat/0.jpg", "has no box, while others have"),
        ("cat/2.jpg", "has no box, while others have"),
    ]
    none = _Pets("train", _pets(tmp_path, boxes=boxes), ["dog"])
    assert not none.has_boxes
    assert none.check() == []


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the train split of pets has no image of the classes \('cat', 'dog'\)"):
        _Pets("train", _pets(tmp_path, class_of={}), None)


def test_a_subset_follows_the_table(tmp_path: Path, make_tree: MakeTree) -> None:
    make_tree(tmp_path, {"cat": 3, "dog": 3})
    subset = _Pets("train", _pets(tmp_path), None).subset([5, 0])
    assert [(sample.id, sample.label, len(sample.boxes)) for sample in subset] == [
        ("dog/2.jpg", 1, 1),
        ("cat/0.jpg", 0, 1),
    ]


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
