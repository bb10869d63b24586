from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.boxes.components import all_boxes
from tokenloc.boxes import (
    Protocol,
    find_components,
    get_protocol,
    largest_boxes,
    list_protocols,
    prepare_map,
    scan_boxes,
)
from tokenloc.boxes.extraction import find_objects

STANDARD, SAT = get_protocol("standard"), get_protocol("sat")
TS_CAM, WSOL_EVAL = get_protocol("ts-cam"), get_protocol("wsol-eval")

small_maps = arrays(
    np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0.0, 0.25, 0.5, 1.0])
)


def drawing(*rows: str) -> np.ndarray:
    """A map of characters: a space is 0, a digit d is d/9."""
    return np.array([[0 if c == " " else int(c) for c in row] for row in rows], dtype=np.float32) / np.float32(9)


def as_bytes(map_: np.ndarray) -> np.ndarray:
    return (map_ * 255).astype(np.uint8)


def flood(foreground: np.ndarray) -> list[list[tuple[int, int]]]:
    """8-connected components as lists of (y, x), in reading order of their first pixels."""
    left = {(int(y), int(x)) for y, x in np.argwhere(foreground)}
    found = []
    for pixel in sorted(left):
        if pixel not in left:
            continue
        left.remove(pixel)
        queue, component = [pixel], []
        while queue:
            y, x = queue.pop()
            component.append((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            queue += near
        found.append(component)
    return found


def box_of(component: list[tuple[int, int]]) -> list[int]:
    ys, xs = zip(*component, strict=True)
    return [min(xs), min(ys), max(xs) + 1, max(ys) + 1]


@settings(max_examples=150, deadline=None)
@given(small_maps, st.sampled_from([0.0, 0.1, 0.25, 0.4, 0.9, 1.0]))
def test_pixel_components_match_a_flood_fill(map_: np.ndarray, threshold: float) -> None:
    components = flood(map_ > np.float32(threshold))
    boxes = all_boxes(map_, threshold, STANDARD)
    if not components:
        assert boxes.tolist() == [[0, 0, 0, 0]]
        return
    assert sorted(boxes.tolist()) == sorted(box_of(component) for component in components)
    largest = max(components, key=len)  # the first of equals
    assert boxes[0].tolist() == box_of(largest)
    assert largest_boxes(map_, [threshold], STANDARD).tolist() == [box_of(largest)]
    found = find_components(map_, threshold, STANDARD, count=1)
    assert found.boxes.tolist() == [box_of(largest)]
    assert sorted(map(tuple, np.argwhere(found.masks[0]).tolist())) == sorted(largest)


@settings(max_examples=60, deadline=None)
@given(small_maps, st.sampled_from([STANDARD, TS_CAM]), st.sampled_from([0.0, 0.3, 0.6]))
def test_masks_match_their_boxes(map_: np.ndarray, protocol: Protocol, threshold: float) -> None:
    prepared = as_bytes(map_) if protocol.quantised else map_
    boxes, masks = find_components(prepared, threshold, protocol)
    assert masks.shape == (len(boxes), *map_.shape)
    assert masks.dtype == np.bool_
    if not masks.any():
        return
    union = masks.any(axis=0)
    level = np.float32(threshold) if not protocol.quantised else int(threshold * prepared.max())
    np.testing.assert_array_equal(union, prepared > level)
    for box, mask in zip(boxes, masks, strict=True):
        ys, xs = np.nonzero(mask)
        assert box[0] >= xs.min()
        assert box[2] <= xs.max() + 1
        if protocol is STANDARD:
            assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_diagonal_neighbours_are_connected() -> None:
    map_ = drawing("9  ", " 9 ", "  9")
    for protocol in (STANDARD, TS_CAM):
        prepared = as_bytes(map_) if protocol.quantised else map_
        assert all_boxes(prepared, 0.5, protocol).tolist() == [[0, 0, 3, 3]]


def test_the_largest_component_by_pixels_and_by_outline() -> None:
    ring_and_block = drawing(
        "99999   ",
        "9   9   ",
        "9   9 99",
        "9   9 99",
        "99999 99",
    )
    block_is_more = np.pad(ring_and_block, ((0, 4), (0, 4)))
    block_is_more[5:9, 6:12] = block_is_more[2:5, 8:12] = 1
    assert largest_boxes(block_is_more, [0.5], STANDARD).tolist() == [[6, 2, 12, 9]]
    wide_ring = np.zeros((12, 12), dtype=np.float32)
    wide_ring[[0, 11]] = wide_ring[:, [0, 11]] = 1
    wide_ring[2:10, 2:10] = 1
    assert largest_boxes(wide_ring, [0.5], STANDARD).tolist() == [[2, 2, 10, 10]]
    assert largest_boxes(as_bytes(wide_ring), [0.5], TS_CAM).tolist() == [[0, 0, 12, 12]]


def test_the_outline_of_a_hole_counts_as_a_contour() -> None:
    ring = drawing("9999999", "9999999", "99   99", "99   99", "9999999", "9999999")
    assert all_boxes(as_bytes(ring), 0.5, TS_CAM).tolist() == [[0, 0, 7, 6], [1, 1, 6, 5]]
    assert all_boxes(ring, 0.5, STANDARD).tolist() == [[0, 0, 7, 6]]
    assert find_components(as_bytes(ring), 0.5, TS_CAM).masks[1].tolist() == (ring > 0.5).tolist()


def test_inside_ends_differ_only_at_the_edge() -> None:
    map_ = as_bytes(drawing("     ", "  999", "  999"))
    assert all_boxes(map_, 0.5, TS_CAM).tolist() == [[2, 1, 5, 3]]
    assert all_boxes(map_, 0.5, WSOL_EVAL).tolist() == [[2, 1, 4, 2]]
    assert all_boxes(as_bytes(drawing("9  ", "   ")), 0.5, WSOL_EVAL).tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("standard", [0, 0, 0, 0]), ("wsol-eval", [0, 0, 0, 0]), ("ts-cam", [0, 0, 1, 1]), ("sat", [0, 0, 28, 20])],
)
def test_an_empty_map_gives_the_protocols_box(name: str, expected: list[int]) -> None:
    protocol = get_protocol(name)
    prepared = prepare_map(np.ones((5, 7)), (28, 20), protocol)
    assert largest_boxes(prepared, [0.0, 0.5], protocol).tolist() == [expected, expected]
    boxes, masks = find_components(prepared, 0.0, protocol)
    assert boxes.shape == (0, 4)
    assert masks.shape == (0, 20, 28)


