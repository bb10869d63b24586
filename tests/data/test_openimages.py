"""OpenImages30k: masks united, ignored regions, masks of other sizes, the `wsol-eval` lists."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.data import builders as build
from tokenloc.data import create_dataset, evaluation_loader, transforms
from tokenloc.data.openimages import OpenImagesDataset

Mask = NDArray[np.uint8]


def _mask(path: Path, rows: slice, columns: slice, size: tuple[int, int] = build.SIZE, mode: str = "L") -> Path:
    marked = np.zeros((size[1], size[0]), np.uint8)
    marked[rows, columns] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(marked).convert(mode).save(path)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two classes in three splits; val/0bt_c3/a has two objects and an ignored region, the others one object each."""
    folder = tmp_path / "OpenImages"
    for split in ("train", "val", "test"):
        build.images(folder / split, ["0bt9lr/b.jpg", "0bt_c3/a.jpg", "0bt_c3/c.jpg"])
    for split in ("val", "test"):
        _mask(folder / split / "0bt_c3/a_m0bt_c3_1.png", np.s_[1:4], np.s_[2:5])
        _mask(folder / split / "0bt_c3/a_m0bt_c3_2.png", np.s_[3:6], np.s_[4:8], mode="1")
        _mask(folder / split / "0bt_c3/a_ignore.png", np.s_[0:8], np.s_[3:12])
        _mask(folder / split / "0bt_c3/c_m0bt_c3_3.png", np.s_[0:2], np.s_[0:3])
        _mask(folder / split / "0bt9lr/b_m0bt9lr_4.png", np.s_[5:8], np.s_[0:12])
    return folder


def _lists(folder: Path) -> Path:
    """Write the `wsol-eval` lists of val, in another order than the names."""
    labels = {"val/0bt_c3/c.jpg": 1, "val/0bt_c3/a.jpg": 1, "val/0bt9lr/b.jpg": 0}
    masks = [
        "val/0bt_c3/c.jpg,val/0bt_c3/c_m0bt_c3_3.png,",
        "val/0bt_c3/a.jpg,val/0bt_c3/a_m0bt_c3_1.png,val/0bt_c3/a_ignore.png",
        "val/0bt_c3/a.jpg,val/0bt_c3/a_m0bt_c3_2.png,",
        "val/0bt9lr/b.jpg,val/0bt9lr/b_m0bt9lr_4.png,",
    ]
    return build.split_files(folder, labels, masks)


def _expected() -> Mask:
    """What `wsol-eval` makes of the first image, one pixel at a time."""
    mask = np.zeros((8, 12), np.uint8)
    for row in range(8):
        for column in range(12):
            one = 1 <= row < 4 and 2 <= column < 5
            other = 3 <= row < 6 and 4 <= column < 8
            mask[row, column] = 1 if one or other else 255 if column >= 3 else 0
    return mask


@pytest.mark.parametrize("metadata", [None, "metadata/OpenImages/val", "metadata/val", "metadata"])
def test_masks_are_united_and_ignored_pixels_marked(tree: Path, tmp_path: Path, metadata: str | None) -> None:
    if metadata:
        _lists(tmp_path / metadata)
    val = OpenImagesDataset(tmp_path, "val", metadata=metadata and tmp_path / "metadata")
    assert val.classes == ("0bt9lr", "0bt_c3")
    assert {sample.id: sample.label for sample in val} == {
        "val/0bt9lr/b.jpg": 0,
        "val/0bt_c3/a.jpg": 1,
        "val/0bt_c3/c.jpg": 1,
    }
    masks = {sample.id: val.mask(index) for index, sample in enumerate(val)}
    np.testing.assert_array_equal(masks["val/0bt_c3/a.jpg"], _expected())
    assert {name: np.unique(mask).tolist() for name, mask in masks.items()} == {
        "val/0bt_c3/a.jpg": [0, 1, 255],
        "val/0bt9lr/b.jpg": [0, 1],
        "val/0bt_c3/c.jpg": [0, 1],
    }
    assert all(mask.dtype == np.uint8 for mask in masks.values())
    assert (val.has_masks, val.has_boxes) == (True, False)
    first = "val/0bt_c3/c.jpg" if metadata else "val/0bt9lr/b.jpg"  # the lists give the order
    assert (val[0].id, val[0].path) == (first, tree / first)
    assert val.check() == []


