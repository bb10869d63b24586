from __future__ import annotations

import subprocess
import sys
from typing import Any

import cv2
import numpy as np
import pytest

from tests.boxes.components import all_boxes
from tokenloc.boxes import (
    Frame,
    Protocol,
    best_iou,
    box_confidence,
    compared_boxes,
    get_protocol,
    list_protocols,
    prepare_map,
    scaled_map,
    truth_boxes,
)
from tokenloc.metrics import ERROR_CATEGORIES, ImageScores, Scorer, error_categories
from tokenloc.metrics.scores import pixel_histogram

STANDARD = get_protocol("standard")
RNG = np.random.default_rng(3)
SMOOTH = np.array([[0, 1, 2, 1], [1, 8, 9, 2], [1, 7, 8, 2], [6, 2, 1, 0]], dtype=np.float32)
TRUTH = np.array([[20.0, 16.0, 70.0, 60.0], [0.0, 60.0, 30.0, 80.0]])
FRAME = Frame.resized((100, 80), (64, 64))


def score(protocol: Protocol = STANDARD, threshold: float | None = None, **changes: Any) -> ImageScores:
    arguments = {"map_": SMOOTH, "label": 2, "predicted": [2, 0, 1], "frame": FRAME, "boxes": TRUTH}
    return Scorer(protocol, threshold).score(**(arguments | changes))


@pytest.mark.parametrize("name", list_protocols())
def test_box_scores_match_each_threshold_alone(name: str) -> None:
    protocol = get_protocol(name)
    frame = protocol.frame((100, 80), (64, 64))
    map_ = RNG.normal(size=(14, 14)).astype(np.float32)
    scores = score(protocol, 0.27, map_=map_, frame=frame)
    thresholds = Scorer(protocol, 0.27).thresholds
    assert thresholds.tolist() == [*protocol.thresholds, 0.27]
    truth = truth_boxes(TRUTH, frame, protocol)
    prepared = prepare_map(map_, (64, 64), protocol)
    for column in range(0, len(thresholds), 17 if len(thresholds) < 200 else 170):
        found = all_boxes(prepared, thresholds[column], protocol)
        boxes = compared_boxes(found, frame, protocol)
        iou = best_iou(boxes, truth, protocol)
        assert scores.boxes[column].tolist() == found[0].tolist()
        assert (scores.largest[column], scores.any[column]) == (iou[0], iou.max())
        (category,) = error_categories(boxes[:1], truth, 2, 2, protocol.inclusive_iou, protocol.strict_top_k)
        assert scores.errors[column] == category


def test_the_fixed_threshold_is_the_given_one_or_the_protocols() -> None:
    ts_cam = get_protocol("ts-cam")
    assert Scorer(ts_cam).fixed_threshold == 0.1
    assert Scorer(ts_cam, 0.12).fixed_threshold == 0.12
    assert Scorer(STANDARD).fixed_threshold is None
    assert Scorer(STANDARD).thresholds.tolist() == list(STANDARD.thresholds)
    with pytest.raises(ValueError, match=r"a map threshold must be in \[0, 1\], got 12"):
        Scorer(STANDARD, 12)


@pytest.mark.parametrize("name", list_protocols())
def test_confidence_is_that_of_the_largest_box_at_the_fixed_threshold(name: str) -> None:
    protocol = get_protocol(name)
    prepared = prepare_map(SMOOTH, (64, 64), protocol)
    box = all_boxes(prepared, 0.3, protocol)[:1]
    expected = box_confidence(0.8, prepared, box, 0.3, protocol)[0]
    assert score(protocol, 0.3, probability=0.8).confidence == expected
    assert score(protocol, 0.3, probability=0.8, boxes=None).confidence == expected
    assert score(protocol, 0.3).confidence is None
    assert score(STANDARD, probability=0.8).confidence is None


def test_a_wrong_class_is_a_classification_error_and_an_unknown_one_is_not() -> None:
    wrong, unknown = score(predicted=[0, 2]), score(predicted=None)
    assert {ERROR_CATEGORIES[code] for code in wrong.errors} == {"classification"}
    assert [wrong.in_top(k) for k in (1, 2, 5)] == [False, True, True]
    np.testing.assert_array_equal(unknown.errors, score().errors)
    np.testing.assert_array_equal(wrong.largest, score().largest)
    assert (unknown.predicted.tolist(), unknown.in_top(5)) == ([], False)


