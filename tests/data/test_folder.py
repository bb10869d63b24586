"""A person's own folders: layouts, splits, boxes, and all that can be wrong with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tokenloc.data import ImageDataset, create_dataset
from tokenloc.data.folder import FolderDataset

MakeTree = Callable[[Path, Mapping[str, int]], Path]
MakeImage = Callable[..., Path]
NESTED = {"train/cat": 4, "train/dog": 4, "val/cat": 1, "val/dog": 1, "test/cat": 2, "test/dog": 2}


def _ids(dataset: ImageDataset) -> set[str]:
    return {sample.id for sample in dataset}


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


def _voc(path: Path, *boxes: tuple[str, int, int, int, int], size: tuple[int, int] = (12, 8)) -> Path:
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
        "</bndbox></object>"
        for name, x0, y0, x1, y1 in boxes
    )
    width, height = size
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<annotation><size><width>{width}</width><height>{height}</height><depth>3</depth></size>{objects}</annotation>"
    )
    return path


def test_split_folders_are_the_splits(tmp_path: Path, make_tree: MakeTree) -> None:
    make_tree(tmp_path, NESTED)
    train = create_dataset("folder", tmp_path, "train")
    assert train.classes == ("cat", "dog")
    assert train.labels.tolist() == [0] * 4 + [1] * 4
    assert train[0].id == "train/cat/0.jpg"
    assert train[0].path == tmp_path / "train/cat/0.jpg"
    assert not train.has_boxes
    assert train.check() == []
    assert [len(create_dataset("folder", tmp_path, split)) for split in ("train", "val", "test", "all")] == [
        8,
        2,
        4,
        14,
    ]


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_other_names_of_val(tmp_path: Path, make_tree: MakeTree, name: str) -> None:
    make_tree(tmp_path, {"train/cat": 2, f"{name}/cat": 1})
    assert _ids(FolderDataset(tmp_path, "val")) == {f"{name}/cat/0.jpg"}


def test_a_flat_folder_is_dealt_out(tmp_path: Path, make_tree: MakeTree) -> None:
    make_tree(tmp_path, {"cat": 20, "dog": 30})
    splits = {split: FolderDataset(tmp_path, split) for split in ("train", "val", "test", "all")}
    assert {split: list(map(dataset.labels.tolist().count, (0, 1))) for split, dataset in splits.items()} == {
        "train": [16, 24],
        "val": [2, 3],
        "test": [2, 3],
        "all": [20, 30],
    }
    parts = [_ids(splits[split]) for split in ("train", "val", "test")]
    assert set.union(*parts) == _ids(splits["all"])
    assert sum(map(len, parts)) == 50


def test_the_share_of_a_class_does_not_depend_on_the_classes_chosen(tmp_path: Path, make_tree: MakeTree) -> None:
    make_tree(tmp_path, {"cat": 20, "dog": 30})
    train, test = FolderDataset(tmp_path, "train"), FolderDataset(tmp_path, "test", ["dog"])
    assert test.classes == ("dog",)
    assert not _ids(train) & _ids(test)
    assert _ids(test) == {name for name in _ids(FolderDataset(tmp_path, "test")) if name.startswith("dog")}


def test_fractions_and_seed(tmp_path: Path, make_tree: MakeTree) -> None:
    make_tree(tmp_path, {"cat": 20, "dog": 20})
    assert len(FolderDataset(tmp_path, "test", test_fraction=0.5)) == 20
    assert len(FolderDataset(tmp_path, "train", test_fraction=0, val_fraction=0)) == 40
    assert len(FolderDataset(tmp_path, "train", test_fraction=0.5, val_fraction=0)) == 20
    assert _ids(FolderDataset(tmp_path, "val", seed=1)) != _ids(FolderDataset(tmp_path, "val", seed=2))
    assert _ids(FolderDataset(tmp_path, "val", seed=1)) == _ids(FolderDataset(tmp_path, "val", seed=1))


def test_a_val_share_is_dealt_out_of_the_train_folder(tmp_path: Path, make_tree: MakeTree) -> None:
    make_tree(tmp_path, {"train/cat": 10, "train/dog": 10, "test/cat": 2, "test/dog": 2})
    val, train = (FolderDataset(tmp_path, split, val_fraction=0.2) for split in ("val", "train"))
    assert (len(val), len(train)) == (4, 16)
    assert not _ids(val) & _ids(train)
    assert len(FolderDataset(tmp_path, "train")) == 20
    assert len(FolderDataset(tmp_path, "test", val_fraction=0.2)) == 4


def test_a_missing_split_says_what_to_do(tmp_path: Path, make_tree: MakeTree) -> None:
    make_tree(tmp_path / "nested", {"train/cat": 2, "test/cat": 1})
    message = r"nested has no val split: there is neither a folder val nor a val_fraction above 0"
    with pytest.raises(FileNotFoundError, match=message):
        FolderDataset(tmp_path / "nested", "val")
    make_tree(tmp_path / "flat", {"cat": 5})
    with pytest.raises(FileNotFoundError, match="flat has no test split: there is neither"):
        FolderDataset(tmp_path / "flat", "test", test_fraction=0)
    make_tree(tmp_path / "untrained", {"test/cat": 5})
    assert len(FolderDataset(tmp_path / "untrained", "test")) == 5
    with pytest.raises(FileNotFoundError, match="untrained has no folder train; it has test"):
        FolderDataset(tmp_path / "untrained", "train")
    with pytest.raises(ValueError, match="nested has a folder test; test_fraction must not be given too"):
        FolderDataset(tmp_path / "nested", "train", test_fraction=0.2)


def test_too_few_images_for_the_shares_are_named(tmp_path: Path, make_tree: MakeTree) -> None:
    make_tree(tmp_path, {"cat": 5, "dog": 2})
    with pytest.raises(ValueError, match="too few images to have every class in all 3 parts: dog with 2; add images"):
        FolderDataset(tmp_path, "train")
    with pytest.raises(ValueError, match=r"fractions must be above 0 .*got \[0.1, -1\]"):
        FolderDataset(tmp_path, "train", val_fraction=-1)


def test_the_folder_above_will_do(tmp_path: Path, make_tree: MakeTree) -> None:
    make_tree(tmp_path, {f"pets/{name}": count for name, count in NESTED.items()})
    assert FolderDataset(tmp_path, "val")[0].id == "val/cat/0.jpg"
    make_tree(tmp_path / "other", {"pets/cat": 5, "pets/dog": 5})
    assert FolderDataset(tmp_path / "other", "all").classes == ("cat", "dog")


def test_one_class_is_no_folder_above(tmp_path: Path, make_tree: MakeTree) -> None:
    make_tree(tmp_path, {"cat": 3, "cat/old": 2})
    assert _ids(FolderDataset(tmp_path, "all")) == {f"cat/{n}.jpg" for n in range(3)} | {
        "cat/old/0.jpg",
        "cat/old/1.jpg",
    }


def test_hidden_files_and_other_files_are_left_out(tmp_path: Path, make_tree: MakeTree) -> None:
    make_tree(tmp_path, {"cat": 2, ".cache/x": 1, "cat/.thumbs": 1})
    for name in ("cat/._0.jpg", "cat/notes.txt", ".DS_Store", "README.md"):
        (tmp_path / name).touch()
    dataset = FolderDataset(tmp_path, "all")
    assert dataset.classes == ("cat",)
    assert _ids(dataset) == {"cat/0.jpg", "cat/1.jpg"}


@pytest.mark.parametrize("place", ["", "train"])
def test_images_without_a_class_are_named(
    tmp_path: Path, make_tree: MakeTree, make_image: MakeImage, place: str
) -> None:
    make_tree(tmp_path, NESTED)
    make_image(tmp_path / place / "stray.jpg")
    with pytest.raises(ValueError, match=r"outside of any class's folder \(1\): .*stray.jpg; expected a folder"):
        FolderDataset(tmp_path, "val")


def test_images_alone_are_named(tmp_path: Path, make_tree: MakeTree) -> None:
    make_tree(tmp_path, {".": 7})
    message = r"images outside of any class's folder \(7\): 0.jpg, 1.jpg, .* and 2 more; expected .*DIR/CLASS"
    with pytest.raises(ValueError, match=message):
        FolderDataset(tmp_path, "all")


@pytest.mark.parametrize("folder", ["", "train"])
def test_no_class_folders_are_named(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    with pytest.raises(ValueError, match=rf"no class folders in {tmp_path / folder}; expected a folder DIR with"):
        FolderDataset(tmp_path, "train")


def test_an_empty_class_folder_is_named(tmp_path: Path, make_tree: MakeTree) -> None:
    make_tree(tmp_path, {"cat": 3, "dog": 0, "eel": 0})
    with pytest.raises(ValueError, match=r"no image in the class folders dog, eel; add some, remove .*classes=…"):
        FolderDataset(tmp_path, "all")
    assert len(FolderDataset(tmp_path, "all", ["cat"])) == 3


def test_a_class_of_one_split_alone_is_named(tmp_path: Path, make_tree: MakeTree) -> None:
    make_tree(tmp_path, {**NESTED, "train/eel": 2, "val/fly": 1})
    with pytest.raises(ValueError, match=r"train and test differ in the classes eel; a class needs .*classes=…"):
        FolderDataset(tmp_path, "train")
    with pytest.raises(ValueError, match=r"val and test differ in the classes fly"):
        FolderDataset(tmp_path, "val")
    assert len(FolderDataset(tmp_path, "train", ["dog", "cat"])) == 8
    with pytest.raises(ValueError, match="unknown class 'cow'"):
        FolderDataset(tmp_path, "train", ["cow"])


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder; expected a folder DIR with DIR/CLASS/"):
        FolderDataset(tmp_path / "nowhere", "train")
    with pytest.raises(ValueError, match="dataset 'folder' needs a root folder, got None"):
        FolderDataset(None, "train")


def test_coco_boxes_of_the_images_class(tmp_path: Path, make_tree: MakeTree) -> None:
    make_tree(tmp_path, NESTED)
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


def test_labels_without_images_and_images_without_boxes_are_listed(tmp_path: Path, make_tree: MakeTree) -> None:
    make_tree(tmp_path, NESTED)
    boxes = [("cat", [1.0, 2, 3, 4])]
    path = _coco(tmp_path / "boxes.json", {"val/cat/0.jpg": boxes, "train/cat/0.jpg": boxes, "val/cat/99.jpg": boxes})
    problems = FolderDataset(tmp_path, "val", annotations=path).check()
    assert [str(problem) for problem in problems] == [
        f"{tmp_path / 'val/dog/0.jpg'}: has no box of class dog, while others have",
        f"{path}: annotates val/cat/99.jpg, which has no image in {tmp_path}",
    ]


def test_boxes_of_another_size_of_the_image_are_listed(tmp_path: Path, make_tree: MakeTree) -> None:
    make_tree(tmp_path, {"cat": 1})
    _voc(tmp_path / "cat/0.xml", ("cat", 1, 1, 30, 20), size=(30, 20))
    reasons = [problem.reason for problem in FolderDataset(tmp_path, "all").check()]
    assert len(reasons) == 2
    assert reasons[0].startswith("box 0 is outside the image of 12x8")
    assert reasons[1] == "is 12x8, but the dataset's lists say 30x20: its boxes may be off"


def test_a_coco_file_of_other_images_is_refused(tmp_path: Path, make_tree: MakeTree) -> None:
    make_tree(tmp_path, {"cat": 5})
    path = _coco(tmp_path / "boxes.json", {"a.jpg": [], "b.jpg": []})
    message = (
        r"boxes.json: none of its 2 images \(a.jpg, b.jpg\) is among the 5 of .*\(cat/0.jpg, cat/1.jpg and 3 more\)"
    )
    with pytest.raises(ValueError, match=message):
        FolderDataset(tmp_path, "all", annotations=path)


@pytest.mark.parametrize(
    "place", ["cat/0.xml", "Annotations/cat/0.xml", "Annotations/0.xml", "annotations/pets/cat/0.xml"]
)
def test_voc_boxes_beside_the_images_or_in_a_folder(tmp_path: Path, make_tree: MakeTree, place: str) -> None:
    make_tree(tmp_path, {"cat": 2})
    _voc(tmp_path / place, ("cat", 1, 1, 12, 8), ("cat", 3, 2, 5, 6))
    dataset = FolderDataset(tmp_path, "all")
    assert dataset.classes == ("cat",)
    assert dataset[0].boxes.tolist() == [[0, 0, 12, 8], [2, 1, 5, 6]]
    assert [problem.id for problem in dataset.check()] == ["cat/1.jpg"]


def test_an_xml_file_without_a_image_is_listed(tmp_path: Path, make_tree: MakeTree) -> None:
    make_tree(tmp_path, {"cat": 1})
    path = _voc(tmp_path / "cat/7.xml", ("cat", 1, 1, 12, 8))
    problems = FolderDataset(tmp_path, "all").check()
    assert [str(problem) for problem in problems] == [f"{path}: annotates cat/7, which has no image in {tmp_path}"]


def test_an_xml_file_that_fits_two_images_is_refused(tmp_path: Path, make_tree: MakeTree) -> None:
    make_tree(tmp_path, {"cat": 1, "dog": 1})
    _voc(tmp_path / "Annotations/0.xml", ("cat", 1, 1, 12, 8))
    with pytest.raises(ValueError, match=r"0 may be any of cat/0.jpg, dog/0.jpg; name its folder too"):
        FolderDataset(tmp_path, "all", ["cat"])


def test_listing_opens_no_image(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/0.jpg").write_bytes(b"no image")
    dataset = FolderDataset(tmp_path, "all")
    assert [problem.id for problem in dataset.check()] == ["cat/0.jpg"]


def _task(image: str, label: str, **more: object) -> dict[str, object]:
    value = {"x": 25.0, "y": 50.0, "width": 50.0, "height": 25.0, "rectanglelabels": [label]}
    region = {"type": "rectanglelabels", "original_width": 12, "original_height": 8, "value": value}
    return {"data": {"image": image}, "predictions": [{"result": [region]}], **more}


def test_label_studios_export_counts_what_a_person_annotated(tmp_path: Path, make_tree: MakeTree) -> None:
    """A prediction that nobody looked at is no truth: a model would be measured against itself."""
    make_tree(tmp_path / "photos", {"cat": 3})
    predicted = _task("/data/local-files/?d=photos/cat/0.jpg", "cat")
    seen = _task("/data/local-files/?d=photos/cat/1.jpg", "cat")
    seen["annotations"] = seen["predictions"]
    nothing = _task("/data/local-files/?d=photos/cat/2.jpg", "cat", annotations=[{"result": []}])
    path = tmp_path / "export.json"
    path.write_text("\n " + json.dumps([predicted, seen, nothing]))
    dataset = FolderDataset(tmp_path / "photos", "all", annotations=path)
    assert [sample.boxes.tolist() for sample in dataset] == [[], [[3, 4, 9, 6]], []]
    assert [problem.id for problem in dataset.check()] == ["cat/0.jpg", "cat/2.jpg"]


def test_an_absent_annotation_file_is_named(tmp_path: Path, make_tree: MakeTree) -> None:
    make_tree(tmp_path, {"cat": 1})
    with pytest.raises(FileNotFoundError, match=r"none\.json: no such annotation file; check option annotations"):
        FolderDataset(tmp_path, "all", annotations=tmp_path / "none.json")
