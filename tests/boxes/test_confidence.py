"""Box confidence: each signal against a slow version of its definition, and properties of the whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.filters import threshold_otsu

from tests.boxes.components import all_boxes
from tokenloc.boxes import box_confidence, box_iou, get_protocol, largest_boxes, prepare_map, scan_boxes
from tokenloc.boxes.confidence import INTERCEPT, WEIGHTS, box_stability, map_separation, nearby_thresholds

STANDARD = get_protocol("standard")
PROTOCOLS = ["standard", "sat", "wsol-eval", "ts-cam"]
MAPS = arrays(np.float32, (7, 6), elements=st.floats(0, 1, width=16))
THRESHOLDS = st.floats(0, 1, width=16)


def hills(seed: int = 0) -> np.ndarray:
    """A map with several components at most thresholds, [40, 44] float32 in [0, 1]."""
    return np.asarray(prepare_map(np.random.default_rng(seed).random((6, 5)) ** 3, (44, 40), STANDARD))


def slow_confidence(probability: float, map_: np.ndarray, box: np.ndarray, threshold: float, name: str) -> float:
    """The definition, step by step: every component of every nearby threshold, every pixel."""
    protocol = get_protocol(name)
    agreements = []
    for near in nearby_thresholds(threshold).tolist():  # tested separately
        others = all_boxes(map_, near, protocol)
        agreements.append(max(box_iou([box], [other])[0, 0] for other in others))
    level = threshold * (map_.max() if protocol.threshold_of == "maximum" else 255 if protocol.quantised else 1)
    values = map_.astype(float).ravel()
    inside = map_.ravel() > np.asarray(level).astype(map_.dtype)
    within = sum(((values[part] - values[part].mean()) ** 2).sum() for part in (inside, ~inside) if part.any())
    separation = 1 - within / ((values - values.mean()) ** 2).sum()
    height, width = map_.shape
    x0, y0, x1, y1 = box
    last = int(protocol.box_end == "inside")
    touched = [x0 == 0, y0 == 0, x1 == width - last, y1 == height - last]
    signals = [np.mean(agreements), separation, np.log((x1 - x0) * (y1 - y0) / (height * width)), sum(touched)]
    odds = INTERCEPT + sum(weight * signal for weight, signal in zip(WEIGHTS.values(), signals, strict=True))
    return float(probability / (1 + np.exp(-odds)))


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("threshold", [0.08, 0.3, 0.7])
def test_confidence_matches_its_definition(name: str, threshold: float) -> None:
    protocol = get_protocol(name)
    for seed in range(5):
        grid = np.random.default_rng(seed).random((6, 5)) ** 3
        map_ = prepare_map(grid, (44, 40), protocol)
        boxes = all_boxes(map_, threshold, protocol)
        expected = [slow_confidence(0.8, map_, box, threshold, name) for box in boxes]
        np.testing.assert_allclose(box_confidence(0.8, map_, boxes, threshold, protocol), expected, atol=0.501e-4)


def test_nearby_thresholds_halve_and_double_the_odds() -> None:
    near = nearby_thresholds(0.25)
    octaves = np.array([-1, -0.75, -0.5, -0.25, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(near / (1 - near), 1 / 3 * 2**octaves)
    assert nearby_thresholds(0).tolist() == [0] * 8
    assert nearby_thresholds(1).tolist() == [1] * 8
    with pytest.raises(ValueError, match=r"a map threshold must be in \[0, 1\], got 1\.5"):
        nearby_thresholds(1.5)


@given(MAPS, THRESHOLDS, st.sampled_from(PROTOCOLS), st.floats(0, 1))
def test_confidence_is_between_zero_and_the_class_probability(
    grid: np.ndarray, threshold: float, name: str, probability: float
) -> None:
    protocol = get_protocol(name)
    map_ = prepare_map(grid, (12, 14), protocol)
    boxes = all_boxes(map_, threshold, protocol)
    confidence = box_confidence(probability, map_, boxes, threshold, protocol)
    assert confidence.shape == (len(boxes),)
    assert (confidence >= 0).all()
    assert (confidence <= probability + 0.501e-4).all()


@pytest.mark.parametrize("name", PROTOCOLS)
def test_boxes_of_an_object_are_right_those_of_a_corner_or_the_whole_image_are_not(name: str) -> None:
    protocol = get_protocol(name)
    found = []
    for rows, columns in ((slice(5, 20), slice(3, 18)), (slice(0, 2), slice(0, 2)), (slice(0, 30), slice(0, 29))):
        step = np.zeros((30, 30), np.float32)
        step[rows, columns] = 1
        map_ = (255 * step).astype(np.uint8) if protocol.quantised else step
        found.append(box_confidence(1.0, map_, largest_boxes(map_, [0.3], protocol), 0.3, protocol)[0])
    right, corner, whole = found
    assert right > 0.9
    assert corner < 0.2
    assert whole < right


def test_confidence_at_the_edge_does_not_depend_on_the_end_convention() -> None:
    """Boxes of `wsol-eval` end at the last pixel, exclusive ones after it."""
    step = np.zeros((30, 20), np.uint8)
    step[20:, 10:] = 255
    ends = [[10, 20, 19, 29], [10, 20, 20, 30]]
    first, second = box_confidence(0.7, step, ends, 0.5, get_protocol("wsol-eval"))
    assert first == second > 0


def test_confidence_decreases_as_a_step_is_blurred() -> None:
    distance = np.abs(np.arange(60) - 30)
    far = np.maximum(distance[:, None], distance[None]).astype(np.float32)
    found = []
    for width in (0.1, 2, 4, 8, 16):
        slope = np.clip((14.5 - far) / width + 0.5, 0, 1).astype(np.float32)
        box = largest_boxes(slope, [0.5], STANDARD)
        found.append(box_confidence(1.0, slope, box, 0.5, STANDARD)[0])
    assert (np.diff(found) < 0).all()


def test_confidence_does_not_depend_on_mirroring_and_size() -> None:
    map_ = hills()
    box = largest_boxes(map_, [0.3], STANDARD)
    x0, y0, x1, y1 = box[0]
    expected = box_confidence(1.0, map_, box, 0.3, STANDARD)
    mirrored = box_confidence(1.0, np.ascontiguousarray(map_[:, ::-1]), [[44 - x1, y0, 44 - x0, y1]], 0.3, STANDARD)
    doubled = box_confidence(1.0, map_.repeat(2, axis=0).repeat(2, axis=1), 2 * box, 0.3, STANDARD)
    np.testing.assert_allclose([mirrored, doubled], [expected, expected], atol=1.01e-4)


def test_stability_does_not_depend_on_the_largest_component() -> None:
    """Two peaks: at low thresholds the plateau is the largest, at high ones the sharp block that never changes."""
    map_ = np.zeros((40, 40), np.float32)
    map_[2:10, 2:10] = 1
    map_[15:39, 15:39] = 0.3
    thresholds = [0.25, *nearby_thresholds(0.25)]
    scan = scan_boxes(map_, thresholds, STANDARD)
    sharp, plateau = box_stability(scan, [[2, 2, 10, 10], [15, 15, 39, 39]])
    assert sharp == 1
    assert plateau == pytest.approx(np.mean(nearby_thresholds(0.25) < np.float32(0.3)))


def test_confidence_without_boxes() -> None:
    flat = np.zeros((5, 5), np.float32)
    assert box_confidence(0.9, flat, np.zeros((0, 4)), 0.2, STANDARD).shape == (0,)
    assert box_confidence(0.9, flat, [[0, 0, 0, 0]], 0.2, STANDARD).tolist() == [0]


def test_separation_has_its_maximum_at_otsus_threshold() -> None:
    map_ = hills(3)
    levels = np.linspace(0.02, 0.98, 97)
    best = levels[np.argmax([map_separation(map_, map_ > level) for level in levels])]
    assert best == pytest.approx(threshold_otsu(map_, nbins=1000), abs=0.02)


@pytest.mark.parametrize(
    ("map_", "foreground"),
    [
        (np.full((3, 3), 0.5, np.float32), np.eye(3, dtype=bool)),
        (np.eye(3, dtype=np.float32), np.zeros((3, 3), bool)),
        (np.eye(3, dtype=np.float32), np.ones((3, 3), bool)),
    ],
)
def test_separation_is_zero_without_contrast(map_: np.ndarray, foreground: np.ndarray) -> None:
    assert map_separation(map_, foreground) == 0
