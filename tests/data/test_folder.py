"""A user's own folders: layouts, splits, boxes, and everything that can be wrong with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.data import builders as build
from tokenloc.data import ImageDataset, create_dataset
from tokenloc.data.folder import FolderDataset

NESTED = {"train/cat": 4, "train/dog": 4, "val/cat": 1, "val/dog": 1, "test/cat": 2, "test/dog": 2}
SPLITS = ("train", "val", "test", "all")


def _ids(dataset: ImageDataset) -> set[str]:
    return set(dataset.ids)


def _coco(path: Path, images: Mapping[str, list[tuple[str, list[float]]]]) -> Path:
    """Write a COCO file of (category, x y width height) by file name."""
    names = sorted({name for boxes in images.values() for name, _ in boxes})
    content = {
        "images": [{"id": n, "file_name": name, "width": 12, "height": 8} for n, name in enumerate(images)],
        "categories": [{"id": n, "name": name} for n, name in enumerate(names)],
        "annotations": [
            {"image_id": n, "category_id": names.index(name), "bbox": box}
            for n, boxes in enumerate(images.values())
            for name, box in boxes
        ],
    }
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_split_folders_are_the_splits(tmp_path: Path, val: str) -> None:
    build.tree(tmp_path, {name.replace("val/", f"{val}/"): count for name, count in NESTED.items()})
    train = create_dataset("folder", tmp_path, "train")
    assert train.classes == ("cat", "dog")
    assert train.labels.tolist() == [0] * 4 + [1] * 4
    assert (train[0].id, train[0].path) == ("train/cat/0.jpg", tmp_path / "train/cat/0.jpg")
    assert not train.has_boxes
    assert train.check() == []
    assert [len(FolderDataset(tmp_path, split)) for split in SPLITS] == [8, 2, 4, 14]


def test_a_flat_folder_is_split_by_fractions(tmp_path: Path) -> None:
    build.tree(tmp_path, {"cat": 20, "dog": 30})
    splits = {split: FolderDataset(tmp_path, split) for split in SPLITS}
    counts = {split: list(map(dataset.labels.tolist().count, (0, 1))) for split, dataset in splits.items()}
    assert counts == {"train": [16, 24], "val": [2, 3], "test": [2, 3], "all": [20, 30]}
    parts = [_ids(splits[split]) for split in ("train", "val", "test")]
    assert set.union(*parts) == _ids(splits["all"])
    assert sum(map(len, parts)) == 50
    dogs = FolderDataset(tmp_path, "test", ["dog"])  # a class's split does not depend on the other classes
    assert dogs.classes == ("dog",)
    assert _ids(dogs) == {name for name in _ids(splits["test"]) if name.startswith("dog")}


def test_fractions_and_seed(tmp_path: Path) -> None:
    build.tree(tmp_path, {"cat": 20, "dog": 20})
    assert len(FolderDataset(tmp_path, "test", test_fraction=0.5)) == 20
    assert len(FolderDataset(tmp_path, "train", test_fraction=0, val_fraction=0)) == 40
    assert len(FolderDataset(tmp_path, "train", test_fraction=0.5, val_fraction=0)) == 20
    first, again, other = (_ids(FolderDataset(tmp_path, "val", seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_val_may_be_a_fraction_of_the_train_folder(tmp_path: Path) -> None:
    build.tree(tmp_path, {"train/cat": 10, "train/dog": 10, "test/cat": 2, "test/dog": 2})
    val, train = (FolderDataset(tmp_path, split, val_fraction=0.2) for split in ("val", "train"))
    assert (len(val), len(train)) == (4, 16)
    assert not _ids(val) & _ids(train)
    assert len(FolderDataset(tmp_path, "train")) == 20
    assert len(FolderDataset(tmp_path, "test", val_fraction=0.2)) == 4


def test_a_folder_val_replaces_the_fraction(tmp_path: Path) -> None:
    build.tree(tmp_path, NESTED)
    for split in ("train", "val"):
        assert _ids(FolderDataset(tmp_path, split, val_fraction=0.2)) == _ids(FolderDataset(tmp_path, split))


def test_missing_splits_are_reported(tmp_path: Path) -> None:
    build.tree(tmp_path / "nested", {"train/cat": 2, "test/cat": 1})
    message = r"nested has no val split: there is neither a folder val nor a val_fraction above 0"
    with pytest.raises(FileNotFoundError, match=message):
        FolderDataset(tmp_path / "nested", "val")
    build.tree(tmp_path / "untrained", {"test/cat": 5})
    assert len(FolderDataset(tmp_path / "untrained", "test")) == 5
    with pytest.raises(FileNotFoundError, match="untrained has no folder train; it has test"):
        FolderDataset(tmp_path / "untrained", "train")
    with pytest.raises(ValueError, match="nested has a folder test; do not also give test_fraction"):
        FolderDataset(tmp_path / "nested", "train", test_fraction=0.2)


def test_too_few_images_for_the_fractions_are_reported(tmp_path: Path) -> None:
    build.tree(tmp_path, {"cat": 5, "dog": 2})
    with pytest.raises(ValueError, match="too few images to have every class in all 3 parts: dog with 2; add images"):
        FolderDataset(tmp_path, "train")
    with pytest.raises(ValueError, match=r"fractions must be above 0 .*got \[0.1, -1\]"):
        FolderDataset(tmp_path, "train", val_fraction=-1)


def test_the_root_may_be_the_folder_above(tmp_path: Path) -> None:
    build.tree(tmp_path, {f"pets/{name}": count for name, count in NESTED.items()})
    assert FolderDataset(tmp_path, "val")[0].id == "val/cat/0.jpg"
    build.tree(tmp_path / "other", {"pets/cat": 5, "pets/dog": 5})
    assert FolderDataset(tmp_path / "other", "all").classes == ("cat", "dog")
    build.tree(tmp_path / "one", {"cat": 1, "cat/old": 1})  # a class, not a folder above
    assert _ids(FolderDataset(tmp_path / "one", "all")) == {"cat/0.jpg", "cat/old/0.jpg"}


def test_hidden_and_other_files_are_ignored(tmp_path: Path) -> None:
    build.tree(tmp_path, {"cat": 2, ".cache/x": 1, "cat/.thumbs": 1})
    for name in ("cat/._0.jpg", "cat/notes.txt", ".DS_Store", "README.md"):
        (tmp_path / name).touch()
    dataset = FolderDataset(tmp_path, "all")
    assert dataset.classes == ("cat",)
    assert _ids(dataset) == {"cat/0.jpg", "cat/1.jpg"}


@pytest.mark.parametrize("place", ["", "train"])
def test_images_without_a_class_are_reported(tmp_path: Path, place: str) -> None:
    build.tree(tmp_path, NESTED)
    build.image(tmp_path / place / "stray.jpg")
    with pytest.raises(ValueError, match=r"outside the class folders \(1\): .*stray.jpg; expected a folder.*DIR/CLASS"):
        FolderDataset(tmp_path, "val")


@pytest.mark.parametrize("folder", ["", "train"])
def test_missing_class_folders_are_reported(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    with pytest.raises(ValueError, match=rf"no class folders in {tmp_path / folder}; expected a folder DIR with"):
        FolderDataset(tmp_path, "train")
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder; expected a folder DIR with DIR/CLASS/"):
        FolderDataset(tmp_path / "nowhere", "train")


def test_empty_class_folders_are_reported(tmp_path: Path) -> None:
    build.tree(tmp_path, {"cat": 3, "dog": 0, "eel": 0})
    with pytest.raises(ValueError, match=r"class folders without an image \(2\): dog, eel; add some, .*--data.classes"):
        FolderDataset(tmp_path, "all")
    assert len(FolderDataset(tmp_path, "all", ["cat"])) == 3


def test_classes_of_one_split_only_are_reported(tmp_path: Path) -> None:
    build.tree(tmp_path, {**NESTED, "train/eel": 2, "val/fly": 1})
    with pytest.raises(ValueError, match=r"train and test differ in the classes eel; a class needs .*--data.classes"):
        FolderDataset(tmp_path, "train")
    with pytest.raises(ValueError, match=r"val and test differ in the classes fly"):
        FolderDataset(tmp_path, "val")
    assert len(FolderDataset(tmp_path, "train", ["dog", "cat"])) == 8
    with pytest.raises(ValueError, match="unknown class 'cow'"):
        FolderDataset(tmp_path, "train", ["cow"])


def test_coco_boxes_of_the_images_class(tmp_path: Path) -> None:
    build.tree(tmp_path, NESTED)
    path = _coco(
        tmp_path / "boxes.json",
        {
            "train/cat/0.jpg": [("cat", [1, 2, 3, 4]), ("dog", [0, 0, 1, 1]), ("cat", [5, 5, 2, 2])],
            "pets/train/dog/1.jpg": [("thing", [0, 0, 12, 8])],
            "train/dog/0.jpg": [("cat", [0, 0, 12, 8])],
            "val/cat/0.jpg": [("cat", [0, 0, 2, 2])],
        },
    )
    train = FolderDataset(tmp_path, "train", annotations=path)
    boxes = {sample.id: sample.boxes.tolist() for sample in train if len(sample.boxes)}
    assert boxes == {"train/cat/0.jpg": [[1, 2, 4, 6], [5, 5, 7, 7]], "train/dog/1.jpg": [[0, 0, 12, 8]]}
    assert train.declared_size(0) == (12, 8)
    assert FolderDataset(tmp_path, "train", ["cat"], annotations=path)[0].boxes.tolist() == boxes["train/cat/0.jpg"]
    assert FolderDataset(tmp_path, "val", annotations=path)[0].boxes.tolist() == [[0, 0, 2, 2]]
    assert not FolderDataset(tmp_path, "test", annotations=path).has_boxes


def test_check_lists_annotations_without_images_and_images_without_boxes(tmp_path: Path) -> None:
    build.tree(tmp_path, NESTED)
    boxes = [("cat", [1.0, 2, 3, 4])]
    path = _coco(tmp_path / "boxes.json", {"val/cat/0.jpg": boxes, "train/cat/0.jpg": boxes, "val/cat/99.jpg": boxes})
    problems = FolderDataset(tmp_path, "val", annotations=path).check()
    assert [str(problem) for problem in problems] == [
        f"{tmp_path / 'val/dog/0.jpg'}: has no box, while others have",
        f"{path}: annotates val/cat/99.jpg, which has no image in {tmp_path}",
    ]


def test_check_lists_boxes_of_another_image_size(tmp_path: Path) -> None:
    build.tree(tmp_path, {"cat": 1})
    build.voc(tmp_path / "cat/0.xml", "cat", [(1, 1, 30, 20)], (30, 20))
    stray = build.voc(tmp_path / "cat/7.xml", "cat", [(1, 1, 12, 8)])
    size, declared, problem = FolderDataset(tmp_path, "all").check()
    assert size.reason.startswith("box 0 is outside the image of 12x8")
    assert declared.reason == "is 12x8, but the dataset's lists say 30x20: its boxes may be off"
    assert str(problem) == f"{stray}: annotates cat/7, which has no image in {tmp_path}"


def test_a_coco_file_of_other_images_is_refused(tmp_path: Path) -> None:
    build.tree(tmp_path, {"cat": 5})
    path = _coco(tmp_path / "boxes.json", {"a.jpg": [], "b.jpg": []})
    message = (
        r"boxes.json: none of its 2 images \(a.jpg, b.jpg\) is among the 5 of .*\(cat/0.jpg, cat/1.jpg and 3 more\)"
    )
    with pytest.raises(ValueError, match=message):
        FolderDataset(tmp_path, "all", annotations=path)
    with pytest.raises(FileNotFoundError, match=r"none\.json: no such annotation file; check option annotations"):
        FolderDataset(tmp_path, "all", annotations=tmp_path / "none.json")


@pytest.mark.parametrize(
    "place", ["cat/0.xml", "Annotations/cat/0.xml", "Annotations/0.xml", "annotations/pets/cat/0.xml"]
)
def test_voc_boxes_beside_the_images_or_in_a_folder(tmp_path: Path, place: str) -> None:
    build.tree(tmp_path, {"cat": 2})
    build.voc(tmp_path / place, "cat", [(1, 1, 12, 8), (3, 2, 5, 6)])
    dataset = FolderDataset(tmp_path, "all")
    assert dataset.classes == ("cat",)
    assert dataset[0].boxes.tolist() == [[0, 0, 12, 8], [2, 1, 5, 6]]
    assert [problem.id for problem in dataset.check()] == ["cat/1.jpg"]


def test_an_xml_file_that_matches_two_images_is_refused(tmp_path: Path) -> None:
    build.tree(tmp_path, {"cat": 1, "dog": 1})
    build.voc(tmp_path / "Annotations/0.xml", "cat", [(1, 1, 12, 8)])
    with pytest.raises(ValueError, match=r"0 matches several images: cat/0.jpg, dog/0.jpg; add its folder"):
        FolderDataset(tmp_path, "all", ["cat"])


def _task(image: str, label: str, **more: object) -> dict[str, object]:
    value = {"x": 25.0, "y": 50.0, "width": 50.0, "height": 25.0, "rectanglelabels": [label]}
    region = {"type": "rectanglelabels", "original_width": 12, "original_height": 8, "value": value}
    return {"data": {"image": image}, "predictions": [{"result": [region]}], **more}


def test_only_annotated_label_studio_tasks_count(tmp_path: Path) -> None:
    """Predictions are no ground truth: a model would be evaluated on its own output."""
    build.tree(tmp_path / "photos", {"cat": 3})
    predicted = _task("/data/local-files/?d=photos/cat/0.jpg", "cat")
    annotated = _task("/data/local-files/?d=photos/cat/1.jpg", "cat")
    annotated["annotations"] = annotated["predictions"]
    nothing = _task("/data/local-files/?d=photos/cat/2.jpg", "cat", annotations=[{"result": []}])
    path = tmp_path / "export.json"
    path.write_text("\n " + json.dumps([predicted, annotated, nothing]))
    dataset = FolderDataset(tmp_path / "photos", "all", annotations=path)
    assert [sample.boxes.tolist() for sample in dataset] == [[], [[3, 4, 9, 6]], []]
    assert [problem.id for problem in dataset.check()] == ["cat/0.jpg", "cat/2.jpg"]
