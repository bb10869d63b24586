"""What the page says is text, whatever classes and files are called."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np

from tests.export.examples import HOSTILE, found
from tokenloc.server.answer import answer, fault
from tokenloc.server.models import Sight


class _Read(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.rects: list[dict[str, str | None]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        if tag == "rect":
            self.rects.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


def sight(*results: object) -> Sight:
    return Sight(results, HOSTILE, "tscam", "data:image/jpeg;base64,AA==", ["data:,"] * len(results))


def test_class_names_are_text() -> None:
    plain = _Read(answer(sight(found("a")), [found("a")]))
    for index, name in enumerate(HOSTILE):
        result = found("a", index=index, classes=HOSTILE)
        read = _Read(answer(sight(result), [result]))
        assert read.tags == plain.tags, name
        assert name.replace("\x07", "\ufffd").replace("\r\n", "\n") in read.text.replace("\r\n", "\n")


def test_messages_are_text() -> None:
    read = _Read(fault('<b onclick="x">a.jpg</b>: broken'))
    assert read.tags == {"p": 1}
    assert read.text == '<b onclick="x">a.jpg</b>: broken'


def test_boxes_are_drawn_in_the_images_own_pixels_on_both() -> None:
    result = found("a", [[10.25, 5.5, 60, 30], [0, 0, 80, 40]])
    html = answer(sight(result), [result])
    read = _Read(html)
    corners = [tuple(float(str(rect[key])) for key in ("x", "y", "width", "height")) for rect in read.rects]
    assert corners == [(10.25, 5.5, 49.75, 24.5), (0, 0, 80, 40)] * 2
    assert html.count('viewBox="0 0 80 40"') == 2
    assert "2 boxes" in read.text


def test_no_box_is_said() -> None:
    empty = replace(found("a"), boxes=np.zeros((0, 4)), confidence=np.zeros(0))
    read = _Read(answer(sight(empty), [empty]))
    assert "no box" in read.text
    assert "0 boxes" in read.text
    assert read.tags["rect"] == 0


def test_each_class_has_its_section() -> None:
    results = [found("a", index=0), found("a", index=3, score=0.125)]
    read = _Read(answer(sight(*results), results))
    assert read.tags["section"] == 2
    assert "bird 75%" in read.text
    assert "null 12%" in read.text
