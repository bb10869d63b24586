"""ImageNet in its layouts: by class and flat, both box lists, Kaggle's archive, the `wsol-eval` lists, ImageNetV2."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.data import builders as build
from tokenloc.data import create_dataset
from tokenloc.data.imagenet import ImageNetDataset
from tokenloc.data.imagenet_truth import all_wnids, read_truth

TENCH, FISH, SHARK = "n01440764", "n01443537", "n01484850"  # labels 0, 1, 2
CRANES = ("n02012849", "n03126707")

VAL = {
    "ILSVRC2012_val_00000001": (FISH, [(0, 1, 11, 7)]),
    "ILSVRC2012_val_00000002": (TENCH, [(2, 1, 5, 7), (6, 0, 11, 3)]),
    "ILSVRC2012_val_00000003": (FISH, [(3, 3, 9, 6)]),
}


def _train(root: Path, wnids: Sequence[str] = (TENCH, FISH)) -> Path:
    return build.images(root / "train", [f"{wnid}/{wnid}_{number}.JPEG" for wnid in wnids for number in (7, 40)])


def _val(root: Path, nested: bool = False) -> Path:
    return build.images(
        root / "val", [f"{wnid}/{stem}.JPEG" if nested else f"{stem}.JPEG" for stem, (wnid, _) in VAL.items()]
    )


def _xml(folder: Path) -> Path:
    for stem, (wnid, boxes) in VAL.items():
        build.voc(folder / f"{stem}.xml", wnid, boxes)
    return folder


def _csv(path: Path) -> Path:
    objects = {
        stem: " ".join(f"{wnid} {' '.join(map(str, box))}" for box in boxes) for stem, (wnid, boxes) in VAL.items()
    }
    return build.text(path, ["ImageId,PredictionString", *(f"{stem},{row} " for stem, row in objects.items())])


def _released(path: Path, which: slice = slice(None), folder: bool = True) -> Path:
    lines = []
    for stem, (wnid, boxes) in VAL.items():
        corners = " ".join(str(value) for box in boxes[which] for value in box)
        lines.append(f"{wnid + '/' if folder else ''}{stem}.JPEG {all_wnids().index(wnid)} {corners}")
    return build.text(path, lines)


def _rows(dataset: ImageNetDataset) -> list[tuple[str, str, list[list[float]]]]:
    return [(sample.id, dataset.classes[sample.label], sample.boxes.tolist()) for sample in dataset]


EXPECTED = [(f"val/{stem}.JPEG", wnid, [list(map(float, box)) for box in boxes]) for stem, (wnid, boxes) in VAL.items()]
FIRST = [(name, wnid, boxes[:1]) for name, wnid, boxes in EXPECTED]


def test_train_is_the_content_of_the_class_folders(tmp_path: Path) -> None:
    _train(tmp_path)
    train = ImageNetDataset(tmp_path, "train")
    assert train.classes == (TENCH, FISH)
    assert [(sample.id, sample.label) for sample in train] == [
        (f"train/{TENCH}/{TENCH}_40.JPEG", 0),
        (f"train/{TENCH}/{TENCH}_7.JPEG", 0),
        (f"train/{FISH}/{FISH}_40.JPEG", 1),
        (f"train/{FISH}/{FISH}_7.JPEG", 1),
    ]
    assert train[3].path == tmp_path / f"train/{FISH}/{FISH}_7.JPEG"
    assert train.image(3).size == build.SIZE
    assert not train.has_boxes
    assert train.check() == []


@pytest.mark.parametrize("place", ["", "ILSVRC", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "whatever"])
def test_the_root_may_be_the_folder_above(tmp_path: Path, place: str) -> None:
    _train(tmp_path / place)
    assert ImageNetDataset(tmp_path, "train")[0].path == ImageNetDataset(tmp_path / place, "train")[0].path


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    "source", ["Annotations/CLS-LOC/val", "Annotations/val", "val", "csv", "list", "option", "bare"]
)
def test_val_has_the_same_samples_wherever_boxes_come_from(tmp_path: Path, nested: bool, source: str) -> None:
    _val(tmp_path, nested)
    annotations = None
    if source == "csv":
        _csv(tmp_path / "LOC_val_solution.csv")
    elif source == "list":
        _released(tmp_path / "ILSVRC2012_list/val_folder_new.txt")
    elif source == "option":
        annotations = _released(tmp_path / "elsewhere/boxes.txt")
    elif source == "bare":
        annotations = _released(tmp_path / "val.txt", folder=False)
    else:
        _xml(tmp_path / source)
    val = ImageNetDataset(tmp_path, "val", annotations=annotations)
    assert val.classes == (TENCH, FISH)
    assert _rows(val) == EXPECTED
    assert val.check() == []
    assert val[1].path == tmp_path / "val" / (TENCH if nested else "") / "ILSVRC2012_val_00000002.JPEG"
    assert _rows(ImageNetDataset(tmp_path, "val", boxes="first", annotations=annotations)) == FIRST
    assert not ImageNetDataset(tmp_path, "val", boxes="none", annotations=annotations).has_boxes


def test_kaggles_archive_is_found(tmp_path: Path) -> None:
    data = tmp_path / "ILSVRC/Data/CLS-LOC"
    _train(data)
    _val(data)
    _xml(tmp_path / "ILSVRC/Annotations/CLS-LOC/val")
    build.text(
        tmp_path / "LOC_synset_mapping.txt", [f"{TENCH} tench, Tinca tinca", f"{FISH} goldfish", f"{SHARK} shark"]
    )
    for root in (tmp_path, tmp_path / "ILSVRC", data):
        val = ImageNetDataset(root, "val")
        assert val.classes == ("tench", "goldfish")
        assert [boxes for _, _, boxes in _rows(val)] == [boxes for _, _, boxes in EXPECTED]
        assert val.declared_size(0) == build.SIZE
    one = _released(tmp_path / "one_box.txt", slice(1))  # the list of one box for each image
    assert [boxes for _, _, boxes in _rows(ImageNetDataset(data, "val", annotations=one))] == [b for _, _, b in FIRST]


def test_boxes_of_train_are_read_on_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _train(tmp_path)
    xml = tmp_path / "Annotations/CLS-LOC/train"
    build.voc(xml / f"{TENCH}/{TENCH}_7.xml", TENCH, [(0, 0, 5, 5)])
    build.text(xml / f"{SHARK}/{SHARK}_7.xml", ["not read, as no image is of it"])
    assert not ImageNetDataset(tmp_path, "train", boxes="first").has_boxes
    assert caplog.text == ""
    train = ImageNetDataset(tmp_path, "train", [TENCH], annotations=xml)
    assert [sample.boxes.tolist() for sample in train] == [[], [[0, 0, 5, 5]]]
    assert [str(problem.reason) for problem in train.check()] == ["has no box, while others have"]
    of_val = _released(tmp_path / "val.txt")  # options are shared by all splits of a run
    assert not ImageNetDataset(tmp_path, "train", annotations=of_val).has_boxes


def test_only_objects_of_the_first_objects_class_give_boxes(tmp_path: Path) -> None:
    _val(tmp_path, nested=True)
    xml = _xml(tmp_path / "Annotations/val")
    build.voc(xml / "ILSVRC2012_val_00000001.xml", FISH, [])
    val = ImageNetDataset(tmp_path, "val")
    assert [len(sample.boxes) for sample in val] == [0, 2, 1]
    assert [problem.id for problem in val.check()] == ["val/ILSVRC2012_val_00000001.JPEG"]
    path = build.voc(tmp_path / "xml/a.xml", FISH, [(0, 1, 5, 5)])
    other = build.voc(tmp_path / "other.xml", TENCH, [(2, 2, 9, 7)]).read_text()
    path.write_text(path.read_text().replace("</annotation>", other[other.index("<object>") :].strip()))
    truth = read_truth(tmp_path / "xml")["a"]
    assert (truth.wnid, truth.boxes.tolist()) == (FISH, [[0, 1, 5, 5]])


def test_a_val_without_boxes_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _val(tmp_path, nested=True)
    with caplog.at_level(logging.WARNING):
        val = ImageNetDataset(tmp_path, "val")
    assert "imagenet val: boxes were not found in" in caplog.text
    assert "image-net.org" in caplog.text
    assert [problem.id for problem in val.check()] == ["boxes"]
    assert ImageNetDataset(tmp_path, "val", boxes="none").check() == []


def test_a_flat_val_needs_classes(tmp_path: Path) -> None:
    _val(tmp_path)
    message = r"images whose class is given neither by a folder WNID nor by XML .* \(3\): ILSVRC2012_val_00000001.J"
    with pytest.raises(ValueError, match=message):
        ImageNetDataset(tmp_path, "val")
    _xml(tmp_path / "Annotations/val")
    build.image(tmp_path / "val/ILSVRC2012_val_00000009.JPEG")
    with pytest.raises(ValueError, match=r"nor in .*Annotations/val \(1\): ILSVRC2012_val_00000009.JPEG; get ILSVRC"):
        ImageNetDataset(tmp_path, "val")


@pytest.mark.parametrize("nested", [False, True])
def test_annotated_but_missing_images(tmp_path: Path, nested: bool, caplog: pytest.LogCaptureFixture) -> None:
    _val(tmp_path, nested)
    _xml(tmp_path / "Annotations/val")
    (tmp_path / "val" / (FISH if nested else "") / "ILSVRC2012_val_00000003.JPEG").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of the 3 images of imagenet val .*: val/ILSVRC2012_val_00000003.J"):
        ImageNetDataset(tmp_path, "val")
    val = ImageNetDataset(tmp_path, "val", missing="skip")
    assert _rows(val) == EXPECTED[:2]
    assert val.skipped == ("val/ILSVRC2012_val_00000003.JPEG",)
    assert "1 of the 3 images" in caplog.text


def test_a_tree_of_some_classes_is_complete(tmp_path: Path) -> None:
    _val(tmp_path, nested=True)
    _xml(tmp_path / "Annotations/val")
    (tmp_path / f"val/{TENCH}/ILSVRC2012_val_00000002.JPEG").unlink()
    (tmp_path / f"val/{TENCH}").rmdir()
    val = ImageNetDataset(tmp_path, "val")
    assert val.classes == (FISH,)
    assert [name for name, _, _ in _rows(val)] == [EXPECTED[0][0], EXPECTED[2][0]]


def test_contradictory_classes_and_duplicates_are_reported(tmp_path: Path) -> None:
    _val(tmp_path, nested=True)
    _xml(tmp_path / "Annotations/val")
    build.voc(tmp_path / "Annotations/val/ILSVRC2012_val_00000001.xml", TENCH, [(0, 0, 5, 5)])
    message = rf"images in the folder of another class than in .*Annotations/val \(1\): {FISH}/ILSVRC2012_val_00000001"
    with pytest.raises(ValueError, match=message):
        ImageNetDataset(tmp_path, "val")
    build.image(tmp_path / f"val/{FISH}/ILSVRC2012_val_00000002.JPEG")
    with pytest.raises(ValueError, match=r"val lists images more than once \(1\): ILSVRC2012_val_00000002.JPEG"):
        ImageNetDataset(tmp_path, "val")


def test_classes_may_be_selected_by_id_or_in_words(tmp_path: Path) -> None:
    _train(tmp_path, (TENCH, FISH, *CRANES))
    lines = [f"0 {TENCH} tench", f"1 {FISH} gold_fish, Carassius", f"134 {CRANES[0]} crane", f"517 {CRANES[1]} crane"]
    build.text(tmp_path / "classes.txt", lines)

    def train(classes: Sequence[str] | None = None) -> ImageNetDataset:
        return ImageNetDataset(tmp_path, "train", classes)

    names = ("tench", "gold_fish", "crane (n02012849)", "crane (n03126707)")
    assert train().classes == train(names).classes == names
    selected = train(["crane (n03126707)", "tench"])
    assert (selected.classes, selected.labels.tolist()) == (("tench", "crane (n03126707)"), [0, 0, 1, 1])
    by_id = train([CRANES[1], TENCH])
    assert (by_id.classes, by_id.labels.tolist()) == ((TENCH, CRANES[1]), [0, 0, 1, 1])
    assert train(["gold_fish", TENCH]).classes == (TENCH, "gold_fish")
    with pytest.raises(ValueError, match="classes names one class twice: n01440764, n01440764"):
        train(["tench", TENCH])
    with pytest.raises(ValueError, match=r"unknown class 'tensh'; did you mean 'tench'\? Valid: crane \(n02012849\)"):
        train(["tensh"])
    with pytest.raises(ValueError, match=rf"unknown class '{SHARK}'.* Valid: crane "):
        train([SHARK])
    with pytest.raises(ValueError, match="classes must be a list of at least one class name, got 'tench'"):
        train("tench")
    build.text(tmp_path / "classes.txt", ["ant", "bee"])
    with pytest.raises(ValueError, match=r"classes.txt, line 1: expected a WordNet id and a name, got 'ant'"):
        train()


def test_incomplete_folders_are_reported(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing files in .* \(1\): train; expected train; .*image-net.org"):
        ImageNetDataset(tmp_path, "train")
    with pytest.raises(FileNotFoundError, match=r"missing files in .* \(1\): val; .*image-net.org"):
        ImageNetDataset(tmp_path, "val")
    (tmp_path / "val").mkdir()
    with pytest.raises(FileNotFoundError, match=r"val holds no image; unpack ILSVRC 2012"):
        ImageNetDataset(tmp_path, "val")
    (tmp_path / "train").mkdir()
    (tmp_path / f"train/{TENCH}.tar").touch()
    with pytest.raises(FileNotFoundError, match=r"no class folder.*unpack each of its 1 archives into a folder of the"):
        ImageNetDataset(tmp_path, "train")
    (tmp_path / f"train/{TENCH}").mkdir()
    with pytest.raises(ValueError, match="the train split of imagenet has no image"):
        ImageNetDataset(tmp_path, "train")
    build.image(tmp_path / "train/stray.JPEG")
    with pytest.raises(ValueError, match=r"train: images outside the class folders \(1\): stray.JPEG"):
        ImageNetDataset(tmp_path, "train")
    (tmp_path / "train/cats").mkdir()
    message = r"not named by a WordNet id such as n01440764 \(1\): cats; dataset 'folder' takes"
    with pytest.raises(ValueError, match=message):
        ImageNetDataset(tmp_path, "train")


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("a.csv", ["ImageId,PredictionString", "x,"], r"a.csv, line 2: expected ID,WNID x0 y0 x1 y1 …, got 'x,'"),
        ("a.csv", ["x,n01440764 1 2 3 4"] * 2, r"a.csv lists images more than once \(1\): x"),
        ("a.txt", ["x.JPEG"], r"a.txt, line 1: expected FILE LABEL x0 y0 x1 y1 …, got 'x.JPEG'"),
        ("a.txt", ["x.JPEG 1000 1 2 3 4"], r"a.txt, line 1: label 1000 is not one of ILSVRC's, 0 to 999"),
        ("a.txt", ["n01443537/x.JPEG 0 1 2 3 4"], r"line 1: the folder says n01443537, but label 0 is n01440764"),
        ("1.xml", ["<annotation>"], r"1.xml: not a Pascal VOC XML file"),
    ],
)
def test_damaged_lists_are_reported(tmp_path: Path, name: str, lines: list[str], message: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"boxes.txt: no such file or folder; check option annotations"):
        read_truth(tmp_path / "boxes.txt")
    path = build.text(tmp_path / name, lines)
    with pytest.raises(ValueError, match=message):
        read_truth(tmp_path if name.endswith("xml") else path)


def test_options_are_validated(tmp_path: Path) -> None:
    _train(tmp_path)
    with pytest.raises(ValueError, match=r"unknown value of option boxes: 'one'; .* Valid: all, first, none"):
        create_dataset("imagenet", tmp_path, "train", boxes="one")
    with pytest.raises(ValueError, match="options metadata and annotations both give boxes"):
        create_dataset("imagenet", tmp_path, "train", metadata=tmp_path, annotations=tmp_path)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("place", ["metadata/ILSVRC/test", "metadata/test", "metadata"])
def test_val_by_the_wsol_eval_lists_of_test(tmp_path: Path, nested: bool, place: str) -> None:
    _val(tmp_path, nested)
    names = {name: all_wnids().index(wnid) for name, wnid, _ in reversed(EXPECTED)}
    boxes = [f"{name},{','.join(str(int(value)) for value in box)}" for name, _, several in EXPECTED for box in several]
    build.split_files(tmp_path / place, names, boxes)
    val = ImageNetDataset(tmp_path, "val", metadata=tmp_path / "metadata")
    assert _rows(val) == EXPECTED[::-1]
    assert val.check() == []
    assert _rows(ImageNetDataset(tmp_path, "val", metadata=tmp_path / "metadata", boxes="first")) == FIRST[::-1]


def test_train_by_the_wsol_eval_lists(tmp_path: Path) -> None:
    _train(tmp_path)
    build.split_files(tmp_path / "metadata/train", {f"train/{FISH}/{FISH}_7.JPEG": 1})
    train = ImageNetDataset(tmp_path, "train", metadata=tmp_path / "metadata")
    assert _rows(train) == [(f"train/{FISH}/{FISH}_7.JPEG", FISH, [])]
    build.split_files(tmp_path / "metadata/train", {f"train/{FISH}/{FISH}_7.JPEG": -1})
    with pytest.raises(ValueError, match=r"class_labels.txt: label -1 is not one of ILSVRC's"):
        ImageNetDataset(tmp_path, "train", metadata=tmp_path / "metadata")


V2 = {"val2/0/0.jpeg": (0, (1, 1, 9, 7)), "val2/2/1.jpeg": (2, (0, 0, 4, 4))}


@pytest.mark.parametrize("folder", ["val2", "imagenetv2-threshold0.7"])
@pytest.mark.parametrize("naming", ["wsol_eval", "original"])
@pytest.mark.parametrize("lists", ["metadata/ILSVRC/val", "beside the images"])
def test_val2_is_imagenetv2_by_the_wsol_eval_lists(tmp_path: Path, folder: str, naming: str, lists: str) -> None:
    original = {"0/0.jpeg": "0/a31041fd.jpeg", "2/1.jpeg": "2/bcf8a532.jpeg"}
    build.images(tmp_path / folder, list(original.values() if naming == "original" else original))
    place = tmp_path / (folder if lists.startswith("beside") else lists)
    boxes = [f"{name},{','.join(map(str, box))}" for name, (_, box) in V2.items()]
    build.split_files(place, {name: label for name, (label, _) in V2.items()}, boxes)
    build.text(place / "mapping.txt", [f"{new}, {old}" for new, old in original.items()])
    metadata = None if lists.startswith("beside") else tmp_path / "metadata"
    second = ImageNetDataset(tmp_path, "val2", metadata=metadata)
    assert _rows(second) == [("val2/0/0.jpeg", TENCH, [[1, 1, 9, 7]]), ("val2/2/1.jpeg", SHARK, [[0, 0, 4, 4]])]
    assert second.check() == []


def test_lists_with_original_names_find_the_wsol_eval_files(tmp_path: Path) -> None:
    build.images(tmp_path / "val2", ["0/0.jpeg", "2/1.jpeg"])
    build.split_files(tmp_path / "metadata/val", {"val2/2/bcf8a532.jpeg": 2, "val2/0/a31041fd.jpeg": 0})
    build.text(tmp_path / "metadata/val/mapping.txt", ["0/0.jpeg, 0/a31041fd.jpeg", "2/1.jpeg, 2/bcf8a532.jpeg"])
    second = ImageNetDataset(tmp_path, "val2", metadata=tmp_path / "metadata")
    assert [(sample.id, sample.path) for sample in second] == [
        ("val2/2/bcf8a532.jpeg", tmp_path / "val2/2/1.jpeg"),
        ("val2/0/a31041fd.jpeg", tmp_path / "val2/0/0.jpeg"),
    ]
    (tmp_path / "val2/0/0.jpeg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of the 2 images of imagenet val2 .*: val2/0/a31041fd.jpeg"):
        ImageNetDataset(tmp_path, "val2", metadata=tmp_path / "metadata")


def test_val2_without_lists_has_no_boxes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _train(tmp_path / "ILSVRC")
    build.images(tmp_path / "imagenetv2-threshold0.7", ["0/a.jpeg", "10/b.jpeg"])
    second = ImageNetDataset(tmp_path / "ILSVRC", "val2")
    assert _rows(second) == [("val2/0/a.jpeg", TENCH, []), ("val2/10/b.jpeg", all_wnids()[10], [])]
    assert "imagenet val2: boxes were not found in" in caplog.text
    build.image(tmp_path / "imagenetv2-threshold0.7/cats/c.jpeg")
    with pytest.raises(ValueError, match=r"cats/c.jpeg: 'cats' is not a whole number"):
        ImageNetDataset(tmp_path / "ILSVRC", "val2")
    message = r"val2 split only with ImageNetV2: looked for .*val2, .*wsolevaluation"
    with pytest.raises(FileNotFoundError, match=message):
        ImageNetDataset(_train(tmp_path / "alone/deep").parent, "val2")


def test_the_real_images(shared_dir: Path) -> None:
    train = create_dataset("imagenet", shared_dir / "data/imagenet_1shot", "train")
    assert (len(train), len(train.classes)) == (1000, 1000)
    assert (train[0].id, train.classes[0]) == ("train/n01440764/n01440764_0.jpg", "tench")
    assert train.labels.tolist() == list(range(1000))
    assert [sample.id.split("/")[1] for sample in train] == list(all_wnids())
    assert train.subset(range(0, 1000, 100)).check() == []
