from __future__ import annotations

import numpy as np
import pytest
import torch

from tokenloc.boxes import get_protocol, list_protocols, prepare_map, quantised_map, ready_map, scaled_map

RNG = np.random.default_rng(0)


def upsampled(map_: np.ndarray, size: tuple[int, int], mode: str) -> np.ndarray:
    tensor = torch.from_numpy(map_)[None, None]
    out = torch.nn.functional.interpolate(tensor, size=size[::-1], mode=mode, align_corners=False)
    return out[0, 0].numpy()


def min_max(map_: np.ndarray, epsilon: float = 0.0) -> np.ndarray:
    return (map_ - map_.min()) / (map_.max() - map_.min() + epsilon)


def test_protocols_scale_in_different_orders() -> None:
    map_ = RNG.normal(size=(7, 5)).astype(np.float32)
    size = (90, 61)
    expected = {
        "standard": upsampled(min_max(map_), size, "bilinear"),
        "sat": upsampled(min_max(map_, 1e-5), size, "bilinear"),
        "ts-cam": min_max(upsampled(map_, size, "bilinear")),
        "wsol-eval": min_max(upsampled(map_, size, "bicubic")),
    }
    expected |= dict.fromkeys(("scm", "lctr", "lctr-ilsvrc", "ts-cam-ilsvrc"), expected["ts-cam"])
    assert sorted(expected) == list_protocols()
    for name, oracle in expected.items():
        ours = scaled_map(map_, size, get_protocol(name))
        assert ours.shape == (61, 90)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, oracle, atol=1e-5, err_msg=name)
    assert np.abs(expected["standard"] - expected["ts-cam"]).max() > 1e-3


def test_quantisation_truncates() -> None:
    map_ = np.array([[0.0, 0.999 / 255, 1.999 / 255, 254.9 / 255, 1.0]], dtype=np.float32)
    assert quantised_map(map_).tolist() == [[0, 0, 1, 254, 255]]


@pytest.mark.parametrize("name", list_protocols())
@pytest.mark.parametrize("value", [0.0, -3.0, 7.5])
def test_a_constant_map_becomes_zero(name: str, value: float) -> None:
    protocol = get_protocol(name)
    prepared = prepare_map(np.full((14, 14), value), (28, 28), protocol)
    assert not prepared.any()
    assert prepared.dtype == (np.uint8 if protocol.quantised else np.float32)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_values_are_located(value: float) -> None:
    map_ = np.zeros((4, 6), dtype=np.float32)
    map_[2, 5] = map_[3, 0] = value
    with pytest.raises(
        ValueError, match=r"2 of 24 values that are not finite, the first .* at row 2, column 5"
    ) as error:
        prepare_map(map_, (28, 28), get_protocol("standard"))
    assert str(np.float32(value)) in str(error.value)


@pytest.mark.parametrize("shape", [(3, 4, 4), (16,), (0, 4)])
def test_a_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"a map must be \[height, width\] with at least one cell, got shape"):
        prepare_map(np.zeros(shape), (28, 28), get_protocol("sat"))


def test_the_given_map_is_not_changed() -> None:
    map_ = RNG.normal(size=(28, 28)).astype(np.float32)
    before = map_.copy()
    for name in list_protocols():
        prepare_map(map_, (28, 28), get_protocol(name))
        prepare_map(map_[::-1].T, (28, 28), get_protocol(name))
    np.testing.assert_array_equal(map_, before)


def test_a_ready_map_is_unchanged_or_refused() -> None:
    map_ = np.linspace(0, 1, 20).reshape(4, 5)
    protocol = get_protocol("wsol-eval")
    assert ready_map(map_, (5, 4), protocol) is map_
    for wrong, message in [
        (
            map_.T,
            r"shape \(5, 4\), expected \(4, 5\) \(height, width\), the network input of protocol 'wsol-eval'",
        ),
        (map_ - 0.1, r"values from -0\.1 to 0\.9, expected \[0, 1\]"),
        (np.where(map_ > 0.99, np.nan, map_), "1 of 20 values that are not finite, the first nan at row 3, column 4"),
    ]:
        with pytest.raises(ValueError, match=message):
            ready_map(wrong, (5, 4), protocol)
