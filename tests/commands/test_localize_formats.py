"""`tokenloc localize --format`: annotation files for a folder of images."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.export.examples import read_annotations
from tokenloc.cli import main
from tokenloc.data import create_dataset
from tokenloc.export import list_formats
from tokenloc.models.checkpoint import read_metadata


@pytest.fixture
def words(run: Path, photos: Path, tmp_path: Path) -> list[str]:
    return ["localize", str(run / "checkpoints/best.ckpt"), str(photos), "--out", str(tmp_path / "found")]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two folders with the same file name; EXIF rotates one image."""
    scenes = create_dataset("scenes", None, "test", size=(70, 50), length=2)
    folder = tmp_path / "my photos"
    for index, name in enumerate(("a", "b")):
        (folder / name).mkdir(parents=True)
        exif = Image.Exif()
        exif[0x0112] = 6 if name == "b" else 1
        scenes.image(index).save(folder / name / "1.jpg", exif=exif)
    return folder


def test_every_format_holds_the_boxes_of_the_run(words: list[str], tmp_path: Path) -> None:
    out = tmp_path / "found"
    assert main([*words, "--format", *list_formats()]) == 0
    items = json.loads((out / "localizations.json").read_text())["localizations"]
    for name in list_formats():
        read = sorted(read_annotations(name, out), key=lambda one: one.file_name == "1-2.jpg")  # the second in YOLO
        assert [one.size for one in read] == [(70, 50), (50, 70)], name
        for annotation, item in zip(read, items, strict=True):
            assert [label for label, _ in annotation.objects] == [item["label"]]
            (box,) = item["boxes"]
            assert annotation.objects[0][1] == pytest.approx(box, abs=1 if name == "voc" else 0.02), name
    assert {item["label"] for item in items} <= set(read_metadata(words[1]).classes)
    coco = json.loads((out / "coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["a/1.jpg", "b/1.jpg"]
    (prediction,) = json.loads((out / "label-studio.json").read_text())[0]["predictions"]
    assert prediction["model_version"] == "tokenloc tscam"


def test_an_existing_annotation_file_needs_overwrite(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coco = tmp_path / "found/coco.json"
    coco.parent.mkdir()
    coco.write_text("corrected by hand")
    assert main([*words, "--format", "csv", "coco"]) == 2
    assert "coco.json already exists; choose another folder, or replace it with --overwrite" in capsys.readouterr().err
    assert [path.name for path in coco.parent.iterdir()] == ["coco.json"]
    assert coco.read_text() == "corrected by hand"
    assert main([*words, "--format", "csv", "coco", "--overwrite"]) == 0
    assert len(json.loads(coco.read_text())["images"]) == 2


def test_unreadable_images_have_no_annotation(words: list[str], photos: Path, tmp_path: Path) -> None:
    (photos / "a/0.jpg").write_bytes(b"")
    assert main([*words, "--format", "coco"]) == 1
    images = json.loads((tmp_path / "found/coco.json").read_text())["images"]
    assert [(image["id"], image["file_name"]) for image in images] == [(1, "a/1.jpg"), (2, "b/1.jpg")]


def test_label_studio_accepts_another_address(words: list[str], tmp_path: Path) -> None:
    assert main([*words, "--format", "label-studio", "--image_url", "s3://bucket/"]) == 0
    tasks = json.loads((tmp_path / "found/label-studio.json").read_text())
    assert [task["data"]["image"] for task in tasks] == ["s3://bucket/a/1.jpg", "s3://bucket/b/1.jpg"]


def test_unknown_formats_and_missing_extras(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*words, "--format", "yolov8"]) == 2
    assert "unknown format 'yolov8'; did you mean 'yolo'" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert main([*words, "--format", "parquet"]) == 2
    assert "pip install 'tokenloc[parquet]'" in capsys.readouterr().err
    assert not (tmp_path / "found").exists()
