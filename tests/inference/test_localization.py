"""The result type: validation, conversion, other thresholds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tokenloc.boxes import Frame
from tokenloc.inference import Localization, Localizer
from tokenloc.inference.localization import Objects


@pytest.fixture
def result() -> Localization:
    map_ = np.zeros((4, 8), np.float32)
    map_[1:3, 2:6] = 1
    return Localization(
        source="a.jpg",
        label="bird",
        class_index=3,
        score=0.75,
        boxes=np.array([[20.0, 10.0, 60.0, 30.0]]),
        confidence=np.array([0.25]),
        map=map_,
        mask=map_ > 0.5,
        threshold=0.5,
        protocol="standard",
        frame=Frame.resized((80, 40), (8, 4)),
    )


def test_map_and_mask_in_original_pixels(result: Localization) -> None:
    assert result.size == (80, 40)
    assert result.map_on_image().shape == (40, 80)
    mask = result.mask_on_image()
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    assert (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) == (20, 10, 60, 30)


def test_plain_values(result: Localization) -> None:
    assert result.to_dict() == {
        "file": "a.jpg",
        "width": 80,
        "height": 40,
        "label": "bird",
        "class_index": 3,
        "score": 0.75,
        "boxes": [[20.0, 10.0, 60.0, 30.0]],
        "confidence": [0.25],
        "threshold": 0.5,
        "protocol": "standard",
    }


def test_boxes_are_read_only(result: Localization) -> None:
    for array in (result.boxes, result.confidence):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 5


def test_a_result_may_have_no_box(result: Localization) -> None:
    nothing = replace(result, boxes=np.zeros((0, 4)), confidence=np.zeros(0), mask=np.zeros((4, 8), bool))
    assert nothing.to_dict()["boxes"] == nothing.to_dict()["confidence"] == []
    assert (nothing.first_confidence, result.first_confidence) == (0, 0.25)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": np.array([[60.0, 10.0, 20.0, 30.0]])}, r"boxes of a\.jpg: .*inverted or empty.*x0 60"),
        ({"boxes": np.array([[20.0, 10.0, 600.0, 30.0]])}, r"boxes of a\.jpg: .*x1 600"),
        ({"confidence": np.array([1.5])}, r"confidence of a\.jpg must be one number in \[0, 1\] per box \(1 boxes\)"),
        ({"confidence": np.array([np.nan])}, r"confidence of a\.jpg must be one number in \[0, 1\]"),
        ({"confidence": np.array([0.5, 0.5])}, r"confidence of a\.jpg must be one number .* per box \(1 boxes\)"),
        ({"score": 1.5}, r"score of a\.jpg must lie in \[0, 1\]; got 1\.5"),
        ({"threshold": float("nan")}, r"threshold of a\.jpg must lie in \[0, 1\]; got nan"),
        ({"map": np.full((4, 8), np.nan, np.float32)}, r"the map of a\.jpg must be finite and lie in \[0, 1\]"),
        ({"map": np.full((4, 8), 2, np.float32)}, r"the map of a\.jpg must be finite and lie in \[0, 1\]"),
        ({"mask": np.zeros((3, 8), bool)}, r"map and mask of a\.jpg must be .* got \(4, 8\) and \(3, 8\)"),
    ],
)
def test_contradictions_are_refused(result: Localization, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(result, **changes)


@pytest.mark.parametrize("objects", ["largest", "all"])
@pytest.mark.parametrize("threshold", [0.0, 0.13, 0.5, 0.97, 1.0])
def test_at_threshold_equals_a_localizer_with_that_threshold(run: Path, threshold: float, objects: Objects) -> None:
    checkpoint = run / "checkpoints/best.ckpt"
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, (57, 91, 3), np.uint8))
    expected = Localizer.from_checkpoint(checkpoint, "cpu", threshold, objects)(image)
    found = Localizer.from_checkpoint(checkpoint, "cpu", 0.3)(image).at_threshold(threshold, objects)
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_array_equal(found.mask, expected.mask)
    assert found.record().to_dict() == expected.record().to_dict()


def test_a_threshold_out_of_range_is_refused(result: Localization) -> None:
    with pytest.raises(ValueError, match=r"must be in \[0, 1\], got 1.5"):
        result.at_threshold(1.5)
