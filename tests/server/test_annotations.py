"""Downloaded annotation files are read back by independent readers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.export.examples import read_annotations
from tokenloc.export import FORMATS
from tokenloc.inference import Localizer
from tokenloc.server import annotations
from tokenloc.server.annotations import annotation_file, image_name, usable_formats
from tokenloc.server.predict import Result

NAME = "my photo (1) é & #2.png"
TOLERANCE = {"voc": 0.5, "yolo": 1e-4, "coco": 1e-4, "label-studio": 1e-4}


@pytest.mark.parametrize("form", FORMATS.names())
def test_annotations_are_read_back(localizer: Localizer, photo: Path, tmp_path: Path, form: str) -> None:
    results = [replace(result, source=NAME) for result in localizer.top(photo, 2)]
    name, content = annotation_file(Result("tiny", localizer, results, photo.read_bytes(), b""), form)
    path = tmp_path / "out" / name
    path.parent.mkdir()
    path.write_bytes(content)
    if path.suffix == ".zip":
        ZipFile(path).extractall(path.parent)
    (annotation,) = read_annotations(form, path.parent)
    assert (annotation.file_name.rpartition("/")[2], annotation.size) == (NAME, (90, 60))
    labels, boxes = zip(*annotation.objects, strict=True)
    assert labels == tuple(result.label for result in results for _ in result.boxes)
    np.testing.assert_allclose(boxes, np.concatenate([one.boxes for one in results]), atol=TOLERANCE.get(form, 0))
    if form == "yolo":
        assert (path.parent / "yolo/images/train" / NAME).read_bytes() == photo.read_bytes()


def test_formats_without_their_library_are_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_formats() == FORMATS.names()
    monkeypatch.setattr(annotations, "find_spec", lambda _: None)
    assert usable_formats() == [name for name in FORMATS.names() if name != "parquet"]


@given(st.none() | st.text(max_size=400))
def test_every_upload_gets_a_valid_file_name(given: str | None) -> None:
    name = image_name(given)
    assert name not in ("", ".", "..")
    assert Path(name).name == name
    assert "\0" not in name
    assert len(name.encode()) <= 255


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("üß 🐦 #1 & (2).JPG", "üß 🐦 #1 & (2).JPG"), ("../../etc/passwd", "passwd"), ("/etc/cron.d/x.png", "x.png"),
        ("a/b\\..\\c.png", "c.png"), ("%2e%2e%2fx", "%2e%2e%2fx"), ("..", "image"), ("a." + "b" * 300, "image"),
        ("x" * 300, "x" * 200),
    ],
)  # fmt: skip
def test_folders_in_the_name_of_an_upload_are_ignored(given: str, name: str) -> None:
    assert image_name(given) == name