@pytest.mark.parametrize("name", ["wsol-eval", "standard"])
def test_a_ready_map_is_not_rescaled(name: str) -> None:
    protocol = get_protocol(name)
    map_ = 0.2 + 0.6 * RNG.random((64, 64))
    mask = RNG.choice([0, 1], size=(80, 100)).astype(np.uint8)
    frame = protocol.frame((100, 80), (64, 64))
    scores = score(protocol, map_=map_, frame=frame, ready=True, mask=mask)
    prepared = (map_ * 255).astype(np.uint8) if protocol.quantised else map_.astype(np.float32)
    truth = truth_boxes(TRUTH, frame, protocol)
    for index, threshold in enumerate(protocol.thresholds[::7]):
        found = compared_boxes(all_boxes(prepared, threshold, protocol), frame, protocol)
        assert scores.largest[7 * index] == best_iou(found, truth, protocol)[0]
    assert not np.array_equal(scores.largest, score(protocol, map_=map_, frame=frame).largest)
    assert scores.pixels[:, 0].tolist() == [0, 0]  # no value is near 0, unlike after scaling


def test_the_object_fraction_is_that_of_the_largest_box() -> None:
    assert score().object_fraction == pytest.approx(50 * 44 / 8000)


@pytest.mark.parametrize("nothing", [None, [], np.zeros((0, 4))])
def test_without_ground_truth_there_are_no_box_or_pixel_scores(nothing: Any) -> None:
    scores = score(boxes=nothing)
    assert (len(scores.truth), len(scores.largest), scores.object_fraction) == (0, 0, None)
    assert (scores.pixels.size, scores.dropped_boxes, scores.in_top(1)) == (0, 0, True)


def test_impossible_boxes_are_ignored_and_counted() -> None:
    bad = [[5, 5, 2, 9], [200, 0, 220, 10]]
    scores = score(boxes=[*TRUTH.tolist(), *bad])
    np.testing.assert_array_equal(scores.largest, score().largest)
    assert scores.truth.tolist() == TRUTH.tolist()
    assert scores.dropped_boxes == score(boxes=bad).dropped_boxes == 2
    assert not len(score(boxes=bad).truth)


@pytest.mark.parametrize("name", ["standard", "wsol-eval", "sat"])
def test_masks_are_compared_in_original_or_input_pixels(name: str) -> None:
    protocol = get_protocol(name)
    frame = protocol.frame((100, 80), (64, 64))
    mask = RNG.choice([0, 1, 255], size=(80, 100)).astype(np.uint8)
    map_, judged = scaled_map(SMOOTH, (64, 64), protocol), frame.pixels_to_input(mask)
    if name == "standard":
        map_, judged = frame.map_to_original(map_), mask
    pixels = score(protocol, mask=mask, frame=frame).pixels
    np.testing.assert_array_equal(pixels, pixel_histogram(map_, judged, Scorer(protocol).pixel_edges))
    assert pixels.sum() == (judged != 255).sum()


def test_pixel_edges_cover_all_values() -> None:
    assert Scorer(get_protocol("wsol-eval")).pixel_edges.tolist() == [*np.arange(0, 1, 0.001), 1, 2, 3]
    late = Protocol(name="late", thresholds=(0.3, 1.0), pixel_thresholds=None)
    assert Scorer(late).pixel_edges.tolist() == [0, 0.3, 1, 2, 3]


@pytest.mark.parametrize("name", ["standard", "wsol-eval"])
def test_a_mask_of_another_resolution_is_resized_once_to_the_compared_pixels(name: str) -> None:
    protocol = get_protocol(name)
    mask = RNG.integers(0, 2, (40, 50)).astype(np.uint8)
    map_ = scaled_map(SMOOTH, (64, 64), protocol)
    if name == "standard":
        map_, resized = FRAME.map_to_original(map_), mask.repeat(2, axis=0).repeat(2, axis=1)
    else:
        resized = cv2.resize(mask, (64, 64), interpolation=cv2.INTER_NEAREST)
    expected = pixel_histogram(map_, resized, Scorer(protocol).pixel_edges)
    np.testing.assert_array_equal(score(protocol, mask=mask).pixels, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"map_": SMOOTH[None]}, r"a map must be \[height, width\] .* got shape \(1, 4, 4\)"),
        ({"predicted": []}, r"predicted must be \[P\] classes, P at least 1, best first; got shape \(0,\)"),
        ({"map_": SMOOTH * np.nan}, "16 of 16 values that are not finite"),
        ({"map_": SMOOTH * np.nan, "boxes": None}, "16 of 16 values that are not finite"),
        ({"boxes": [[1, 2, 3]]}, r"boxes must be \[N, 4\]"),
        ({"mask": np.zeros((64, 64))}, r"expected original pixels of shape \(80, 100\)|one shape"),
    ],
)
def test_bad_input_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score(**changes)


def test_metrics_do_not_import_torch() -> None:
    code = "import sys, tokenloc.metrics, tokenloc.metrics.stored_boxes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
