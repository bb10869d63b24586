from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenloc.metrics import ERROR_CATEGORIES, error_categories, error_category

ONE = [[0, 0, 99, 99]]
TWO = [[0, 0, 39, 39], [60, 0, 99, 39]]


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
    ],
)
def test_each_category(box: list[int], truth: list[list[int]], expected: str) -> None:
    assert error_category(box, truth, predicted=3, label=3) == expected
    assert error_category(box, truth, predicted=2, label=3) == "classification"


def test_several_instances_need_several_ground_truth_boxes() -> None:
    assert error_category([0, 0, 299, 39], TWO[:1], 0, 0) == "more"
    assert error_category([0, 0, 299, 39], TWO, 0, 0) == "multi_instance"


def test_at_iou_one_half_strictness_decides() -> None:
    half = [0, 0, 99, 49]
    assert error_category(half, ONE, 0, 0) == "part"
    assert error_category(half, ONE, 0, 0, strict=False) == "correct"


def test_part_and_more_look_at_the_box_met_best_as_the_release_does() -> None:
    """The paper would look at the greatest IoP of all boxes, here 0.67 of the first, and say `part`."""
    truth = [[53, 31, 155, 213], [146, 101, 223, 133]]
    assert error_category([121, 91, 172, 138], truth, 0, 0) == "other"


def slow_category(box: tuple[int, ...], truth: list[tuple[int, ...]]) -> str:
    """The released algorithm by painted pixels (inclusive boxes)."""

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
    return "more" if iog[best] > 0.7 else "other"


corner = st.integers(0, 11)
boxes = st.tuples(corner, corner, corner, corner).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


@settings(max_examples=300, deadline=None)
@given(st.lists(boxes, min_size=1, max_size=4), st.lists(boxes, min_size=1, max_size=3))
def test_categories_are_those_of_painted_pixels(predicted: list[tuple[int, ...]], truth: list[tuple[int, ...]]) -> None:
    codes = error_categories(predicted, truth, 0, 0)
    assert codes.dtype == np.int64
    assert [ERROR_CATEGORIES[code] for code in codes] == [slow_category(box, truth) for box in predicted]


def test_a_degenerate_box_is_an_other_error() -> None:
    assert error_category([5, 5, 5, 5], ONE, 0, 0, inclusive=False) == "other"


def test_without_ground_truth_there_is_no_category() -> None:
    with pytest.raises(ValueError, match="need at least one ground-truth box, got none"):
        error_category([0, 0, 1, 1], [], 0, 0)
