"""Localizations of any kind, for round trips."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.export.examples import found
from tokenloc.inference import Localization

# No backslash and no space at the ends: COCO and VOC are read as other programs write them, with both put right.
TEXTS = st.text(st.characters(exclude_characters="/\\", exclude_categories=("Cs", "Cc")), min_size=1, max_size=30)
NAMES = TEXTS.map(str.strip).filter(lambda text: text and not text.startswith("."))


@st.composite
def localizations(draw: st.DrawFn) -> tuple[list[Localization], tuple[str, ...]]:
    """Return localizations of images 000/NAME.jpg and so on, and the classes."""
    classes = tuple(draw(st.lists(NAMES, min_size=1, max_size=4, unique=True)))
    names = draw(st.lists(NAMES, max_size=4))
    return [_one(draw, f"{number:03}/{name}.jpg", classes) for number, name in enumerate(names)], classes


def _one(draw: st.DrawFn, source: str, classes: tuple[str, ...]) -> Localization:
    size = draw(st.tuples(st.integers(1, 5000), st.integers(1, 5000)))
    boxes = []
    for _ in range(draw(st.integers(0, 3))):
        (x0, x1), (y0, y1) = (_span(draw, side) for side in size)
        boxes.append([x0, y0, x1, y1])
    index = draw(st.integers(0, len(classes) - 1))
    return found(source, boxes, index, classes=classes, score=draw(st.floats(0, 1)), size=size)


def _span(draw: st.DrawFn, side: int) -> tuple[float, float]:
    """Return two edges that are at least a 224th of the side apart, as those of a input pixels are."""
    start = draw(st.floats(0, side * 223 / 224))
    return start, draw(st.floats(min(side, start + side / 224), side))
