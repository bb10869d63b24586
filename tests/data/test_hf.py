"""Hugging Face datasets: the same samples and training as from files, and clear errors."""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from tests.runs import tiny_run, tiny_settings
from tokenloc.data import ImageDataset, Preprocessing, TrainingImages, create_dataset, train_transform, training_loader
from tokenloc.data.base import Sample, as_boxes
from tokenloc.data.hf import HfDataset
from tokenloc.models.checkpoint import read_checkpoint

CLASSES = ["ant", "bee, or wasp"]
BROKEN = 6
COLUMNS = {"boxes": "objects.bbox", "id": "name"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.fixture
def images(tmp_path: Path) -> ImageDataset:
    """Eight images with zero to two boxes each; number 6 is broken, and number 3 is rotated by EXIF."""
    noise = np.random.default_rng(0)
    samples = []
    for number in range(8):
        path = tmp_path / f"photos/train/{CLASSES[number % 2]}/{number}.{'jpg' if number % 3 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 3 else 1
        Image.fromarray(noise.integers(0, 256, (20 + number, 31, 3), np.uint8)).save(path, exif=exif)
        boxes = [[0.5, 1, 30 - number, 19], [2, 3, 4, 5]][: number % 3]
        samples.append(Sample(f"{number}.jpg", path, number % 2, as_boxes(np.reshape(boxes, (-1, 4)))))
    samples[BROKEN].path.write_bytes(b"no image")
    return ImageDataset("train", CLASSES, samples)


def table(images: ImageDataset, label: Any = None) -> datasets.Dataset:
    """Return the images as a dataset of the library, with boxes as COCO has them."""
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": label or datasets.ClassLabel(names=list(images.classes)),
            "name": datasets.Value("string"),
            "objects": {"bbox": datasets.Sequence(datasets.Sequence(datasets.Value("float32"), length=4))},
        }
    )
    rows = [
        {
            "image": {"bytes": sample.path.read_bytes(), "path": None},
            "label": sample.label,
            "name": sample.id,
            "objects": {"bbox": [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in sample.boxes.tolist()]},
        }
        for sample in images
    ]
    return datasets.Dataset.from_list(rows, features=features)


def on_disk(images: ImageDataset, folder: Path) -> Path:
    datasets.DatasetDict({"train": table(images), "validation": table(images).select([5, 2])}).save_to_disk(folder)
    return folder


def as_parquet(images: ImageDataset, folder: Path) -> Path:
    folder.mkdir()
    for number in range(3):
        part = table(images).shard(3, number, contiguous=True)
        part.to_parquet(folder / f"train-{number:05d}-of-00003.parquet")
    table(images).select([5, 2]).to_parquet(folder / "valid.parquet")
    return folder


def by_glob(images: ImageDataset, folder: Path) -> Path:
    return as_parquet(images, folder) / "*.parquet"


def assert_same_samples(found: ImageDataset, expected: ImageDataset) -> None:
    assert (found.classes, found.split, list(found.ids)) == (expected.classes, expected.split, list(expected.ids))
    assert found.labels.tolist() == expected.labels.tolist()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)


@pytest.mark.parametrize("write", [on_disk, as_parquet, by_glob])
def test_samples_are_those_of_the_files(
    write: Callable[[ImageDataset, Path], Path], images: ImageDataset, tmp_path: Path
) -> None:
    root = write(images, tmp_path / "written")
    found = create_dataset("hf", root, "train", **COLUMNS)
    assert_same_samples(found, images)
    assert found.has_boxes
    for number in range(8):
        if number != BROKEN:
            np.testing.assert_array_equal(np.asarray(found.image(number)), np.asarray(images.image(number)))
    with pytest.raises(ValueError, match=r"written.* train, row 6: not an image in any format"):
        found.image(BROKEN)
    assert [problem.id for problem in found.check()] == ["6.jpg"]
    assert list(HfDataset(root, "val", **COLUMNS).ids) == ["5.jpg", "2.jpg"]
    assert list(HfDataset(root, "val").ids) == ["00000000", "00000001"]
    with pytest.raises(FileNotFoundError, match=r"written.* has no test split; it has train, val"):
        HfDataset(root, "test")


