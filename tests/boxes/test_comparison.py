from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenloc.boxes import Frame, best_iou, compared_boxes, get_protocol, possible_boxes, truth_boxes

STANDARD, SAT = get_protocol("standard"), get_protocol("sat")
TS_CAM, WSOL_EVAL = get_protocol("ts-cam"), get_protocol("wsol-eval")


def test_standard_does_not_change_ground_truth() -> None:
    boxes = [[1.25, 2.5, 300.75, 410.125]]
    assert truth_boxes(boxes, Frame.resized((500, 400), (224, 224)), STANDARD).tolist() == boxes


def test_wsol_eval_scales_and_truncates() -> None:
    frame = Frame.resized((500, 375), (224, 224))
    assert truth_boxes([[10.9, 20, 499, 375]], frame, WSOL_EVAL).tolist() == [[4, 11, 223, 224]]


def test_ts_cam_truncates_before_and_after_and_clips() -> None:
    frame = Frame.resized((100, 448), (224, 224))
    assert truth_boxes([[1.9, 3, 100, 448]], frame, TS_CAM).tolist() == [[2, 1, 223, 223]]
    once = replace(TS_CAM, name="truncated once", truth_truncation="scaled")
    assert truth_boxes([[1.9, 3, 100, 448]], frame, once).tolist() == [[4, 1, 223, 223]]


def test_ts_cam_divides_before_it_multiplies() -> None:
    """As its release: int(x / width * 224), which for some whole results is one less."""
    differing = {width for width in range(200, 600) for x in range(1, width) if int(x / width * 224) < x * 224 // width}
    assert {336, 448} <= differing
    for width in differing:
        x = np.arange(width)
        boxes = np.stack([np.zeros(width), np.zeros(width), x, x], axis=1)
        ours = truth_boxes(boxes, Frame.resized((width, 300), (224, 224)), TS_CAM)[:, 2]
        assert ours.tolist() == [min(int(value / width * 224), 223) for value in range(width)]


@pytest.mark.parametrize(
    ("clipping", "expected"),
    [
        ("none", [-20, 4, 230, 240]),
        ("inside", [0, 4, 223, 223]),
        ("outward", [0, 4, 223, 223]),
        ("size", [0, 4, 224, 224]),
    ],
)
def test_clipping_of_ground_truth(clipping: str, expected: list[int]) -> None:
    protocol = replace(SAT, name="other clipping", truth_clipping=clipping)
    assert truth_boxes([[-20, 4, 230, 240]], Frame.identity((224, 224)), protocol).tolist() == [expected]


def test_sat_clips_the_first_corner_below_and_the_last_above() -> None:
    assert truth_boxes([[230, 240, 250, 260], [-9, -8, -5, -4]], Frame.identity((224, 224)), SAT).tolist() == [
        [230, 240, 223, 223],
        [0, 0, -5, -4],
    ]


def test_sat_shifts_by_the_crop() -> None:
    frame = Frame.center_cropped((512, 256), (256, 256), (224, 224))
    assert truth_boxes([[0, 20, 401, 256]], frame, SAT).tolist() == [[0, 4, 184, 223]]


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 5000), st.data())
def test_truncation_is_exact_on_whole_numbers(width: int, data: st.DataObject) -> None:
    """x · 224 / width in integers; with a float64 scale some whole results would be slightly too small."""
    x = data.draw(st.integers(0, width))
    frame = Frame.resized((width, width), (224, 224))
    assert truth_boxes([[0, 0, x, x]], frame, WSOL_EVAL)[0, 2] == x * 224 // width


def test_predictions_are_compared_in_the_protocols_frame() -> None:
    frame = Frame.resized((448, 112), (224, 224))
    box = [[10, 20, 30, 44]]
    assert compared_boxes(box, frame, WSOL_EVAL).tolist() == box
    assert compared_boxes(box, frame, STANDARD).tolist() == [[20, 10, 60, 22]]


def test_the_best_matching_ground_truth_counts() -> None:
    truth = [[0, 0, 4, 4], [10, 10, 14, 14]]
    ious = best_iou([[10, 10, 14, 12], [0, 0, 4, 4], [20, 20, 22, 22]], truth, STANDARD)
    assert ious.tolist() == [0.5, 1.0, 0.0]
    assert best_iou([[0, 0, 4, 4]], [], STANDARD).tolist() == [0.0]
    assert best_iou([[0, 0, 1, 1]], [[1, 1, 2, 2]], WSOL_EVAL).tolist() == pytest.approx([1 / 7])


def test_impossible_ground_truth_is_dropped() -> None:
    frame = Frame.resized((10, 8), (224, 224))
    boxes = [[0, 0, 5, 5], [5, 0, 2, 5], [12, 0, 15, 5], [0, 0, np.inf, 3], [-4, -4, 20, 20]]
    assert possible_boxes(boxes, frame).tolist() == [boxes[0], boxes[4]]
    assert possible_boxes([], frame).shape == (0, 4)
