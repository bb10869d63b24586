"""Label Studio's tasks against its published task format, and read back after a correction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse
from xml.etree import ElementTree

import pytest

from tests.export.examples import CLASSES, HOSTILE, golden_results, localization
from tokenloc.data.annotations import read_json
from tokenloc.export import LABEL_STUDIO, Destination
from tokenloc.export.label_studio import image_url

PERCENT = ("x", "y", "width", "height")


def written(folder: Path, classes: tuple[str, ...] = CLASSES, **options: Any) -> tuple[list[Any], ElementTree.Element]:
    results = golden_results("photos") if classes is CLASSES else [localization("a.jpg", index=3, classes=classes)]
    tasks, configuration = LABEL_STUDIO.write(results, classes, folder, root=Path("photos"), **options)
    return json.loads(tasks.read_text(encoding="utf-8")), ElementTree.parse(configuration).getroot()


def check_region(region: dict[str, Any], configuration: ElementTree.Element) -> None:
    """As https://labelstud.io/guide/predictions describes rectanglelabels, against the project's configuration."""
    labels = {label.get("value") for label in configuration.iter("Label")}
    (control,), (image,) = configuration.iter("RectangleLabels"), configuration.iter("Image")
    assert (region["type"], region["image_rotation"]) == ("rectanglelabels", 0)
    assert (region["from_name"], region["to_name"]) == (control.get("name"), image.get("name"))
    assert control.get("toName") == image.get("name")
    assert type(region["original_width"]) is type(region["original_height"]) is int
    value = region["value"]
    assert set(value) == {*PERCENT, "rotation", "rectanglelabels"}
    assert all(0 <= value[key] <= 100 for key in PERCENT)
    assert value["x"] + value["width"] <= 100.00001
    assert value["y"] + value["height"] <= 100.00001
    (label,) = value["rectanglelabels"]
    assert label in labels
    assert 0 <= region["score"] <= 1


def test_tasks_match_the_published_format_and_the_configuration(tmp_path: Path) -> None:
    tasks, configuration = written(tmp_path, model_version="tokenloc sat")
    assert [len(task["predictions"][0]["result"]) for task in tasks] == [2, 0, 1]
    (image,) = configuration.iter("Image")
    for task in tasks:
        assert set(task) == {"data", "predictions"}
        assert image.get("value") == "$" + next(iter(task["data"]))
        (prediction,) = task["predictions"]
        assert prediction["model_version"] == "tokenloc sat"
        assert len({region["id"] for region in prediction["result"]}) == len(prediction["result"])
        for region in prediction["result"]:
            check_region(region, configuration)


def test_the_confidence_of_several_classes_is_that_of_the_most_probable(tmp_path: Path) -> None:
    both = [localization("a.jpg", score=0.75), localization("a.jpg", index=3, score=0.25)]
    path, _ = LABEL_STUDIO.write([both], CLASSES, tmp_path)
    ((prediction,),) = (task["predictions"] for task in json.loads(path.read_text()))
    assert prediction["score"] == 0.375
    assert [region["score"] for region in prediction["result"]] == [0.75, 0.25]


def test_labels_with_markup_are_in_the_configuration(tmp_path: Path) -> None:
    tasks, configuration = written(tmp_path, HOSTILE)
    labels = [label.get("value") for label in configuration.iter("Label")]
    assert labels == [name.replace("\x07", "\ufffd") for name in HOSTILE]
    check_region(tasks[0]["predictions"][0]["result"][0], configuration)


def test_classes_of_the_same_name_are_one_label(tmp_path: Path) -> None:
    """ImageNet has two cranes; Label Studio refuses a duplicate label."""
    _, path = LABEL_STUDIO.write([], ("crane", "bird", "crane"), tmp_path)
    assert path.read_text().count("crane") == 1


def test_local_files_are_relative_to_the_document_root() -> None:
    url = urlparse(image_url("a/b c&d=%41+é#.jpg", Destination(Path("o"), (), root=Path("/my/photos"))))
    assert (url.path, url.fragment) == ("/data/local-files/", "")
    assert parse_qs(url.query) == {"d": ["photos/a/b c&d=%41+é#.jpg"]}


@pytest.mark.parametrize("prefix", ["https://host/x/", "/proxy?file=", "s3://bucket/", ""])
def test_other_addresses(prefix: str) -> None:
    name = "a b.jpg" if prefix in ("s3://bucket/", "") else "a%20b.jpg"
    assert image_url("a b.jpg", Destination(Path("o"), (), image_url=prefix)) == prefix + name


def corrected(**changes: Any) -> dict[str, Any]:
    value = {"x": 25.0, "y": 50.0, "width": 50.0, "height": 25.0, "rotation": 0, "rectanglelabels": ["cat"]}
    region = {"type": "rectanglelabels", "original_width": 80, "original_height": 40, "value": {**value, **changes}}
    other = {"type": "choices", "value": {"choices": ["fine"]}}
    return {
        "data": {"image": "/data/local-files/?d=photos/a%20b.jpg"},
        "annotations": [{"result": []}, {"result": [region, other]}, {"result": [], "was_cancelled": True}],
        "predictions": [{"result": [{**region, "score": 0.5}]}],
    }


def test_corrections_replace_predictions(tmp_path: Path) -> None:
    (tmp_path / "export.json").write_text(json.dumps([corrected()]))
    (read,) = read_json(tmp_path / "export.json")
    assert (read.file_name, read.size) == ("photos/a b.jpg", (80, 40))
    assert read.objects == (("cat", (20.0, 20.0, 60.0, 30.0)),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"data": {}}]', r"tasks\.json: not valid Label Studio tasks with boxes \(KeyError: 'image'\)"),
        ("[3]", "not valid Label Studio tasks with boxes"),
        (json.dumps([corrected(rotation=30)]), "a box is rotated by 30 degrees"),
    ],
)
def test_invalid_tasks_are_reported(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "tasks.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_json(tmp_path / "tasks.json")
