"""Stanford Cars in both official layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.data import builders as build
from tokenloc.data import create_dataset
from tokenloc.data.stanford_cars import StanfordCarsDataset

CLASSES = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Ram C/V Cargo Van Minivan 2012"]
BOXES = {"train": [(1, 1, 12, 8), (3, 2, 3, 2)], "test": [(2, 2, 6, 5), (1, 3, 12, 4)]}
LABELS = {"train": [3, 1], "test": [1, 2]}
EXPECTED = {"train": [[[0, 0, 12, 8]], [[2, 1, 3, 2]]], "test": [[[1, 1, 6, 5]], [[0, 2, 12, 4]]]}


def _row(box: tuple[int, ...], **more: object) -> dict[str, object]:
    corners = zip(("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2"), np.array(box, np.uint8), strict=True)
    return {**dict(corners), **more}


def _devkit(root: Path, labels_beside: bool = True) -> Path:
    for split in ("train", "test"):
        rows = [
            _row(box, **{"class": np.uint8(label), "fname": f"0000{number}.jpg"})
            for number, (box, label) in enumerate(zip(BOXES[split], LABELS[split], strict=True), start=1)
        ]
        build.images(root / f"cars_{split}", ["00001.jpg", "00002.jpg"])
        place = root if split == "test" and labels_beside else root / "devkit"
        name = f"cars_{split}_annos{'_withlabels' if split == 'test' else ''}.mat"
        build.mat(place / name, annotations=build.structures(rows))
    build.mat(root / "devkit/cars_meta.mat", class_names=np.array([CLASSES], object))
    return root


def _one_file(root: Path) -> Path:
    rows = []
    for split in ("test", "train"):
        for box, label in zip(BOXES[split], LABELS[split], strict=True):
            name = f"car_ims/{len(rows) + 1:06}.jpg"
            flag = np.uint8(split == "test")
            rows.append(_row(box, relative_im_path=name, **{"class": np.uint8(label), "test": flag}))
            build.image(root / name)
    build.mat(root / "cars_annos.mat", annotations=build.structures(rows), class_names=np.array([CLASSES], object))
    return root


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("layout", ["devkit", "labels in devkit", "one file"])
def test_boxes_count_from_1_and_become_half_open(tmp_path: Path, split: str, layout: str) -> None:
    if layout == "one file":
        _one_file(tmp_path / "cars")
    else:
        _devkit(tmp_path / "cars", layout == "devkit")
    for root in (tmp_path, tmp_path / "cars"):
        cars = create_dataset("stanford_cars", root, split)
        assert cars.classes == tuple(CLASSES)
        assert [sample.boxes.tolist() for sample in cars] == EXPECTED[split]
        assert (cars.labels + 1).tolist() == LABELS[split]
        assert cars.image(0).size == build.SIZE
    first = {"devkit": f"cars_{split}/00001.jpg", "one file": f"car_ims/00000{1 if split == 'test' else 3}.jpg"}
    assert cars[0].id == first["one file" if layout == "one file" else "devkit"]
    empty = 2 if split == "test" else 1
    reason = f"is a class without an image in the {split} split"
    assert [(problem.id, problem.reason) for problem in cars.check()] == [(CLASSES[empty], reason)]


def test_archives_in_a_folder_of_the_same_name_are_found(tmp_path: Path) -> None:
    _devkit(tmp_path)
    (tmp_path / "cars_train").rename(tmp_path / "inner")
    (tmp_path / "cars_train").mkdir()
    (tmp_path / "inner").rename(tmp_path / "cars_train/cars_train")
    assert StanfordCarsDataset(tmp_path, "train")[0].path == tmp_path / "cars_train/cars_train/00001.jpg"


def test_only_the_split_that_is_used_is_needed(tmp_path: Path) -> None:
    _devkit(tmp_path)
    (tmp_path / "cars_test_annos_withlabels.mat").unlink()
    (tmp_path / "cars_test/00001.jpg").unlink()
    assert len(StanfordCarsDataset(tmp_path, "train")) == 2
    with pytest.raises(FileNotFoundError, match=r"missing files in .*: cars_test_annos_withlabels.mat; .*ai.stanford"):
        StanfordCarsDataset(tmp_path, "test")
    (tmp_path / "devkit/cars_meta.mat").unlink()
    with pytest.raises(FileNotFoundError, match=r"missing files in .*devkit .*: cars_meta.mat; .*ai.stanford.edu"):
        StanfordCarsDataset(tmp_path, "train")


def test_damaged_annotations_are_reported(tmp_path: Path) -> None:
    _devkit(tmp_path)
    path = tmp_path / "devkit/cars_train_annos.mat"
    row = _row((1, 1, 2, 2), **{"class": 4, "fname": "00001.jpg"})
    build.mat(path, annotations=build.structures([row, {**row, "class": 0, "fname": "00002.jpg"}]))
    message = r"train_annos.mat: classes outside 1 to 3 \(2\): cars_train/00001.jpg with 4, cars_train/00002.jpg with 0"
    with pytest.raises(ValueError, match=message):
        StanfordCarsDataset(tmp_path, "train")
    build.mat(path, annotations=build.structures([{**row, "class": 1}] * 2))
    with pytest.raises(ValueError, match=r"train_annos.mat lists images more than once \(1\): cars_train/00001.jpg"):
        StanfordCarsDataset(tmp_path, "train")
    build.mat(path, annotations=build.structures([_row((1, 1, 2, 2), fname="00001.jpg")]))
    with pytest.raises(ValueError, match=r"train_annos.mat: annotations lack class; they have .*bbox_x1"):
        StanfordCarsDataset(tmp_path, "train")
