"""COCO as pycocotools reads it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import coco
from pycocotools.cocoeval import COCOeval

from tests.export.examples import CLASSES, golden_results, localization
from tokenloc.data import create_dataset
from tokenloc.export import FORMATS


def test_pycocotools_reads_it(tmp_path: Path) -> None:
    results = golden_results("photos")
    (path,) = FORMATS["coco"].write(results, CLASSES, tmp_path)
    reader = coco.COCO(path)
    assert [category["name"] for category in reader.loadCats(reader.getCatIds())] == list(CLASSES)
    for image_id, result in zip(reader.getImgIds(), results, strict=True):
        (image,) = reader.loadImgs(image_id)
        assert (image["file_name"], image["width"], image["height"]) == (result.source, *result.size)
        entries = reader.loadAnns(reader.getAnnIds(image_id))
        corners = [[x, y, x + width, y + height] for x, y, width, height in (entry["bbox"] for entry in entries)]
        np.testing.assert_allclose(np.reshape(corners, (-1, 4)), result.boxes, atol=1e-4)
        assert all(entry["category_id"] == result.class_index + 1 for entry in entries)
        assert all(entry["area"] == pytest.approx(entry["bbox"][2] * entry["bbox"][3]) for entry in entries)


def test_evaluation_against_itself_is_perfect(tmp_path: Path) -> None:
    """The official evaluation accepts the file as ground truth, and its annotations as detections with scores."""
    (path,) = FORMATS["coco"].write(golden_results("photos"), CLASSES, tmp_path)
    truth = coco.COCO(path)
    evaluation = COCOeval(truth, truth.loadRes(json.loads(path.read_text())["annotations"]), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_the_folder_dataset_reads_it(tmp_path: Path) -> None:
    """Corrected annotations can serve as ground truth for an evaluation."""
    scenes = create_dataset("scenes", None, "test", size=40, length=2)
    for name in ("bird", "cat"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        scenes.image(0).save(tmp_path / "photos" / name / "1.png")
    source = str(tmp_path / "photos/cat/1.png")
    result = localization(source, [[1, 2, 30.5, 40]], 1, classes=("bird", "cat"), size=(40, 40))
    (path,) = FORMATS["coco"].write([result], ("bird", "cat"), tmp_path, root=tmp_path / "photos")
    dataset = create_dataset("folder", tmp_path / "photos", "all", annotations=path)
    boxes = {sample.id: sample.boxes.tolist() for sample in dataset}
    assert boxes == {"bird/1.png": [], "cat/1.png": [[1.0, 2.0, 30.5, 40.0]]}
