from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tests.boxes.components import all_boxes
from tokenloc.boxes import (
    Frame,
    Protocol,
    best_iou,
    compared_boxes,
    get_protocol,
    list_protocols,
    prepare_map,
    scaled_map,
    truth_boxes,
)
from tokenloc.metrics import ERROR_CATEGORIES, ImageScores, error_category, score_image, scored_thresholds, top_classes
from tokenloc.metrics.scores import fixed_threshold, pixel_edges, pixel_histogram

STANDARD = get_protocol("standard")
RNG = np.random.default_rng(3)
SMOOTH = np.array([[0, 1, 2, 1], [1, 8, 9, 2], [1, 7, 8, 2], [6, 2, 1, 0]], dtype=np.float32)
TRUTH = np.array([[20.0, 16.0, 70.0, 60.0], [0.0, 60.0, 30.0, 80.0]])
FRAME = Frame.resized((100, 80), (64, 64))


def score(**changes: Any) -> ImageScores:
    arguments: dict[str, Any] = {
        "maps": SMOOTH[None],
        "map_classes": [2],
        "predicted": [2, 0, 1],
        "label": 2,
        "frame": FRAME,
        "protocol": STANDARD,
        "boxes": TRUTH,
    }
    return score_image(**(arguments | changes))


@pytest.mark.parametrize("name", list_protocols())
def test_box_scores_are_those_of_each_threshold_by_itself(name: str) -> None:
    protocol = get_protocol(name)
    frame = protocol.frame((100, 80), (64, 64))
    map_ = RNG.normal(size=(14, 14)).astype(np.float32)
    scores = score(maps=map_[None], frame=frame, protocol=protocol, threshold=0.27).boxes
    assert scores is not None
    thresholds = scored_thresholds(protocol, 0.27)
    assert thresholds.tolist() == [*protocol.thresholds, 0.27]
    truth = truth_boxes(TRUTH, frame, protocol)
    prepared = prepare_map(map_, (64, 64), protocol)
    for column in range(0, len(thresholds), 17 if len(thresholds) < 200 else 170):
        boxes = compared_boxes(all_boxes(prepared, thresholds[column], protocol), frame, protocol)
        iou = best_iou(boxes, truth, protocol)
        assert (scores.largest[column], scores.any[column]) == (iou[0], iou.max())
        category = error_category(boxes[0], truth, 2, 2, protocol.inclusive_iou, protocol.strict_top_k)
        assert ERROR_CATEGORIES[scores.errors[column]] == category
    np.testing.assert_array_equal(scores.own, scores.largest)


@pytest.mark.parametrize(("strict", "category"), [(False, "correct"), (True, "part")])
def test_the_category_at_iou_one_half_is_the_protocols(strict: bool, category: str) -> None:
    protocol = Protocol(name="one", thresholds=(0.5,), strict_top_k=strict)
    map_ = np.zeros((8, 8), dtype=np.float32)
    map_[:4] = 1
    frame = Frame.identity((8, 8))
    boxes = score(maps=map_[None], frame=frame, protocol=protocol, boxes=[[0, 0, 8, 8]]).boxes
    assert boxes.largest.tolist() == [0.5]
    assert ERROR_CATEGORIES[boxes.errors[0]] == category


def test_the_fixed_threshold_is_the_given_one_or_the_protocols() -> None:
    ts_cam = get_protocol("ts-cam")
    assert fixed_threshold(ts_cam) == 0.1
    assert fixed_threshold(ts_cam, 0.12) == 0.12
    assert fixed_threshold(STANDARD) is None
    assert scored_thresholds(STANDARD).tolist() == list(STANDARD.thresholds)
    with pytest.raises(ValueError, match=r"a map threshold must be in \[0, 1\], got 12"):
        score(threshold=12)


def test_a_prediction_is_judged_by_its_own_map() -> None:
    other = SMOOTH[::-1, ::-1]
    maps = np.stack([SMOOTH, SMOOTH * 0, other])
    scores = score(maps=maps, map_classes=[2, 0, 2], predicted=[0, 2])
    alone = score(maps=other[None])
    np.testing.assert_array_equal(scores.boxes.largest, score().boxes.largest)
    np.testing.assert_array_equal(scores.boxes.own, alone.boxes.largest)
    assert not np.array_equal(scores.boxes.own, scores.boxes.largest)
    assert {ERROR_CATEGORIES[code] for code in scores.boxes.errors} == {"classification"}


def test_without_a_right_prediction_nothing_of_it_hits() -> None:
    scores = score(predicted=[0, 1])
    assert not scores.boxes.own.any()
    assert scores.boxes.largest.any()
    assert not scores.in_top(5)


def test_without_predictions_the_own_map_is_the_true_classs() -> None:
    known, unknown = score().boxes, score(predicted=None).boxes
    np.testing.assert_array_equal(unknown.own, known.own)
    np.testing.assert_array_equal(unknown.errors, known.errors)
    assert score(predicted=None).predicted.tolist() == []


