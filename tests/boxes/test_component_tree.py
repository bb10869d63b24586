"""The sweep over all level sets against a search at each level, as in the released evaluators."""

from __future__ import annotations

from pathlib import Path

import cv2
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from tests.boxes.components import all_boxes, boxes_at
from tokenloc.boxes import Protocol, get_protocol, list_protocols, prepare_map, scan_boxes, threshold_grid
from tokenloc.boxes._sweep import _compiled, fill_holes

Map = NDArray[np.float32]
PROTOCOLS = [get_protocol(name) for name in list_protocols()]
WSOL_EVAL = get_protocol("wsol-eval")
sides = st.integers(1, 12)


def maps_of(*values: float) -> st.SearchStrategy[Map]:
    return arrays(np.float32, st.tuples(sides, sides), elements=st.sampled_from(values))


def prepared_map(map_: Map, protocol: Protocol) -> Map | NDArray[np.uint8]:
    return (map_ * 255).astype(np.uint8) if protocol.quantised else map_


def contour_boxes(map_: NDArray[np.uint8], level: int) -> list[list[int]]:
    """The boxes of the `wsol-eval` evaluator at a level, by ``findContours``: that of the largest contour first."""
    contours = cv2.findContours((map_ > level).astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[-2]
    largest = max(contours, key=cv2.contourArea) if len(contours) else None
    rectangles = [cv2.boundingRect(contour) for contour in contours if contour is not largest]
    first = [] if largest is None else [cv2.boundingRect(largest)]
    last = map_.shape[1] - 1, map_.shape[0] - 1
    return [[x, y, min(x + w, last[0]), min(y + h, last[1])] for x, y, w, h in [*first, *rectangles]] or [[0] * 4]


def check(prepared: Map | NDArray[np.uint8], thresholds: list[float], protocol: Protocol) -> None:
    """Compare the scan with a search at each threshold."""
    scan = scan_boxes(prepared, thresholds, protocol)
    largest = scan.largest()
    indices = np.arange(len(scan.nodes.boxes), dtype=np.float64)
    greatest = scan.greatest(indices)
    for index, threshold in enumerate(thresholds):
        alone = all_boxes(prepared, threshold, protocol).tolist()
        assert largest[index].tolist() == alone[0]
        alive = (scan.nodes.low <= scan.entry[index]) & (scan.entry[index] <= scan.nodes.high)
        assert sorted(scan.nodes.boxes[alive].tolist()) == sorted(alone)
        assert greatest[index] == indices[alive].max()


LEVELS = [0.0, 0.05, 0.15, 0.25, 0.4, 0.55, 0.6, 0.75, 0.9, 1.0]


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
@settings(max_examples=250)
@given(map_=st.one_of(maps_of(0.0, 1.0), maps_of(0.0, 0.25, 0.5, 1.0), maps_of(*np.linspace(0, 1, 9).tolist())))
def test_small_maps(map_: Map, protocol: Protocol) -> None:
    check(prepared_map(map_, protocol), LEVELS, protocol)


@settings(max_examples=400)
@given(maps_of(0.0, 0.25, 0.5, 0.75, 1.0))
def test_contours_match_opencv(map_: Map) -> None:
    quantised = prepared_map(map_, WSOL_EVAL)
    scan = scan_boxes(quantised, LEVELS, WSOL_EVAL)
    for index, threshold in enumerate(LEVELS):
        expected = contour_boxes(quantised, int(threshold * quantised.max()))
        assert scan.largest()[index].tolist() == expected[0]
        assert sorted(boxes_at(scan, scan.entry[index]).tolist()) == sorted(expected)


def nested_rings(side: int) -> Map:
    y, x = np.mgrid[:side, :side]
    ring = np.maximum(abs(y - side // 2), abs(x - side // 2))
    return (np.where(ring % 2, 0.1, 1.0) * (1 - ring / side)).astype(np.float32)


def board(side: int) -> Map:
    y, x = np.mgrid[:side, :side]
    return (((y + x) % 2) * (1 + x + y) / (2 * side)).astype(np.float32)


def smooth(side: int, cells: int, seed: int) -> Map:
    values = np.random.default_rng(seed).random((cells, cells)).astype(np.float32)
    return np.clip(cv2.resize(values, (side, side + 5), interpolation=cv2.INTER_CUBIC), 0, 1)


def noise(side: int) -> Map:
    return np.random.default_rng(0).random((side, side + 3)).astype(np.float32)


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
@pytest.mark.parametrize(
    "map_",
    [nested_rings(21), board(16), smooth(64, 5, 0), smooth(90, 14, 1), noise(24)],
    ids=["rings", "board", "five cells", "fourteen cells", "noise"],
)
def test_larger_maps(map_: Map, protocol: Protocol) -> None:
    check(prepared_map(map_, protocol), list(threshold_grid(0.02)), protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
def test_an_upsampled_map(protocol: Protocol) -> None:
    cells = np.random.default_rng(3).random((14, 14)).cumsum(axis=0)
    check(prepare_map(cells, (224, 224), protocol), list(threshold_grid(0.01)), protocol)


def test_recorded_maps_at_a_thousand_thresholds(parity_dir: Path) -> None:
    with np.load(parity_dir / "wsol_evaluation.npz") as file:
        maps = file["maps"][:3].astype(np.float32)
    for map_ in maps:
        quantised = prepared_map(map_, WSOL_EVAL)
        scan = scan_boxes(quantised, WSOL_EVAL.thresholds, WSOL_EVAL)
        largest = scan.largest()
        for index in range(0, 1000, 29):
            expected = contour_boxes(quantised, int(WSOL_EVAL.thresholds[index] * quantised.max()))
            assert largest[index].tolist() == expected[0]
            assert sorted(boxes_at(scan, scan.entry[index]).tolist()) == sorted(expected)


@settings(max_examples=200)
@given(arrays(np.uint16, st.tuples(sides, sides), elements=st.integers(0, 5)))
def test_filled_pixels_cannot_reach_the_edge(ranks: NDArray[np.uint16]) -> None:
    filled = fill_holes(ranks, 5)
    for level in range(5):
        outside = np.pad(ranks <= level, 1, constant_values=True).astype(np.uint8)
        components = cv2.connectedComponents(outside, connectivity=4)[1]
        np.testing.assert_array_equal(filled > level, (components != components[0, 0])[1:-1, 1:-1])


def test_thresholds_of_one_foreground_share_an_entry() -> None:
    map_ = np.array([[0.0, 0.3, 0.7]], dtype=np.float32)
    scan = scan_boxes(map_, [0.9, 0.1, 0.2, 0.5, 0.8], get_protocol("standard"))
    assert scan.entry.tolist() == [2, 0, 0, 1, 2]
    assert [boxes_at(scan, entry).tolist() for entry in range(3)] == [[[1, 0, 3, 1]], [[2, 0, 3, 1]], [[0, 0, 0, 0]]]


def test_too_many_thresholds_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 65535 different thresholds can be scanned, got 70000"):
        scan_boxes(np.zeros((2, 2), np.float32), np.linspace(0, 1, 70000), get_protocol("standard"))


def test_functions_are_compiled_without_a_writable_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    njit = numba.njit

    def without_cache(**options: bool) -> object:
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(numba, "njit", without_cache)

    def double(value: int) -> int:
        return 2 * value

    assert _compiled(double)(4) == 8
