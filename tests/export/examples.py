"""Localizations to write, and what each format can keep of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tokenloc.boxes import Frame
from tokenloc.data.annotations import Annotation
from tokenloc.inference import Localization

CLASSES = ("bird", 'cat, "big" <b>&amp;</b>', "=1+1\nnaïve 🐦", "null")
HOSTILE = (*CLASSES, "yes", "a: b #c", "'@x", "-3", "]]>", "{x}%s", "\ttab\r\n\rend", "bell\x07", "1.0", "~", "", "[")


def found(
    source: str,
    boxes: Sequence[Sequence[float]] = ((10.25, 5.5, 60.0, 30.125),),
    index: int = 0,
    *,
    classes: Sequence[str] = CLASSES,
    score: float = 0.75,
    size: tuple[int, int] = (80, 40),
) -> Localization:
    corners = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    return Localization(
        source=source,
        label=classes[index],
        class_index=index,
        score=score,
        boxes=corners,
        confidence=score / np.arange(2.0, 2 + len(corners)),
        map=np.ones((2, 2), np.float32),
        mask=np.ones((2, 2), bool),
        threshold=0.2,
        protocol="standard",
        frame=Frame.resized(size, (2, 2)),
    )


def golden_results(root: str | Path) -> list[Localization]:
    """Two folders with the same file name, two boxes, none, names that need care."""
    return [
        found(f"{root}/a/bird.jpg", [[10.25, 5.5, 60.0, 30.125], [0, 0, 3, 2.5]]),
        found(f"{root}/b/bird.png", [], 1, score=0.5),
        found(f"{root}/c d,e & 🐦.jpg", [[0.0, 0.0, 1234.0, 567.0]], 2, score=1 / 3, size=(1234, 567)),
    ]


def kept(result: Localization, name: str, *, scored: bool = True) -> Annotation:
    """What a format without loss gives back."""
    objects = tuple((result.label, tuple(box)) for box in result.boxes.tolist())
    return Annotation(name, objects, result.size, (result.score,) * len(objects) if scored else ())


def assert_same(read: Sequence[Annotation], expected: Sequence[Annotation], tolerance: float) -> None:
    """Names, classes and order are the same; numbers within the tolerance."""
    assert [one.file_name for one in read] == [one.file_name for one in expected]
    for one, other in zip(read, expected, strict=True):
        assert [label for label, _ in one.objects] == [label for label, _ in other.objects]
        for (_, box), (_, true) in zip(one.objects, other.objects, strict=True):
            assert all(math.isclose(x, y, abs_tol=tolerance) for x, y in zip(box, true, strict=True)), (box, true)
        assert np.allclose(one.scores, other.scores, atol=1e-6) if other.scores else one.scores == ()