def test_levels_relative_to_the_maximum_and_as_values() -> None:
    map_ = np.array([[0, 99, 100, 101, 200]], dtype=np.uint8)
    assert all_boxes(map_, 0.5, TS_CAM).tolist() == [[3, 0, 5, 1]]  # > 100
    assert all_boxes(map_, 0.504, TS_CAM).tolist() == [[3, 0, 5, 1]]  # > int(100.8)
    assert all_boxes(map_, 0.505, TS_CAM).tolist() == [[4, 0, 5, 1]]  # > 101
    by_value = replace(TS_CAM, name="ts-cam by value", threshold_of="value")
    assert all_boxes(map_, 0.5, by_value).tolist() == [[4, 0, 5, 1]]  # > 127
    half = np.array([[0.1, 0.3, 0.5]], dtype=np.float32)
    assert all_boxes(half, 0.3, STANDARD).tolist() == [[2, 0, 3, 1]]  # strictly above
    by_maximum = replace(STANDARD, name="standard by maximum", threshold_of="maximum")
    assert all_boxes(half, 0.5, by_maximum).tolist() == [[1, 0, 3, 1]]  # > 0.25


def test_ties_are_resolved_in_reading_order() -> None:
    """OpenCV uses another order; here the second component begins further left, but lower."""
    map_ = drawing("      99", "9     9 ", "99      ")
    assert all_boxes(map_, 0.5, STANDARD).tolist() == [[6, 0, 8, 2], [0, 1, 2, 3]]
    same_row = drawing("  9   9", " 9  99 ", "9      ")
    assert all_boxes(same_row, 0.5, STANDARD).tolist() == [[0, 0, 3, 3], [4, 0, 7, 2]]


@pytest.mark.parametrize("name", list_protocols())
def test_a_map_of_another_type_is_refused(name: str) -> None:
    protocol = get_protocol(name)
    wrong = np.zeros((4, 4), dtype=np.float64)
    expected = "uint8" if protocol.quantised else "float32"
    with pytest.raises(ValueError, match=rf"protocol '{name}' expects {expected} maps .* got float64 of shape"):
        scan_boxes(wrong, [0.5], protocol)
    with pytest.raises(ValueError, match="use prepare_map with the same protocol"):
        find_components(np.zeros((0, 4), dtype=expected), 0.5, protocol)


def test_objects_are_components_without_specks_and_fragments() -> None:
    map_ = drawing("9999     ", "9  9 9 9 ", "9    9 9 ", "9 9      ", "9 9     9")
    whole, others = [0, 0, 4, 5], [[5, 1, 6, 3], [7, 1, 8, 3], [8, 4, 9, 5]]
    found = find_objects(map_, 0.5, STANDARD, 0.0)
    assert found.boxes.tolist() == [whole, *others]  # [2, 3, 3, 5] lies in the first
    assert found.masks.any(axis=0).tolist() == (map_ > 0.5).tolist()
    assert find_objects(map_, 0.5, STANDARD, 2 / 45).boxes.tolist() == [whole, *others[:2]]
    assert find_objects(map_, 0.5, STANDARD, 1.0).boxes.tolist() == [whole]
    assert find_objects(np.zeros_like(map_), 0.5, STANDARD).masks.shape == (0, 5, 9)


def test_a_component_half_inside_a_larger_one_belongs_to_it() -> None:
    map_ = np.zeros((8, 12), dtype=np.float32)
    map_[0:6, 0], map_[0, 0:6] = 1, 1  # an angle with the box [0, 0, 6, 6]
    for inside, boxes in ((2, [[0, 0, 8, 6]]), (1, [[0, 0, 6, 6], [5, 3, 9, 5]])):
        other = map_.copy()
        other[3:5, 6 - inside : 10 - inside] = 1
        assert find_objects(other, 0.5, STANDARD, 0.0).boxes.tolist() == boxes