def test_train_has_no_masks_and_needs_none(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = create_dataset("openimages", tree, "train")
    assert (len(train), train.has_masks, train.mask(0)) == (3, False, None)
    assert train.check() == []
    assert caplog.text == ""
    (tree / "val").rename(tree / "gone")
    with pytest.raises(FileNotFoundError, match=r"missing files in .*: val; expected val; .*wsolevaluation"):
        OpenImagesDataset(tree, "val")


def test_masks_that_were_not_unpacked_are_named(tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in tree.rglob("val/*/*.png"):
        path.unlink()
    with caplog.at_level(logging.WARNING):
        val = OpenImagesDataset(tree, "val")
    assert "openimages val: masks were not found in" in caplog.text
    assert not val.has_masks
    assert [problem.id for problem in val.check()] == ["masks"]
    _lists(tmp_path / "metadata")
    message = r"masks of openimages val are missing in .* \(5\): val/0bt_c3/c_m0bt_c3_3.png, .*; unpack all of"
    with pytest.raises(FileNotFoundError, match=message):
        OpenImagesDataset(tree, "val", metadata=tmp_path / "metadata")


def test_images_without_a_mask_or_an_object(tree: Path) -> None:
    for name in ("c_m0bt_c3_3", "a_m0bt_c3_1", "a_m0bt_c3_2"):
        (tree / f"val/0bt_c3/{name}.png").unlink()
    val = OpenImagesDataset(tree, "val")
    assert val.mask(2) is None
    reason = "has no mask, while others have"
    assert [(problem.id, problem.reason) for problem in val.check()] == [("val/0bt_c3/c.jpg", reason)]
    assert np.unique(val.mask(1)).tolist() == [0, 255]  # a region to ignore, no object


@pytest.mark.parametrize(("size", "factor"), [((24, 16), 2), ((6, 4), 0.5)])
def test_masks_of_another_resolution_are_resized_once(tree: Path, size: tuple[int, int], factor: float) -> None:
    _mask(tree / "val/0bt9lr/b_m0bt9lr_4.png", np.s_[: int(4 * factor)], np.s_[int(6 * factor) :], size)
    val = OpenImagesDataset(tree, "val")
    expected = np.zeros(size[::-1], np.uint8)
    expected[: int(4 * factor), int(6 * factor) :] = 1
    np.testing.assert_array_equal(val.mask(0), expected)
    _mask(tree / "val/0bt9lr/b_m0bt9lr_5.png", np.s_[:0], np.s_[:])  # of the image's resolution: both get that
    expected = np.zeros((8, 12), np.uint8)
    expected[:4, 6:] = 1
    np.testing.assert_array_equal(OpenImagesDataset(tree, "val").mask(0), expected)


def test_any_value_above_0_marks_an_object(tree: Path) -> None:
    Image.fromarray(np.arange(96, dtype=np.uint8).reshape(8, 12)).save(tree / "val/0bt9lr/b_m0bt9lr_4.png")
    mask = OpenImagesDataset(tree, "val").mask(0)
    np.testing.assert_array_equal(mask, np.arange(96).reshape(8, 12) > 0)


def test_masks_of_another_shape_are_reported_and_never_scored(tree: Path) -> None:
    _mask(tree / "val/0bt9lr/b_m0bt9lr_4.png", np.s_[:4], np.s_[:4], (8, 12))
    (tree / "val/0bt_c3/c_m0bt_c3_3.png").write_bytes(b"")
    val = OpenImagesDataset(tree, "val")
    reasons = [problem.reason for problem in val.check()]
    assert "b_m0bt9lr_4.png: 8x12 is of another shape than its image of 12x8" in reasons[0]
    assert "c_m0bt_c3_3.png: the file is empty" in reasons[1]
    assert len(reasons) == 2
    scaling = transforms.Preprocessing((8, 8), (8, 8), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    (batch,) = list(evaluation_loader(val, transforms.evaluation_transform(scaling, "crop"), 8))
    assert (batch.indices, [record.index for record in batch.unreadable]) == ([1], [0, 2])


@pytest.mark.parametrize(("size", "fits"), [((17, 11), True), ((17, 12), True), ((17, 14), False), ((400, 267), True)])
def test_the_rounding_of_a_side_is_no_other_shape(tmp_path: Path, size: tuple[int, int], fits: bool) -> None:
    build.image(tmp_path / "val/0bt9lr/b.jpg", (34, 23))
    _mask(tmp_path / "val/0bt9lr/b_m0bt9lr_4.png", np.s_[:], np.s_[:], size)
    assert (OpenImagesDataset(tmp_path, "val").check() == []) == fits


def test_contradictory_files_are_reported(tree: Path, tmp_path: Path) -> None:
    (tree / "train/0empty").mkdir()
    train = OpenImagesDataset(tree, "train")
    assert train.classes == ("0bt9lr", "0bt_c3", "0empty")
    assert [str(problem) for problem in train.check()] == ["0empty: is a class without an image in the train split"]
    build.split_files(tmp_path / "metadata", {"val/0bt_c3/c.jpg": 0, "val/0bt9lr/b.jpg": 0})
    with pytest.raises(ValueError, match=r"class_labels.txt: label 0 is both 0bt_c3 and 0bt9lr"):
        OpenImagesDataset(tree, "val", metadata=tmp_path / "metadata")
    build.image(tree / "val/stray.jpg")
    with pytest.raises(ValueError, match=r"val: images not in SPLIT/CLASS/ID.jpg \(1\): stray.jpg"):
        OpenImagesDataset(tree, "val")
