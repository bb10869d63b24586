from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as tv

from tokenloc.boxes import Frame

sides = st.integers(1, 700)
sizes = st.tuples(sides, sides)


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    original, network = draw(sizes), draw(sizes)
    if draw(st.booleans()):
        return Frame.resized(original, network)
    resized = tuple(side + draw(st.integers(0, 90)) for side in network)
    return Frame.center_cropped(original, resized, network)


def visible_box(frame: Frame) -> np.ndarray:
    """The part of the image that the network input covers."""
    return np.asarray(frame.to_original([[0, 0, *frame.input_size]])[0])


@st.composite
def boxes_in(draw: st.DrawFn, size: tuple[int, int]) -> np.ndarray:
    parts = draw(st.lists(st.tuples(*[st.floats(0, 1)] * 4), max_size=4))
    corners = np.array(parts).reshape(-1, 2, 2)
    return np.sort(corners, axis=1).reshape(-1, 4) * np.array([*size, *size])


@settings(max_examples=200, deadline=None)
@given(st.data(), frames())
def test_to_original_inverts_to_input(data: st.DataObject, frame: Frame) -> None:
    boxes = data.draw(boxes_in(frame.original_size))
    back = frame.to_original(frame.to_input(boxes), clip=False)
    np.testing.assert_allclose(back, boxes, atol=1e-6)
    np.testing.assert_allclose(frame.to_original(frame.to_input(boxes)), boxes, atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(st.data(), frames())
def test_to_input_inverts_to_original(data: st.DataObject, frame: Frame) -> None:
    boxes = data.draw(boxes_in(frame.input_size))
    np.testing.assert_allclose(frame.to_input(frame.to_original(boxes)), boxes, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(frames())
def test_the_visible_box_is_in_the_image_and_is_the_network_input(frame: Frame) -> None:
    visible = visible_box(frame)
    assert (visible >= 0).all()
    assert (visible <= [*frame.original_size, *frame.original_size]).all()
    np.testing.assert_allclose(frame.to_input([visible]), [[0, 0, *frame.input_size]], atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(frames(), st.integers(1, 8))
def test_the_frame_of_the_original_of_a_resized_copy(frame: Frame, times: int) -> None:
    original = (frame.original_size[0] * times, frame.original_size[1] * times)
    whole = frame.of_original(original)
    assert whole.original_size == original
    np.testing.assert_allclose(visible_box(whole), visible_box(frame) * times, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(whole.to_input([[0, 0, *original]]), frame.to_input([[0, 0, *frame.original_size]]))


def test_a_map_on_a_smaller_copy_matches_the_map_on_the_image() -> None:
    frame = Frame.center_cropped((400, 300), (256, 256), (224, 224))
    map_ = np.linspace(0.1, 1, 224 * 224, dtype=np.float32).reshape(224, 224)
    half = frame.of_original((200, 150)).map_to_original(map_)
    assert half.shape == (150, 200)
    averaged = frame.map_to_original(map_).reshape(150, 2, 200, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(half[15:-15, 20:-20], averaged[15:-15, 20:-20], atol=1e-5)


@pytest.mark.parametrize(("resized", "crop"), [((256, 256), (224, 224)), ((257, 300), (224, 221)), ((9, 8), (4, 3))])
def test_the_crop_matches_torchvision(resized: tuple[int, int], crop: tuple[int, int]) -> None:
    width, height = resized
    columns = torch.arange(width).expand(1, height, width)
    rows = torch.arange(height)[:, None].expand(1, height, width)
    cropped = [tv.center_crop(values, [crop[1], crop[0]]) for values in (columns, rows)]
    frame = Frame.center_cropped(resized, resized, crop)
    assert frame.offset == (cropped[0][0, 0, 0].item(), cropped[1][0, 0, 0].item())


def test_boxes_are_clipped_to_the_image_by_default() -> None:
    frame = Frame.resized((10, 20), (10, 20))
    outside = [[-5, -1, 15, 30]]
    assert frame.to_original(outside).tolist() == [[0, 0, 10, 20]]
    assert frame.to_original(outside, clip=False).tolist() == outside


def test_empty_boxes() -> None:
    frame = Frame.identity((4, 4))
    assert frame.to_input([]).shape == frame.to_original(np.zeros((0, 4))).shape == (0, 4)


def slow_map_to_original(frame: Frame, map_: np.ndarray) -> np.ndarray:
    """Each original pixel alone: its centre in input pixels, and the four cell centres around it."""
    cells = map_.shape[::-1]
    out = np.zeros(frame.original_size[::-1])
    for y in range(frame.original_size[1]):
        for x in range(frame.original_size[0]):
            centre = frame.to_input([[x + 0.5, y + 0.5, x + 0.5, y + 0.5]])[0, :2]
            if (centre < 0).any() or (centre > frame.input_size).any():
                continue
            cell = centre * cells / np.array(frame.input_size) - 0.5
            cell = cell.clip(0, np.array(cells) - 1)
            low = np.floor(cell).astype(int)
            for step_x in (0, 1):
                for step_y in (0, 1):
                    near = np.minimum(low + np.array([step_x, step_y]), np.array(cells) - 1)
                    weight = np.prod(np.where([step_x, step_y], cell - low, 1 - (cell - low)))
                    out[y, x] += weight * map_[near[1], near[0]]
    return out


def test_maps_are_resampled_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    frame, map_ = Frame.center_cropped((31, 17), (12, 12), (8, 8)), np.random.default_rng(0).random((5, 6))
    at_once = frame.map_to_original(map_)
    monkeypatch.setattr("tokenloc.boxes.frame._BAND_PIXELS", 100)  # three rows
    np.testing.assert_array_equal(frame.map_to_original(map_), at_once)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_map_to_original_matches_a_slow_version(data: st.DataObject) -> None:
    small = st.tuples(st.integers(1, 13), st.integers(1, 13))
    original, network, grid = data.draw(small), data.draw(small), data.draw(small)
    margin = data.draw(st.integers(0, 5))
    frame = Frame.center_cropped(original, (network[0] + margin, network[1] + margin), network)
    map_ = np.random.default_rng(0).normal(size=grid).astype(np.float32)
    ours = frame.map_to_original(map_)
    assert ours.dtype == np.float32
    assert ours.shape == original[::-1]
    np.testing.assert_allclose(ours, slow_map_to_original(frame, map_), atol=1e-5)


def test_upsampling_matches_torch() -> None:
    map_ = torch.rand(1, 1, 7, 5)
    expected = torch.nn.functional.interpolate(map_, size=(61, 83), mode="bilinear", align_corners=False)
    ours = Frame.resized((83, 61), (224, 224)).map_to_original(map_[0, 0].numpy())
    np.testing.assert_allclose(ours, expected[0, 0].numpy(), atol=1e-5)


def test_maps_are_zero_outside_the_visible_box() -> None:
    frame = Frame.center_cropped((300, 200), (256, 256), (224, 224))
    map_ = frame.map_to_original(np.ones((14, 14), dtype=np.float32))
    x0, y0, x1, y1 = visible_box(frame)
    rows, columns = np.nonzero(map_)
    assert x0 <= columns.min() + 0.5 < columns.max() + 0.5 <= x1
    assert y0 <= rows.min() + 0.5 < rows.max() + 0.5 <= y1
    assert map_.sum() == pytest.approx((x1 - x0) * (y1 - y0), rel=0.02)


@settings(max_examples=60, deadline=None)
@given(st.tuples(st.integers(1, 90), st.integers(1, 90)), st.sampled_from([32, 64, 128]))
def test_mask_sampling_matches_opencv(original: tuple[int, int], side: int) -> None:
    mask = np.random.default_rng(0).integers(0, 256, original[::-1]).astype(np.uint8)
    ours = Frame.resized(original, (side, side)).pixels_to_input(mask)
    np.testing.assert_array_equal(ours, cv2.resize(mask, (side, side), interpolation=cv2.INTER_NEAREST))


def test_the_crop_of_a_mask_is_that_of_the_resized_mask() -> None:
    mask = np.random.default_rng(0).integers(0, 256, (40, 30)).astype(np.uint8)
    whole = Frame.resized((30, 40), (64, 64)).pixels_to_input(mask)
    cropped = Frame.center_cropped((30, 40), (64, 64), (48, 32)).pixels_to_input(mask)
    np.testing.assert_array_equal(cropped, whole[16:48, 8:56])


def test_frames_are_values() -> None:
    one = Frame.resized((np.int64(5), 7), (224, 224))  # any number type
    assert one == Frame.resized((5, 7), (224, 224))
    assert hash(one) == hash(Frame.resized((5, 7), (224, 224)))
    with pytest.raises(AttributeError):
        one.scale = (1.0, 1.0)


@pytest.mark.parametrize("bad", [(0, 5), (5,), (2.5, 4), "ab", None, (5, -1), (float("nan"), 3), (float("inf"), 3)])
def test_a_bad_size_is_quoted(bad: Any) -> None:
    with pytest.raises(
        ValueError, match=r"original_size must be \(width, height\), two integers of at least 1"
    ) as error:
        Frame.resized(bad, (224, 224))
    assert repr(bad) in str(error.value)


@pytest.mark.parametrize("bad", [(1.0,), (float("nan"), 1.0), ("a", 1.0), None])
def test_a_bad_scale_or_offset_is_quoted(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"scale must be two finite numbers \(x, y\), got"):
        Frame((5, 5), (5, 5), bad)
    with pytest.raises(ValueError, match=r"offset must be two finite numbers \(x, y\), got"):
        Frame((5, 5), (5, 5), (1.0, 1.0), bad)
    with pytest.raises(ValueError, match=r"scale must be positive in x and y, got \(1.0, 0.0\)"):
        Frame((5, 5), (5, 5), (1.0, 0.0))


def test_a_crop_larger_than_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"crop_size \(224, 224\) does not fit into resized_size \(256, 200\)"):
        Frame.center_cropped((500, 300), (256, 200), (224, 224))


def test_wrong_shapes_are_refused() -> None:
    frame = Frame.identity((6, 4))
    with pytest.raises(ValueError, match=r"boxes must be \[N, 4\] as x0, y0, x1, y1, got shape \(4,\)"):
        frame.to_input([0, 0, 1, 1])
    with pytest.raises(ValueError, match=r"a map must be \[height, width\] .* got shape \(1, 2, 2\)"):
        frame.map_to_original(np.zeros((1, 2, 2), dtype=np.float32))
    with pytest.raises(ValueError, match=r"expected original pixels of shape \(4, 6\) .* got \(6, 4\)"):
        frame.pixels_to_input(np.zeros((6, 4), dtype=np.uint8))