@pytest.mark.parametrize("name", ["wsol-eval", "standard"])
def test_a_ready_map_is_taken_as_it_is(name: str) -> None:
    protocol = get_protocol(name)
    map_ = 0.2 + 0.6 * RNG.random((64, 64))
    mask = RNG.choice([0, 1], size=(80, 100)).astype(np.uint8)
    frame = protocol.frame((100, 80), (64, 64))
    scores = score(maps=map_[None], frame=frame, protocol=protocol, ready=True, mask=mask)
    prepared = (map_ * 255).astype(np.uint8) if protocol.quantised else map_.astype(np.float32)
    truth = truth_boxes(TRUTH, frame, protocol)
    for index, threshold in enumerate(protocol.thresholds[::7]):
        found = compared_boxes(all_boxes(prepared, threshold, protocol), frame, protocol)
        assert scores.boxes.largest[7 * index] == best_iou(found, truth, protocol)[0]
    assert not np.array_equal(
        scores.boxes.largest, score(maps=map_[None], frame=frame, protocol=protocol).boxes.largest
    )
    assert scores.pixels[:, 0].tolist() == [0, 0]  # nothing of it is near 0, as after scaling it would be


def test_top_k() -> None:
    scores = score(predicted=[0, 1, 2])
    assert [scores.in_top(k) for k in (1, 2, 3, 5)] == [False, False, True, True]


def test_the_object_share_is_that_of_the_largest_box() -> None:
    assert score().boxes.object_fraction == pytest.approx(50 * 44 / 8000)


def test_without_ground_truth_there_is_nothing_to_score() -> None:
    for nothing in (None, [], np.zeros((0, 4))):
        scores = score(boxes=nothing)
        assert scores.boxes is None
        assert scores.pixels is None
        assert scores.dropped_boxes == 0
        assert scores.in_top(1)


def test_impossible_boxes_are_left_out_and_counted() -> None:
    bad = [[5, 5, 2, 9], [200, 0, 220, 10]]
    scores = score(boxes=[*TRUTH.tolist(), *bad])
    np.testing.assert_array_equal(scores.boxes.largest, score().boxes.largest)
    assert scores.dropped_boxes == 2
    assert score(boxes=bad).boxes is None
    assert score(boxes=bad).dropped_boxes == 2


def test_masks_are_compared_in_original_pixels_by_standard() -> None:
    mask = RNG.choice([0, 1, 255], size=(80, 100)).astype(np.uint8)
    map_ = FRAME.map_to_original(scaled_map(SMOOTH, (64, 64), STANDARD))
    expected = pixel_histogram(map_, mask, pixel_edges(STANDARD))
    np.testing.assert_array_equal(score(mask=mask).pixels, expected)
    assert expected.sum() == (mask != 255).sum()


@pytest.mark.parametrize("name", ["wsol-eval", "sat"])
def test_masks_are_compared_in_network_pixels_by_the_releases(name: str) -> None:
    protocol = get_protocol(name)
    frame = protocol.frame((100, 80), (64, 64))
    mask = RNG.choice([0, 1], size=(80, 100)).astype(np.uint8)
    pixels = score(mask=mask, frame=frame, protocol=protocol).pixels
    map_ = scaled_map(SMOOTH, (64, 64), protocol)
    expected = pixel_histogram(map_, frame.pixels_to_input(mask), pixel_edges(protocol))
    np.testing.assert_array_equal(pixels, expected)
    assert pixels.sum() == 64 * 64


def test_pixel_edges_cover_every_value() -> None:
    assert pixel_edges(get_protocol("wsol-eval")).tolist() == [*np.arange(0, 1, 0.001), 1, 2, 3]
    late = Protocol(name="late", thresholds=(0.3, 1.0), pixel_thresholds=None)
    assert pixel_edges(late).tolist() == [0, 0.3, 1, 2, 3]


def test_top_classes_are_stable() -> None:
    assert top_classes([1, 5, 5, 0, 2, 1, 9]).tolist() == [6, 1, 2, 4, 0]
    assert top_classes([3.0, 4.0]).tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"logits must be \[C\] without NaN, got shape \(2,\), 1 NaN"):
        top_classes([np.nan, 1.0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"maps": SMOOTH}, r"maps must be \[K, h, w\] with map_classes \[K\], K at least 1, got \(4, 4\) and \(1,\)"),
        ({"map_classes": [2, 3]}, r"got \(1, 4, 4\) and \(2,\)"),
        ({"map_classes": [3]}, "the first map must be of the true class 2, got class 3"),
        ({"predicted": []}, r"predicted must be \[P\] classes, at least one, best first; got shape \(0,\)"),
        ({"maps": SMOOTH[None] * np.nan}, "16 of 16 values that are not finite"),
        ({"boxes": [[1, 2, 3]]}, r"boxes must be \[N, 4\]"),
        ({"mask": np.zeros((64, 64))}, r"expected original pixels of shape \(80, 100\)|one shape"),
    ],
)
def test_bad_input_is_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score(**changes)


def test_scores_and_statistics_need_no_torch() -> None:
    code = "import sys, tokenloc.metrics, tokenloc.metrics.statistics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
