"""Images without an object: the class `_background`, and boxes of low confidence."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.commands.test_autolabel import SMALL, read
from tests.docs.trees import images
from tests.export.examples import localization
from tokenloc.cli import main
from tokenloc.data import create_dataset
from tokenloc.data.base import BACKGROUND
from tokenloc.export.base import Destination, find_formats, write_annotations
from tokenloc.inference import Localizer


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of objects, one of them after `_background` in the order of names, and plain images without one."""
    for split in ("train", "test"):
        images(tmp_path / "photos" / split, ("Ant", "cat"), 4, split)
        for index in range(4):
            path = tmp_path / "photos" / split / BACKGROUND / f"plain{index}.jpg"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (60, 48), (40 * index, 90, 20)).save(path)
    return tmp_path / "photos"


def test_it_is_the_last_class_of_a_folder(photos: Path) -> None:
    dataset = create_dataset("folder", photos, "train")
    assert dataset.classes == ("Ant", "cat", BACKGROUND)
    objects = dataset.with_objects()
    assert objects.classes == dataset.classes
    assert sorted(set(objects.labels.tolist())) == [0, 1]
    assert len(objects) == len(dataset) - 4
    assert dataset.without_boxes() == objects.without_boxes()


def test_its_images_get_no_box_from_training_to_report(photos: Path, tmp_path: Path) -> None:
    flags = [f"--{flag}={value}" for flag, value in SMALL.items()]
    command = ["autolabel", str(photos), "--out", str(tmp_path / "out"), "--format", "coco,yolo,csv", *flags]
    assert main(command) == 0
    results = {result["file"]: result for result in read(tmp_path / "out")}
    assert len(results) == 24
    assert all((len(each["boxes"]) == 0) == (BACKGROUND in file) for file, each in results.items())
    coco = json.loads((tmp_path / "out/coco.json").read_text())
    assert [category["name"] for category in coco["categories"]] == ["Ant", "cat"]
    assert (len(coco["images"]), len(coco["annotations"])) == (24, 16)
    assert yaml.safe_load((tmp_path / "out/yolo/data.yaml").read_text())["names"] == {0: "Ant", 1: "cat"}
    with (tmp_path / "out/review.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(row["confidence"] == row["score"] for row in rows if row["label"] == BACKGROUND)
    run = tmp_path / "out/training"
    evaluated = ["evaluate", str(run), "--data.root", str(photos), "--split", "test", "--out", str(tmp_path / "eval")]
    assert main([*evaluated, "--device", "cpu"]) == 0
    content = json.loads((tmp_path / "eval/metrics.json").read_text())
    assert content["images"] == 12
    assert content["per_class"][BACKGROUND]["images"] == 4
    for folder in ("eval", "out"):
        assert main(["report", str(tmp_path / folder), "--out", str(tmp_path / f"{folder}.html")]) == 0


@pytest.mark.parametrize("objects", ["largest", "all"])
def test_an_image_predicted_as_it_has_no_box(run: Path, objects: str) -> None:
    localizer = Localizer.from_checkpoint(run, "cpu", objects=objects)
    image = create_dataset("scenes", None, "test", size=40, length=1).image(0)
    plain = localizer(image)
    classes = list(localizer.classes)
    classes[plain.class_index] = BACKGROUND
    localizer.metadata = replace(localizer.metadata, classes=tuple(classes))
    found, second = localizer.top(image, 2)
    assert (len(plain.boxes) > 0, len(found.boxes), len(second.boxes) > 0) == (True, 0, True)
    assert found.first_confidence == found.score
    assert not found.mask.any()
    assert len(found.at_threshold(0.1).boxes) == 0


def test_boxes_of_low_confidence_are_left_out(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenes = create_dataset("scenes", None, "test", size=40, length=6)
    for index in range(6):
        scenes.image(index).save(tmp_path / f"{index}.png")
    files = sorted(tmp_path.glob("*.png"))
    every = Localizer.from_checkpoint(run, "cpu", objects="all", min_area=0.0)(files)
    least = float(np.median(np.concatenate([result.confidence for result in every])))
    words = ["localize", str(run), str(tmp_path), "--out", str(tmp_path / "out"), "--objects", "all", "--min_area", "0"]
    assert main([*words, "--min_confidence", str(least), "--device", "cpu"]) == 0
    results = read(tmp_path / "out")
    for before, after in zip(every, results, strict=True):
        kept = before.confidence >= least
        assert after["boxes"] == before.boxes[kept].round(2).tolist()
    bare = sum(not result["boxes"] for result in results)
    assert 0 < sum(len(result["boxes"]) for result in results) < sum(len(before.boxes) for before in every)
    assert (f"no box on {bare} image" in capsys.readouterr().err) == (bare > 0)
    assert len((tmp_path / "out/review.csv").read_text().splitlines()) == 7


def test_the_mask_is_that_of_the_boxes_that_stay() -> None:
    found = localization("a.jpg", [[0, 0, 40, 40], [40, 0, 80, 40]])
    kept = found.confident(float(found.confidence[0]))
    assert kept.boxes.tolist() == [[0, 0, 40, 40]]
    assert kept.mask.tolist() == [[True, False], [True, False]]
    assert found.confident(0.0) is found


def test_label_studio_offers_the_classes_of_objects(tmp_path: Path) -> None:
    classes = ("cat", BACKGROUND)
    results = [localization("a.jpg", classes=classes), localization("b.jpg", [], 1, classes=classes)]
    write_annotations(find_formats(["label-studio", "parquet"]), results, Destination(tmp_path, classes))
    assert BACKGROUND not in (tmp_path / "label-studio.xml").read_text()
    assert len(json.loads((tmp_path / "label-studio.json").read_text())) == 2
