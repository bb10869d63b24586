"""What is written is what is read, for every format, as far as it can hold it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from PIL import Image

from tests.export.examples import CLASSES, assert_same, found, kept
from tests.export.strategies import localizations
from tokenloc.data.annotations import Annotation
from tokenloc.export import FORMATS
from tokenloc.inference import Localization

Case = tuple[list[Localization], tuple[str, ...]]

# In pixels. Four digits are written of COCO's x and width; six of Label Studio's percent of at most 5000 pixels.
TOLERANCE = {"coco": 2e-4, "csv": 0.0, "parquet": 0.0, "label-studio": 2e-4, "voc": 1.0}
UNSCORED = ("voc", "yolo")


def round_trip(name: str, results: list[Localization], classes: tuple[str, ...]) -> list[Annotation]:
    with TemporaryDirectory() as folder:
        (path, *_) = FORMATS[name].write(results, classes, folder)
        return FORMATS[name].read(path)


@pytest.mark.parametrize("name", TOLERANCE)
@given(case=localizations())
@settings(max_examples=60)
def test_round_trip(name: str, case: Case) -> None:
    results, classes = case
    expected = [kept(result, result.source, scored=name not in UNSCORED) for result in results]
    read = round_trip(name, results, classes)
    assert_same(read, expected, TOLERANCE[name])
    # Label Studio states sizes with boxes only.
    assert [one.size for one in read if one.objects] == [one.size for one in expected if one.objects]


@given(case=localizations())
@settings(max_examples=20)
def test_round_trip_of_yolo_needs_the_images(case: Case) -> None:
    results, classes = case
    with TemporaryDirectory() as photos:
        named = []
        for result in results:
            path = Path(photos) / f"{len(named)}.png"
            size = tuple(min(side, 200) for side in result.size)
            Image.new("1", size).save(path)
            shrunk = [[x * s / t for x, s, t in zip(b, size * 2, result.size * 2, strict=True)] for b in result.boxes]
            named.append(found(str(path), shrunk, result.class_index, classes=classes, size=size))
        expected = [kept(result, Path(result.source).name, scored=False) for result in named]
        read = round_trip("yolo", named, classes)
        assert_same(read, expected, 2e-4)
        assert [one.size for one in read] == [one.size for one in expected]


@pytest.mark.parametrize("name", TOLERANCE)
def test_file_names_as_long_as_they_may_be(name: str) -> None:
    longest = "ü" * 121 + "\n a.jpg"
    results = [found(f"a/{longest}"), found(f"b/{longest}")]
    assert len(longest.encode()) == 249
    read = round_trip(name, results, CLASSES)
    assert [one.file_name for one in read] == [f"a/{longest}", f"b/{longest}"]
