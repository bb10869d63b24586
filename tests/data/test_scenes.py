"""Generated scenes: exact, deterministic, balanced, and not localizable by a constant box."""

from __future__ import annotations

import itertools
import pickle

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tokenloc.boxes.iou import box_iou
from tokenloc.data import ImageDataset, create_dataset
from tokenloc.data.scenes import OBJECTS


def _scenes(split: str = "train", length: int = 12, **options: object) -> ImageDataset:
    return create_dataset("scenes", None, split, length=length, **options)


def _pixels(dataset: ImageDataset, index: int) -> NDArray[np.uint8]:
    return np.asarray(dataset.image(index))


def test_a_scene_depends_on_its_index_only() -> None:
    long, short = _scenes(length=12), _scenes(length=8)
    backwards = {index: _pixels(long, index) for index in reversed(range(8))}
    copy = pickle.loads(pickle.dumps(short))
    for index in range(8):
        np.testing.assert_array_equal(_pixels(short, index), backwards[index])
        np.testing.assert_array_equal(_pixels(copy, index), backwards[index])
        np.testing.assert_array_equal(short.mask(index), long.mask(index))
        np.testing.assert_array_equal(short[index].boxes, long[index].boxes)


def test_splits_seeds_and_indices_differ() -> None:
    datasets = [_scenes(split, seed=seed) for split in ("train", "val", "test") for seed in (0, 1)]
    images = {_pixels(dataset, index).tobytes() for dataset in datasets for index in range(12)}
    assert len(images) == 6 * 12


@pytest.mark.parametrize("size", [96, 16, 33, (64, 40), (51, 120), 224])
def test_boxes_are_those_of_the_masks(size: int | tuple[int, int]) -> None:
    dataset = _scenes(length=24, size=size)
    width, height = (size, size) if isinstance(size, int) else size
    for index, sample in enumerate(dataset):
        mask = dataset.mask(index)
        assert mask is not None
        assert mask.shape == (height, width)
        assert mask.dtype == np.uint8
        assert set(np.unique(mask)) == {0, 1}
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert sample.boxes.tolist() == [[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]]
        assert dataset.image(index).size == (width, height)
        assert dataset.image(index).mode == "RGB"
    assert dataset.check() == []


def test_sides_are_a_quarter_to_seven_tenths_and_objects_anywhere() -> None:
    dataset = _scenes(length=600)
    boxes = np.concatenate([sample.boxes for sample in dataset]) / 96
    sides = boxes[:, 2:] - boxes[:, :2]
    assert sides.min() > 0.25
    assert sides.max() < 0.73
    assert sides.min() < 0.31
    assert sides.max() > 0.67
    centres = (boxes[:, 2:] + boxes[:, :2]) / 2
    assert (centres.std(0) > 0.12).all()
    assert (np.abs(centres.mean(0) - 0.5) < 0.03).all()


@pytest.mark.parametrize("fraction", [1.0, 0.7])
def test_no_constant_box_finds_the_objects(fraction: float) -> None:
    boxes = np.concatenate([sample.boxes for sample in _scenes("test", 600)])
    constant = 96 * np.array([[0.5 - fraction / 2] * 2 + [0.5 + fraction / 2] * 2])
    assert (box_iou(boxes, constant) >= 0.5).mean() < 0.25


def test_classes_are_objects_in_turn() -> None:
    dataset = _scenes(length=14)
    assert dataset.classes == tuple(OBJECTS)
    assert dataset.labels.tolist() == [index % 6 for index in range(14)]
    assert [len(create_dataset("scenes", None, split)) for split in ("train", "val", "test")] == [3000, 300, 600]


def test_only_the_object_shows_the_class() -> None:
    """The same scene of another class differs inside the two objects, and only there."""
    one, other = _scenes(classes=["leaf"]), _scenes(classes=["turtle"])
    for index in range(12):
        differing = (_pixels(one, index) != _pixels(other, index)).any(-1)
        masks = np.array([dataset.mask(index) for dataset in (one, other)])
        grown = cv2.dilate(masks.max(0), np.ones((5, 5), np.uint8))  # soft edges
        assert not (differing & (grown == 0)).any()
        assert differing[masks.min(0) == 1].mean() > 0.2
        assert (masks[0] != masks[1]).any()


def test_a_scene_is_the_same_at_every_size() -> None:
    small, large = _scenes(size=96), _scenes(size=192)
    for index in range(6):
        reduced = np.asarray(large.image(index).resize((96, 96)), np.float32)
        assert np.abs(reduced - _pixels(small, index)).mean() < 12
        assert np.abs(reduced - _pixels(small, index + 6)).mean() > 24


def test_mean_colours_do_not_show_the_class() -> None:
    dataset = _scenes(length=600)
    colours = np.array([_pixels(dataset, index)[dataset.mask(index) == 1].mean(0) for index in range(600)])
    means = np.array([colours[dataset.labels == label].mean(0) for label in range(6)])
    assert (means.std(0) < 0.35 * colours.std(0)).all()


def test_textures_are_clearly_distinct() -> None:
    v, u = np.mgrid[:64, :64].astype(np.float32) / 8
    signs = {name: np.sign(kind.texture(u, v)) for name, kind in OBJECTS.items()}
    for first, second in itertools.combinations(signs, 2):
        spectra = [np.abs(np.fft.fft2(signs[name] - signs[name].mean())).ravel() for name in (first, second)]
        similarity = np.dot(*spectra) / np.prod([np.linalg.norm(spectrum) for spectrum in spectra])
        assert similarity < 0.75, (first, second, similarity)
    for name, sign in signs.items():
        assert 0.15 < (sign > 0).mean() < 0.85, name


@pytest.mark.parametrize("options", [{"size": 15}, {"size": (96, 8)}, {"length": 0}, {"seed": -1}])
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"scenes need a size of at least 16 .*, got size"):
        create_dataset("scenes", None, "train", **options)
