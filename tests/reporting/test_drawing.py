"""Drawings of localizations: names in any script, colors of classes, the outline of the mask."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tokenloc.boxes import Frame
from tokenloc.inference import Localization
from tokenloc.reporting import drawing
from tokenloc.reporting.drawing import CLASSES, PREDICTED, TRUTH, draw_localization, draw_map, font_for

SIDE = 120
MAP = np.zeros((SIDE, SIDE), np.float32)
MAP[30:90, 30:90] = 1.0
FOUND = partial(
    Localization,
    source="a.jpg",
    class_index=0,
    score=0.98,
    boxes=np.array([[30, 30, 90, 90]]),
    confidence=np.array([0.624]),
    threshold=0.5,
    protocol="standard",
    map=MAP,
    mask=MAP > 0.5,
    frame=Frame.identity((SIDE, SIDE)),
)


def ink(text: str) -> np.ndarray:
    font, drawn = font_for(text, 32)
    image = Image.new("L", (400, 48))
    ImageDraw.Draw(image).text((2, 2), drawn, font=font, fill=255)
    return np.asarray(image)


@pytest.mark.parametrize("text", ["Möwe", "Цапля", "γλάρος", "đà điểu"])
def test_names_of_other_scripts_are_not_drawn_as_empty_boxes(text: str) -> None:
    letters = [ink(letter) for letter in sorted({*text} - {" "})]
    assert len({letter.tobytes() for letter in letters}) == len(letters)
    assert font_for(text, 32)[1] == text


def test_a_character_that_no_font_has_is_written_as_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "findSystemFonts", list)
    drawing._font_file.cache_clear()
    assert font_for("鳥 1", 12)[1] == "U+9CE5 1"
    drawing._font_file.cache_clear()


def test_the_label_has_the_confidence_of_the_box(monkeypatch: pytest.MonkeyPatch) -> None:
    labels: list[str] = []
    monkeypatch.setattr(drawing, "font_for", lambda text, size: (labels.append(text), font_for(text, size))[1])
    image = Image.new("RGB", (SIDE, SIDE))
    draw_localization(image, FOUND(label="gull"))
    draw_localization(image, replace(FOUND(label="gull"), boxes=np.zeros((0, 4)), confidence=np.zeros(0)))
    assert labels == ["gull 98%, box 0.62"]


def test_classes_have_colors_and_masks_an_outline() -> None:
    image = Image.new("RGB", (SIDE, SIDE), (90, 90, 90))
    assert len({TRUTH, *CLASSES}) == len(CLASSES) + 1
    for index in (0, 1, 7):
        result = FOUND(label="", class_index=index)
        pixels = np.asarray(draw_localization(image, result, with_map=False))
        assert pixels.shape == (SIDE, SIDE, 3)
        assert tuple(pixels[89, 60]) == CLASSES[index % len(CLASSES)]
    assert CLASSES[0] == PREDICTED
    outlined = replace(FOUND(label=""), boxes=np.zeros((0, 4)), confidence=np.zeros(0))
    white = (np.asarray(draw_map(image, outlined)) == 255).all(axis=2)
    assert white[30, 30:90].all()
    assert white[30:90, 89].all()
    assert not white[40:80, 40:80].any()
    assert not white[:29].any()