def test_an_imagefolder_gives_the_samples_of_the_folder(images: ImageDataset, tmp_path: Path) -> None:
    folder = create_dataset("folder", tmp_path / "photos", "train")
    found = HfDataset(tmp_path / "photos", "train")
    assert_same_samples(found, folder)
    assert [sample.path for sample in found] == [sample.path for sample in folder]
    assert [str(problem) for problem in found.check()] == [str(problem) for problem in folder.check()]
    assert found.fingerprint(0) == folder.fingerprint(0)


def test_classes_are_selected(images: ImageDataset, tmp_path: Path) -> None:
    root = tmp_path / "disk"
    table(images).save_to_disk(root)  # without splits: it is the train split
    found, bees = HfDataset(root, "train", **COLUMNS), HfDataset(root, "train", CLASSES[1:], **COLUMNS)
    assert (bees.classes, list(bees.ids)) == ((CLASSES[1],), ["1.jpg", "3.jpg", "5.jpg", "7.jpg"])
    assert bees.labels.tolist() == [0] * 4
    for row, number in enumerate((1, 3, 5, 7)):
        np.testing.assert_array_equal(bees[row].boxes, images[number].boxes)
        assert bees.image(row).tobytes() == images.image(number).tobytes()
        assert bees.fingerprint(row) == found.fingerprint(number)
    assert len({found.fingerprint(number) for number in range(8)}) == 8
    with pytest.raises(ValueError, match="unknown class 'wasp'"):
        HfDataset(root, "train", ["wasp"])


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_files(workers: int, images: ImageDataset, tmp_path: Path) -> None:
    found = pickle.loads(pickle.dumps(HfDataset(on_disk(images, tmp_path / "disk"), "train", **COLUMNS)))
    transform = train_transform(Preprocessing((16, 16), (20, 20)))
    loaders = [
        training_loader(TrainingImages(source, transform, seed=3), 3, workers=workers, seed=4)
        for source in (images, found)
    ]
    torch.testing.assert_close(*map(list, loaders), rtol=0, atol=0)


