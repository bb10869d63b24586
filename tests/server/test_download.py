"""What is downloaded is what was found, by each format's own reader."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.export.examples import read_annotations
from tokenloc.export import FORMATS, list_formats
from tokenloc.inference import Localizer
from tokenloc.server import download
from tokenloc.server.download import image_name, usable_formats, write_annotation

NAME = "my photo (1) é & #2.png"
TOLERANCE = {"voc": 0.5, "yolo": 1e-4, "coco": 1e-4, "label-studio": 1e-4}


@pytest.mark.parametrize("form", list_formats())
def test_what_was_found_is_read_back(localizer: Localizer, photo: Path, tmp_path: Path, form: str) -> None:
    stored = photo.rename(tmp_path / "0a1b.png")
    results = localizer.top(stored, 2)
    path = write_annotation(results, localizer.metadata.classes, stored, NAME, form, tmp_path / "out")
    assert list(path.parent.iterdir()) == [path]
    if path.suffix == ".zip":
        ZipFile(path).extractall(tmp_path / "unpacked")
        path = tmp_path / "unpacked" / FORMATS[form].outputs[0]
    (first,) = read_annotations(form, path.parent)
    objects = [(result.label, tuple(box)) for result in results for box in result.boxes.tolist()]
    tolerance = TOLERANCE.get(form, 0)
    assert first.file_name.rpartition("/")[2] == NAME
    assert [label for label, _ in first.objects] == [label for label, _ in objects]
    np.testing.assert_allclose([box for _, box in first.objects], [box for _, box in objects], atol=tolerance)
    assert first.size == results[0].size
    if form == "yolo":
        assert (tmp_path / "unpacked/yolo/images/train" / NAME).read_bytes() == stored.read_bytes()


def test_only_what_can_be_written_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_formats() == list_formats()

    def missing(*_: str) -> None:
        raise ImportError("pyarrow is not installed")

    monkeypatch.setattr(download, "library", missing)
    assert usable_formats() == [name for name in list_formats() if name != "parquet"]


@given(st.text(max_size=400))
def test_a_name_is_one_that_a_folder_can_hold(said: str) -> None:
    name = image_name(said, Path("0/stored.jpg"))
    assert name not in ("", ".", "..")
    assert Path(name).name == name
    assert "\0" not in name
    assert len(name.encode()) <= 255


@pytest.mark.parametrize("said", ["../../etc/passwd", "/etc/passwd", "..\\..\\passwd", "C:\\passwd"])
def test_a_path_is_only_a_name(said: str) -> None:
    assert image_name(said, Path("stored.jpg")) == "passwd"


def test_usual_names_stay() -> None:
    assert image_name("üß 🐦 #1 & (2).JPG", Path("stored.jpg")) == "üß 🐦 #1 & (2).JPG"
    assert image_name("a." + "b" * 300, Path("stored.jpg")) == "stored.jpg"
