from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenloc.metrics.scores import pixel_histogram
from tokenloc.metrics.statistics import piou, pxap

EDGES = np.array([0.0, 0.25, 0.5, 0.75, 1.0, 2.0, 3.0])


def test_without_object_pixels_there_are_no_metrics() -> None:
    background = np.array([[5, 3], [0, 0]])
    assert (pxap(background), piou(background)) == (None, None)


pixels = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.6, 0.75, 1.0]), st.sampled_from([0, 1, 255])))


@settings(max_examples=200, deadline=None)
@given(pixels.filter(lambda found: any(kind == 1 for _, kind in found)))
def test_pixel_metrics_match_their_definition(found: list[tuple[float, int]]) -> None:
    scores, kinds = (np.array(column) for column in zip(*found, strict=True))
    counts = pixel_histogram(scores[None], kinds[None], EDGES)
    ious, curve = [], [(0.0, 1.0)]
    for threshold in EDGES[:-1][::-1]:
        above, kept = scores >= threshold, kinds != 255
        true = (above & (kinds == 1)).sum()
        positive = (above & kept).sum()
        ious.append(true / (positive + (kinds == 1).sum() - true))
        curve.append((true / (kinds == 1).sum(), true / positive if positive else 0.0))
    area = sum((high[0] - low[0]) * high[1] for low, high in pairwise(curve))
    assert pxap(counts) == pytest.approx(100 * area)
    assert piou(counts) == pytest.approx(100 * max(ious))


def test_a_perfect_map_has_full_pxap_and_piou() -> None:
    mask = np.array([[0, 1, 1, 255]])
    counts = pixel_histogram(np.array([[0.0, 1.0, 1.0, 1.0]]), mask, EDGES)
    assert counts.dtype == np.int64
    assert counts.tolist() == [[1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 2, 0]]
    assert pxap(counts) == piou(counts) == 100


def test_bad_masks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one shape, got \(2, 2\) and \(2, 3\)"):
        pixel_histogram(np.zeros((2, 3)), np.zeros((2, 2)), EDGES)
    with pytest.raises(ValueError, match=r"must be 0 \(background\), 1 \(object\) or 255 \(ignored\), got \[7, 128\]"):
        pixel_histogram(np.zeros((1, 3)), np.array([[0, 7, 128]]), EDGES)
