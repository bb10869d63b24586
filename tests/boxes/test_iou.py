from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchvision.ops import box_iou as torchvision_iou

from tokenloc.boxes import box_faults, box_iou, check_boxes
from tokenloc.boxes.iou import box_areas, intersection_areas

pixels = st.integers(0, 12)
pixel_boxes = st.lists(st.tuples(pixels, pixels, pixels, pixels), max_size=5)


def painted(box: tuple[int, ...], inclusive: bool) -> np.ndarray:
    """The box as pixels: the plainest meaning of an area."""
    canvas = np.zeros((16, 16), dtype=bool)
    x0, y0, x1, y1 = box
    canvas[y0 : y1 + inclusive, x0 : x1 + inclusive] = True
    return canvas


@settings(max_examples=300, deadline=None)
@given(pixel_boxes, pixel_boxes, st.booleans())
def test_iou_counts_pixels(a: list[tuple[int, ...]], b: list[tuple[int, ...]], inclusive: bool) -> None:
    ours = box_iou(a, b, inclusive)
    assert ours.shape == (len(a), len(b))
    assert ours.dtype == np.float64
    for i, one in enumerate(a):
        for j, other in enumerate(b):
            first, second = painted(one, inclusive), painted(other, inclusive)
            union = (first | second).sum()
            expected = (first & second).sum() / union if first.any() and second.any() else 0.0
            assert ours[i, j] == pytest.approx(expected)
            assert intersection_areas(a, b, inclusive)[i, j] == (first & second).sum()


@settings(max_examples=200, deadline=None)
@given(arrays(np.float64, (3, 4)), arrays(np.float64, (2, 4)), st.booleans())
def test_any_numbers_at_all_give_an_iou(a: np.ndarray, b: np.ndarray, inclusive: bool) -> None:
    """NaN, infinities, inverted boxes, numbers whose areas overflow or vanish."""
    ours = box_iou(a, b, inclusive)
    assert np.isfinite(ours).all()
    assert ((ours >= 0) & (ours <= 1)).all()
    np.testing.assert_array_equal(ours, box_iou(b, a, inclusive).T)


def test_iou_of_floats_is_torchvisions() -> None:
    corners = torch.rand(20, 2, 2, dtype=torch.float64).sort(dim=1).values.reshape(20, 4)
    np.testing.assert_allclose(box_iou(corners, corners), torchvision_iou(corners, corners), atol=1e-12)


def test_disjoint_boxes_score_nothing() -> None:
    """Without clamping, boxes apart in both axes would have a positive product of negative sides."""
    assert box_iou([[0, 0, 2, 2]], [[8, 8, 10, 10]]).item() == 0
    assert box_iou([[0, 0, 2, 2]], [[8, 8, 10, 10]], inclusive=True).item() == 0


def test_a_degenerate_box_scores_nothing_but_an_inclusive_pixel_does() -> None:
    point = [[3, 3, 3, 3]]
    assert box_iou(point, point).item() == 0
    assert box_iou(point, point, inclusive=True).item() == 1
    assert box_areas([[5, 0, 4, 9]], inclusive=True).tolist() == [0]


def test_faults_are_found_row_by_row() -> None:
    boxes = [
        [0, 0, 10, 8],
        [4, 4, 4, 6],
        [6, 4, 5, 6],
        [-3, 0, 5, 5],
        [10, 0, 12, 5],
        [0, 0, math.nan, 5],
        [-1, -1, 11, 9],
        [2, 2, 13, 5],
    ]
    faults = box_faults(boxes, (10, 8))
    kinds = [None if fault is None else fault.split(":")[0] for fault in faults]
    outside = "outside the image of 10x8"
    empty = "inverted or empty"
    assert kinds == [None, empty, empty, outside, outside, "not finite", None, outside]
    assert faults[2] == "inverted or empty: x0 6, y0 4, x1 5, y1 6"


def test_only_the_impossible_is_found_where_all_overhang_is_allowed() -> None:
    boxes = [[-300, 0, 5, 5], [10, 0, 12, 5], [0, -9, 5, 0], [0, 8, 5, 12], [-7, 0, 0, 5]]
    faults = box_faults(boxes, (10, 8), margin=math.inf)
    assert [fault is None for fault in faults] == [True, False, False, False, False]


def test_bad_boxes_are_named_with_row_and_values() -> None:
    with pytest.raises(ValueError, match="2 of 3 ground-truth boxes cannot be") as error:
        check_boxes([[0, 0, 5, 5], [5, 0, 2, 5], [90, 0, 95, 5]], (10, 10))
    message = str(error.value)
    assert "row 1: inverted or empty: x0 5, y0 0, x1 2, y1 5" in message
    assert "row 2: outside the image of 10x10: x0 90, y0 0, x1 95, y1 5" in message
    assert "correct or remove them" in message


def test_good_boxes_come_back_as_float64() -> None:
    checked = check_boxes([[0, 0, 5, 5]], (10, 10))
    assert checked.dtype == np.float64
    assert checked.tolist() == [[0, 0, 5, 5]]


def test_wrong_shapes_are_told() -> None:
    with pytest.raises(ValueError, match=r"boxes must be \[N, 4\]"):
        box_iou([[0, 0, 1]], [[0, 0, 1, 1]])
