"""What is written is what is read, in every format, within its precision."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.export.examples import Scored, localization, read_annotations
from tokenloc.export import FORMATS
from tokenloc.inference import Localization

Case = tuple[list[Localization], tuple[str, ...]]

# In pixels: COCO has four digits of x and width, Label Studio six of the percentage of at most 5000 pixels.
TOLERANCE = {"coco": 2e-4, "csv": 0.0, "parquet": 0.0, "label-studio": 2e-4, "voc": 1.0, "yolo": 2e-4}

# No backslash and no space at the ends: the readers of COCO and VOC normalise both, as other programs write them.
TEXTS = st.text(st.characters(exclude_characters="/\\", exclude_categories=("Cs", "Cc")), min_size=1, max_size=30)
NAMES = TEXTS.map(str.strip).filter(lambda text: text and not text.startswith("."))


@st.composite
def cases(draw: st.DrawFn, largest: int = 5000) -> Case:
    """Localizations of images 000/NAME.jpg and so on, and the classes."""
    classes = tuple(draw(st.lists(NAMES, min_size=1, max_size=4, unique=True)))
    names = draw(st.lists(NAMES, max_size=4))
    return [_one(draw, f"{index:03}/{name}.jpg", classes, largest) for index, name in enumerate(names)], classes


def _one(draw: st.DrawFn, source: str, classes: tuple[str, ...], largest: int) -> Localization:
    size = draw(st.tuples(st.integers(1, largest), st.integers(1, largest)))
    boxes = []
    for _ in range(draw(st.integers(0, 3))):
        (x0, x1), (y0, y1) = (_edges(draw, side) for side in size)
        boxes.append([x0, y0, x1, y1])
    index = draw(st.integers(0, len(classes) - 1))
    return localization(source, boxes, index, classes=classes, score=draw(st.floats(0, 1)), size=size)


def _edges(draw: st.DrawFn, side: int) -> tuple[float, float]:
    """Two edges at least a 224th of the side apart, which is one input pixel."""
    start = draw(st.floats(0, side * 223 / 224))
    return start, draw(st.floats(min(side, start + side / 224), side))


def round_trip(name: str, results: list[Localization], classes: tuple[str, ...]) -> list[Scored]:
    with TemporaryDirectory() as folder:
        FORMATS[name].write(results, classes, folder)
        return read_annotations(name, Path(folder))


def assert_equal(name: str, read: Sequence[Scored], results: Sequence[Localization]) -> None:
    for annotation, result in zip(read, results, strict=True):
        assert [label for label, _ in annotation.objects] == [result.label] * len(result.boxes)
        boxes = np.reshape([box for _, box in annotation.objects], (-1, 4))
        np.testing.assert_allclose(boxes, result.boxes, rtol=0, atol=TOLERANCE[name])
        scores = () if name in ("voc", "yolo") else (result.score,) * len(boxes)
        assert annotation.scores == pytest.approx(scores, abs=1e-6)
        if annotation.objects:  # Label Studio states the size with boxes only
            assert annotation.size == result.size


@pytest.mark.parametrize("name", [name for name in TOLERANCE if name != "yolo"])
@given(case=cases())
@settings(max_examples=60)
def test_round_trip(name: str, case: Case) -> None:
    read = round_trip(name, *case)
    assert [annotation.file_name for annotation in read] == [result.source for result in case[0]]
    assert_equal(name, read, case[0])


@given(case=cases(largest=200))
@settings(max_examples=20)
def test_round_trip_of_yolo_needs_the_images(case: Case) -> None:
    results, classes = case
    with TemporaryDirectory() as photos:
        for index, result in enumerate(results):
            object.__setattr__(result, "source", f"{photos}/{index}.png")
            Image.new("1", result.size).save(result.source)
        read = round_trip("yolo", results, classes)
    assert [annotation.file_name for annotation in read] == [f"{index}.png" for index in range(len(results))]
    assert_equal("yolo", read, results)
