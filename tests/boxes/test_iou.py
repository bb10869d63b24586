from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchvision.ops import box_iou as torchvision_iou

from tokenloc.boxes import box_faults, box_iou
from tokenloc.boxes.iou import box_areas, intersection_areas

pixels = st.integers(0, 12)
pixel_boxes = st.lists(st.tuples(pixels, pixels, pixels, pixels), max_size=5)


def painted(box: tuple[int, ...], inclusive: bool) -> np.ndarray:
    """The box as pixels."""
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
def test_all_floats_give_an_iou(a: np.ndarray, b: np.ndarray, inclusive: bool) -> None:
    """NaN, infinities, inverted boxes, areas that overflow or underflow."""
    ours = box_iou(a, b, inclusive)
    assert np.isfinite(ours).all()
    assert ((ours >= 0) & (ours <= 1)).all()
    np.testing.assert_array_equal(ours, box_iou(b, a, inclusive).T)


def test_iou_of_floats_is_torchvisions() -> None:
    corners = torch.rand(20, 2, 2, dtype=torch.float64).sort(dim=1).values.reshape(20, 4)
    np.testing.assert_allclose(box_iou(corners, corners), torchvision_iou(corners, corners), atol=1e-12)


def test_disjoint_and_degenerate_boxes_have_no_iou() -> None:
    """Without clamping, boxes that are disjoint in both axes would have a positive product of negative sides."""
    point, disjoint = [[3, 3, 3, 3]], ([[0, 0, 2, 2]], [[8, 8, 10, 10]])
    assert box_iou(*disjoint).item() == box_iou(*disjoint, inclusive=True).item() == 0
    assert (box_iou(point, point).item(), box_iou(point, point, inclusive=True).item()) == (0, 1)
    assert box_areas([[5, 0, 4, 9]], inclusive=True).tolist() == [0]


def test_faults_of_each_box() -> None:
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
    outside, empty = "outside the image of 10x8", "inverted or empty"
    assert kinds == [None, empty, empty, outside, outside, "not finite", None, outside]
    assert faults[2] == "inverted or empty: x0 6, y0 4, x1 5, y1 6"


def test_an_infinite_margin_finds_only_impossible_boxes() -> None:
    boxes = [[-300, 0, 5, 5], [10, 0, 12, 5], [0, -9, 5, 0], [0, 8, 5, 12], [-7, 0, 0, 5]]
    faults = box_faults(boxes, (10, 8), margin=math.inf)
    assert [fault is None for fault in faults] == [True, False, False, False, False]


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"boxes must be \[N, 4\]"):
        box_iou([[0, 0, 1]], [[0, 0, 1, 1]])
