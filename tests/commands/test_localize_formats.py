"""`tokenloc localize --format`: annotation files of a folder of images."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from tokenloc.cli import main
from tokenloc.data import create_dataset
from tokenloc.export import FORMATS, list_formats
from tokenloc.models.checkpoint import read_metadata


@pytest.fixture
def checkpoint(run: Path) -> str:
    return str(run / "checkpoints/best.ckpt")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two folders with the same file name, one of the images lying on its side by EXIF."""
    scenes = create_dataset("scenes", None, "test", size=(70, 50), length=2)
    folder = tmp_path / "my photos"
    for index, name in enumerate(("a", "b")):
        (folder / name).mkdir(parents=True)
        exif = Image.Exif()
        exif[0x0112] = 6 if name == "b" else 1
        scenes.image(index).save(folder / name / "1.jpg", exif=exif)
    return folder


def boxes_in(file: Path) -> list[list[list[float]]]:
    return [item["boxes"] for item in json.loads(file.read_text())["localizations"]]


def test_every_format_holds_the_boxes_of_the_run(checkpoint: str, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "found"
    assert main(["localize", checkpoint, str(photos), "--out", str(out), "--format", *list_formats()]) == 0
    expected = boxes_in(out / "localizations.json")
    for name in list_formats():
        read = FORMATS[name].read(out / FORMATS[name].outputs[0])
        read.sort(key=lambda one: one.file_name == "1-2.jpg")  # as YOLO calls the second
        assert [one.size for one in read] == [(70, 50), (50, 70)], name
        tolerance = 1 if name == "voc" else 0.02
        for one, boxes in zip(read, expected, strict=True):
            for (label, box), true in zip(one.objects, boxes, strict=True):
                assert label in read_metadata(checkpoint).classes
                assert box == pytest.approx(true, abs=tolerance), name
    coco = json.loads((out / "coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["a/1.jpg", "b/1.jpg"]
    (prediction,) = json.loads((out / "label-studio.json").read_text())[0]["predictions"]
    assert prediction["model_version"] == "tokenloc tscam"


def test_no_format_unless_asked(checkpoint: str, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "found"
    assert main(["localize", checkpoint, str(photos), "--out", str(out), "--images", "false"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["localizations.json", "review.csv"]


def test_an_annotation_file_that_exists_is_kept(
    checkpoint: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "coco.json").write_text("a person's work")
    words = ["localize", checkpoint, str(photos), "--out", str(tmp_path), "--format", "csv", "coco"]
    assert main(words) == 2
    assert "coco.json exists already; choose another place, or replace it with --overwrite" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["coco.json", "my photos"]
    assert (tmp_path / "coco.json").read_text() == "a person's work"
    assert main([*words, "--overwrite"]) == 0
    assert len(json.loads((tmp_path / "coco.json").read_text())["images"]) == 2


def test_unreadable_images_are_in_no_annotation(checkpoint: str, photos: Path, tmp_path: Path) -> None:
    (photos / "a/0.jpg").write_bytes(b"")
    assert main(["localize", checkpoint, str(photos), "--out", str(tmp_path), "--format", "coco"]) == 1
    images = json.loads((tmp_path / "coco.json").read_text())["images"]
    assert [(image["id"], image["file_name"]) for image in images] == [(1, "a/1.jpg"), (2, "b/1.jpg")]


def test_label_studio_takes_another_address(checkpoint: str, photos: Path, tmp_path: Path) -> None:
    words = ["localize", checkpoint, str(photos), "--out", str(tmp_path), "--format", "label-studio"]
    assert main([*words, "--image_url", "s3://bucket/"]) == 0
    tasks = json.loads((tmp_path / "label-studio.json").read_text())
    assert [task["data"]["image"] for task in tasks] == ["s3://bucket/a/1.jpg", "s3://bucket/b/1.jpg"]


def test_unknown_format_and_missing_extra(
    checkpoint: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["localize", checkpoint, str(photos), "--out", str(tmp_path / "found"), "--format"]
    assert main([*words, "yolov8"]) == 2
    assert "unknown format 'yolov8'; did you mean 'yolo'" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert main([*words, "parquet"]) == 2
    assert "pip install 'tokenloc[parquet]'" in capsys.readouterr().err
    assert not (tmp_path / "found").exists()
