from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenloc.metrics import ERROR_CATEGORIES, error_categories

ONE = [[0, 0, 99, 99]]
TWO = [[0, 0, 39, 39], [60, 0, 99, 39]]


def category(box: list[int], truth: list[list[int]], predicted: int = 0, **options: Any) -> str:
    return ERROR_CATEGORIES[error_categories([box], truth, predicted, 0, **options)[0]]


@pytest.mark.parametrize(
    ("box", "truth", "expected"),
    [
        ([0, 0, 99, 89], ONE, "correct"),
        ([20, 20, 49, 49], ONE, "part"),
        ([0, 0, 299, 199], ONE, "more"),
        ([90, 90, 199, 199], ONE, "other"),
        ([150, 150, 199, 199], ONE, "other"),
        ([0, 0, 99, 39], TWO, "multi_instance"),
        ([0, 0, 39, 39], TWO, "correct"),
        ([10, 10, 19, 19], TWO, "part"),
        ([0, 0, 299, 39], TWO[:1], "more"),
        ([0, 0, 299, 39], TWO, "multi_instance"),
    ],
)
def test_each_category(box: list[int], truth: list[list[int]], expected: str) -> None:
    assert category(box, truth) == expected
    assert category(box, truth, predicted=1) == "classification"


def test_strict_decides_at_iou_one_half() -> None:
    half = [0, 0, 99, 49]
    assert category(half, ONE) == "part"
    assert category(half, ONE, strict=False) == "correct"


def test_part_and_more_use_the_best_matching_box_as_the_release_does() -> None:
    """The paper would take the highest IoP of all boxes, here 0.67 of the first, and report `part`."""
    truth = [[53, 31, 155, 213], [146, 101, 223, 133]]
    assert category([121, 91, 172, 138], truth) == "other"
    assert category([121, 91, 172, 138], truth, form="printed") == "part"


def test_the_printed_form_decides_at_its_own_bounds() -> None:
    """IoG is 0.7 exactly, and IoU 0.5 exactly."""
    assert category([0, 0, 69, 199], ONE) == "more"
    assert category([0, 0, 69, 199], ONE, form="printed") == "other"
    assert category([0, 0, 99, 49], ONE, form="printed") == "correct"


def slow_category(box: tuple[int, ...], truth: list[tuple[int, ...]]) -> str:
    """The released algorithm on painted pixels (inclusive boxes)."""

    def paint(b: tuple[int, ...]) -> np.ndarray:
        canvas = np.zeros((24, 24), dtype=bool)
        canvas[b[1] : b[3] + 1, b[0] : b[2] + 1] = True
        return canvas

    ours = paint(box)
    shared = [(ours & paint(t)).sum() for t in truth]
    iou = [s / (ours | paint(t)).sum() for s, t in zip(shared, truth, strict=True)]
    iog = [s / paint(t).sum() for s, t in zip(shared, truth, strict=True)]
    best = iou.index(max(iou))
    if iou[best] > 0.5:
        return "correct"
    if len(truth) > 1 and sum(value > 0.3 for value in iog) > 1:
        return "multi_instance"
    if shared[best] / ours.sum() > 0.5:
        return "part"
    return "more" if iog[best] >= 0.7 else "other"


corner = st.integers(0, 11)
boxes = st.tuples(corner, corner, corner, corner).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


@settings(max_examples=300, deadline=None)
@given(st.lists(boxes, min_size=1, max_size=4), st.lists(boxes, min_size=1, max_size=3))
def test_categories_match_painted_pixels(predicted: list[tuple[int, ...]], truth: list[tuple[int, ...]]) -> None:
    codes = error_categories(predicted, truth, 0, 0)
    assert codes.dtype == np.int64
    assert [ERROR_CATEGORIES[code] for code in codes] == [slow_category(box, truth) for box in predicted]


def test_a_degenerate_box_is_an_other_error() -> None:
    assert category([5, 5, 5, 5], ONE, inclusive=False) == "other"


def test_missing_ground_truth_is_an_error() -> None:
    with pytest.raises(ValueError, match="need at least one ground-truth box, got none"):
        category([0, 0, 1, 1], [])