def trained(out: Path, **source: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Train, choose the epoch, calibrate and evaluate; return the last weights and the metrics."""
    settings = tiny_settings(out)
    last = tiny_run(out, data=replace(settings["data"], per_class=3, **source))
    weights = read_checkpoint(last.with_name("last.ckpt"))["state_dict"]
    return weights, json.loads((out / "metrics.json").read_text())


@pytest.mark.slow
def test_a_run_gives_the_weights_and_metrics_of_the_files(tmp_path: Path) -> None:
    parts = {}
    for split, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        scenes = create_dataset("scenes", None, split, size=40, length=24)
        for index in range(len(scenes)):
            scenes.image(index).save(tmp_path / f"{split}{index}.png")
        samples = [replace(sample, path=tmp_path / f"{split}{row}.png") for row, sample in enumerate(scenes)]
        parts[name] = table(ImageDataset(split, scenes.classes, samples))
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "disk")
    weights, metrics = trained(tmp_path / "plain")
    same, again = trained(tmp_path / "hf", name="hf", root=tmp_path / "disk", options=COLUMNS)
    assert all(torch.equal(same[name], value) for name, value in weights.items())
    assert again["threshold"] == metrics["threshold"]
    for name in ("top1_cls", "top1_loc", "gt_known", "max_box_acc_v1", "max_box_acc_v2", "box_acc"):
        assert again["metrics"][name] == metrics["metrics"][name], name


@pytest.mark.parametrize(
    ("kind", "values", "classes", "labels"),
    [
        ("int64", [7, 3, 7], ("3", "7"), [1, 0, 1]),
        ("string", ["bee", "ant", "ant"], ("ant", "bee"), [1, 0, 0]),
    ],
)
def test_labels_may_be_integers_or_strings(
    kind: str, values: list[Any], classes: tuple[str, ...], labels: list[int], images: ImageDataset, tmp_path: Path
) -> None:
    part = table(images.subset([0, 1, 2])).remove_columns("label")
    part = part.add_column("kind", values, feature=datasets.Value(kind))
    datasets.DatasetDict({"train": part, "test": part.select([1])}).save_to_disk(tmp_path / "disk")
    found = HfDataset(tmp_path / "disk", "train", label="kind")
    assert (found.classes, found.labels.tolist()) == (classes, labels)
    test = HfDataset(tmp_path / "disk", "test", label="kind")
    assert (test.classes, test.labels.tolist()) == (classes, [labels[1]])


NESTED = datasets.Sequence(datasets.Sequence(datasets.Value("float32")))
BOXES = [[], [[1, 2, 3, 4], [5, 6, 7, 8]], [[2, 2, 9, 9]]]


@pytest.mark.parametrize(
    ("path", "feature", "values"),
    [
        ("bbox", NESTED, BOXES),
        ("objects.bbox", {"bbox": NESTED}, [{"bbox": boxes} for boxes in BOXES]),
        (
            "objects.bbox",
            [{"bbox": datasets.Sequence(datasets.Value("float32"), length=4)}],
            [[{"bbox": box} for box in boxes] for boxes in BOXES],
        ),
        ("bbox", NESTED, [None, *BOXES[1:]]),
    ],
)
def test_boxes_of_every_layout_and_format(
    path: str, feature: Any, values: list[Any], images: ImageDataset, tmp_path: Path
) -> None:
    part = table(images.subset([0, 1, 2])).remove_columns("objects")
    column = path.partition(".")[0]
    rows = [{**row, column: value} for row, value in zip(part.cast_column("image", RAW), values, strict=True)]
    part = datasets.Dataset.from_list(rows, features=datasets.Features({**part.features, column: feature}))
    part.save_to_disk(tmp_path / "disk")
    pascal = HfDataset(tmp_path / "disk", "train", boxes=path, box_format="pascal")
    assert [sample.boxes.tolist() for sample in pascal] == BOXES
    coco = HfDataset(tmp_path / "disk", "train", boxes=path)
    assert [sample.boxes.tolist() for sample in coco] == [[], [[1, 2, 4, 6], [5, 6, 12, 14]], [[2, 2, 11, 11]]]


RAW = datasets.Image(decode=False)


def test_one_box_for_each_image(images: ImageDataset, tmp_path: Path) -> None:
    feature = datasets.Sequence(datasets.Value("int64"))
    part = table(images.subset([0, 1, 2])).add_column("bbox", [[1, 2, 3, 4], [], [2, 2, 9, 9]], feature=feature)
    part.save_to_disk(tmp_path / "disk")
    found = HfDataset(tmp_path / "disk", "train", boxes="bbox", box_format="pascal")
    assert [sample.boxes.tolist() for sample in found] == [[[1, 2, 3, 4]], [], [[2, 2, 9, 9]]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": "img"}, r"unknown column of .*disk train: 'img'.* Valid: image, label, name, objects"),
        ({"label": "lable"}, r"unknown column of .*disk train: 'lable'; did you mean 'label'\?"),
        ({"boxes": "boxes"}, r"unknown column of .*disk train: 'boxes'"),
        ({"image": "name"}, r"disk train: column 'name' must be of type datasets.Image, got Value"),
        ({"label": "objects"}, r"disk train: column 'objects' must hold class names or integers"),
        ({"boxes": "name"}, r"disk train: column 'name' of type .* holds no boxes"),
        ({"boxes": "objects.box"}, r"disk train: column 'objects.box' of type .* holds no boxes"),
        ({"box_format": "yolo"}, r"unknown value of option box_format: 'yolo'. Valid: coco, pascal"),
    ],
)
def test_wrong_columns_are_reported(
    options: dict[str, str], message: str, images: ImageDataset, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        HfDataset(on_disk(images, tmp_path / "disk"), "train", **options)


def test_rows_without_a_label_or_an_image_are_reported(images: ImageDataset, tmp_path: Path) -> None:
    label = datasets.ClassLabel(names=CLASSES)
    part = table(images).remove_columns("label").add_column("label", [0, -1, 0, None, *[1] * 4], feature=label)
    part.save_to_disk(tmp_path / "unlabelled")
    with pytest.raises(ValueError, match=r"unlabelled train: rows without a label of the 2 classes \(2\): 1, 3;"):
        HfDataset(tmp_path / "unlabelled", "train")
    part = table(images.subset([0, 1])).remove_columns("image")
    rows = [{"bytes": images[0].path.read_bytes(), "path": None}, None]
    part.add_column("image", rows, feature=datasets.Image()).save_to_disk(tmp_path / "empty")
    (problem,) = HfDataset(tmp_path / "empty", "train").check()
    assert problem.reason.endswith("empty train, row 1: the column 'image' is empty; remove the row")


def test_what_cannot_be_opened_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/train.parquet").write_bytes(b"no Parquet")
    expected = "expected a folder of save_to_disk, a folder or glob of Parquet files, an imagefolder, or"
    for root in (tmp_path / "nowhere", tmp_path / "empty", tmp_path / "*.parquet", "no-one/nothing"):
        with pytest.raises(FileNotFoundError, match=rf"cannot be opened \(.*\); {expected}"):
            HfDataset(root, "train")
    with pytest.raises(ValueError, match=rf"damaged: not a dataset that can be read \(.*\); {expected}"):
        HfDataset(tmp_path / "damaged", "train")
    with pytest.raises(ValueError, match=f"dataset 'hf' needs a root, got None; {expected}"):
        HfDataset(None, "train")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"datasets is not installed; install it with: pip install 'tokenloc\[hf\]'"):
        HfDataset(tmp_path, "train")


def test_counts_beyond_the_file_are_refused(images: ImageDataset, tmp_path: Path) -> None:
    root = tmp_path / "bomb"
    root.mkdir()
    rows = table(images).to_dict()["image"][:1] * 100_000
    parquet.write_table(pyarrow.table({"image": rows, "label": ["a"] * len(rows)}), root / "train.parquet")
    for name in (root, root / "*.parquet"):
        with pytest.raises(ValueError, match=r"train\.parquet states 100000 rows in \d+ bytes"):
            HfDataset(name, "train")


def test_offsets_beyond_the_file_are_refused(images: ImageDataset, tmp_path: Path) -> None:
    root = tmp_path / "disk"
    table(images).save_to_disk(root)
    (path,) = root.glob("*.arrow")
    content = path.read_bytes()
    lengths = [len(sample.path.read_bytes()) for sample in images if sample.path]
    offsets = np.cumsum([0, *lengths]).astype(np.int32)
    assert content.count(offsets.tobytes()) == 1
    offsets[4] = 2**31 - 1
    path.write_bytes(content.replace(np.cumsum([0, *lengths]).astype(np.int32).tobytes(), offsets.tobytes()))
    with pytest.raises(ValueError, match=r"\.arrow: column 'image' is damaged .* copy or download it again"):
        HfDataset(root, "train", **COLUMNS)


def test_rows_cannot_name_images_outside_the_dataset(images: ImageDataset, tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)})
    (tmp_path / "mine").mkdir()
    for number, path in enumerate((images[0].path, tmp_path / "mine/../photos/x.png")):
        rows = {"image": [{"path": str(path), "bytes": None}], "label": [0]}
        parquet.write_table(datasets.Dataset.from_dict(rows, features).data.table, tmp_path / f"mine/{number}.parquet")
        with pytest.raises(ValueError, match=r"names the image .*photos.*, which is outside the dataset"):
            HfDataset(tmp_path / "mine" / f"{number}*.parquet", "train")


def test_a_pipe_among_the_files_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.parquet")
    for root in (tmp_path, tmp_path / "*.parquet"):
        with pytest.raises(ValueError, match=r"a\.parquet: a pipe"):
            HfDataset(root, "train")
