"""Samples, the base class, subsets, class selection and the check of a dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.data import builders as build
from tokenloc.data import create_dataset
from tokenloc.data.base import NO_BOXES, ImageDataset, Sample, as_boxes, require_root, select_classes


def _dataset(paths: list[Path], **options: object) -> ImageDataset:
    samples = [Sample(path.name, path, number % 2) for number, path in enumerate(paths)]
    return ImageDataset("train", ["ant", "bee"], samples, **options)


class _Masked(ImageDataset):
    has_masks = True

    def mask(self, index: int) -> NDArray[np.uint8]:
        return np.zeros((8, 12 + index), np.uint8)


def test_boxes_are_read_only_float64() -> None:
    boxes = as_boxes([[1, 2, 3, 4]])
    assert boxes.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        boxes[0, 0] = 5
    assert NO_BOXES.shape == (0, 4)
    with pytest.raises(ValueError, match=r"boxes must be \[N, 4\]"):
        as_boxes([1, 2, 3, 4])


def test_a_dataset_is_a_sequence_of_samples(tmp_path: Path) -> None:
    dataset = _dataset([build.image(tmp_path / f"{number}.png", (5, 4)) for number in range(3)])
    assert (len(dataset), dataset[1].label, dataset.has_boxes) == (3, 1, False)
    assert [sample.id for sample in dataset] == list(dataset.ids) == ["0.png", "1.png", "2.png"]
    assert (dataset.labels.tolist(), dataset.labels.dtype) == ([0, 1, 0], np.int64)
    assert dataset.image(2).size == (5, 4)
    assert dataset.mask(0) is None
    assert dataset.check() == []


def test_a_subset_is_a_dataset(tmp_path: Path) -> None:
    paths = [build.image(tmp_path / f"{number}.png", (5 + number, 4)) for number in range(4)]
    dataset = _Masked("val", ["ant", "bee"], [Sample(path.name, path, 1) for path in paths], {"3.png": (9, 9)})
    subset = dataset.subset([3, 1]).subset([0])
    assert list(subset.ids) == ["3.png"]
    assert (subset.split, subset.classes, subset.has_masks) == ("val", ("ant", "bee"), True)
    assert (subset.image(0).size, subset.mask(0).shape, subset.declared_size(0)) == ((8, 4), (8, 15), (9, 9))


def test_a_subset_refuses_bad_indices(tmp_path: Path) -> None:
    dataset = _dataset([tmp_path / "a.jpg", tmp_path / "b.jpg"])
    with pytest.raises(IndexError, match="2, -1 outside the 2 samples of images train"):
        dataset.subset([0, 2, -1])
    with pytest.raises(ValueError, match=r"images train lists images more than once \(1\): a.jpg"):
        dataset.subset([0, 0])
    with pytest.raises(ValueError, match="the train split of images has no image"):
        dataset.subset([])


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], r"the train split of images has no image of the classes \('ant',\)"),
        ([Sample("a", None, 0)] * 2, r"images train lists images more than once \(1\): a"),
        ([Sample("a", None, 0), Sample("b", None, 1)], r"images train has labels outside its 1 classes \(1\): b"),
        ([Sample("a", None, -1)], r"images train has labels outside its 1 classes \(1\): a"),
    ],
)
def test_contradictory_samples_are_refused(samples: list[Sample], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageDataset("train", ["ant"], samples)


def test_a_dataset_without_files_must_override_reading() -> None:
    dataset = ImageDataset("train", ["ant"], [Sample("a", None, 0)])
    with pytest.raises(NotImplementedError, match=r"must override image\(\)"):
        dataset.image(0)


def test_check_reports_every_broken_image_and_impossible_box(tmp_path: Path) -> None:
    boxes = {
        "good.png": [[0, 0, 12, 8], [3, 3, 4, 4]],
        "empty.png": [[3, 3, 3, 5]],
        "inverted.png": [[0, 0, 1, 1], [9, 2, 4, 5]],
        "outside.png": [[4, 4, 30, 7]],
        "nan.png": [[float("nan"), 0, 5, 5]],
        "none.png": [],
    }
    samples = [Sample(name, build.image(tmp_path / name), 0, as_boxes(several)) for name, several in boxes.items()]
    (tmp_path / "broken.png").write_bytes(b"")
    samples += [Sample(name, tmp_path / name, 0) for name in ("broken.png", "absent.png")]
    problems = ImageDataset("train", ["ant"], samples).check()
    reasons = {problem.id: problem.reason for problem in problems}
    assert list(reasons) == ["empty.png", "inverted.png", "outside.png", "nan.png", "broken.png", "absent.png"]
    assert len(problems) == len(reasons)
    assert reasons["empty.png"] == "box 0 is inverted or empty: x0 3, y0 3, x1 3, y1 5"
    assert reasons["inverted.png"].startswith("box 1 is inverted or empty")
    assert reasons["outside.png"].startswith("box 0 is outside the image of 12x8")
    assert reasons["nan.png"].startswith("box 0 is not finite")
    assert reasons["broken.png"] == "the file is empty; copy or download it again"
    assert str(problems[-1]) == f"{tmp_path / 'absent.png'}: no such image; check the path"


def test_check_compares_sizes(tmp_path: Path) -> None:
    samples = [Sample(name, build.image(tmp_path / name), 0) for name in ("a.png", "b.png")]
    problems = _Masked("train", ["ant"], samples, {"a.png": (8, 12)}).check()
    assert [problem.reason for problem in problems] == [
        "is 12x8, but the dataset's lists say 8x12: its boxes may be off",
        "is 12x8, but its mask 13x8",
    ]


def test_bad_class_selections_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown class 'cta'; did you mean 'cat'\? Valid: ant, cat"):
        select_classes(["ant", "cat"], ["ant", "cta"])
    with pytest.raises(ValueError, match="classes names one class twice: ant, ant"):
        select_classes(["ant", "cat"], ["ant", "ant"])
    for wanted in ("ant", []):
        with pytest.raises(ValueError, match="classes must be a list of at least one class name, got"):
            select_classes(["ant", "cat"], wanted)
    with pytest.raises(ValueError, match=r"unknown class 'c0'\. Valid: c1000, c1001, .* c1199 and 800 more"):
        select_classes([f"c{number}" for number in range(1000, 2000)], ["c0"])


def test_a_root_is_required(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dataset 'pets' needs a root folder, got None; give the folder of Pets"):
        require_root(None, "pets", "Pets 1.0")
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder; expected Pets 1.0"):
        require_root(tmp_path / "nowhere", "pets", "Pets 1.0")


def test_labels_follow_another_order_of_the_classes() -> None:
    scenes = create_dataset("scenes", None, "test", length=12)
    reordered = scenes.in_class_order(tuple(reversed(scenes.classes)))
    assert reordered.classes == tuple(reversed(scenes.classes))
    assert list(reordered.ids) == list(scenes.ids)
    for before, after in zip(scenes, reordered, strict=True):
        assert scenes.classes[before.label] == reordered.classes[after.label]
    assert reordered.image(3).tobytes() == scenes.image(3).tobytes()
    assert scenes.in_class_order(scenes.classes) is scenes
    with pytest.raises(ValueError, match="expected the 1 classes leaf; scenes test has the 6 classes"):
        scenes.in_class_order(["leaf"])
