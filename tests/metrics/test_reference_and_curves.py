from __future__ import annotations

import numpy as np
import pytest

from tokenloc.boxes import Frame, get_protocol
from tokenloc.metrics import constant_box_iou, iou_by_size, iou_distribution
from tokenloc.metrics.reference import center_box

STANDARD, SAT = get_protocol("standard"), get_protocol("sat")


def test_the_centre_box() -> None:
    frame = Frame.resized((640, 480), (200, 100))
    assert center_box(frame, 0.7).tolist() == pytest.approx([30, 15, 170, 85])
    assert center_box(frame, 1).tolist() == [0, 0, 200, 100]


@pytest.mark.parametrize("fraction", [0.25, 0.55, 0.95])
def test_the_iou_of_the_whole_image_is_the_fraction_of_the_object(fraction: float) -> None:
    truth = np.array([[0, 0, 100, 80 * fraction]])
    iou = constant_box_iou(truth, Frame.resized((100, 80), (224, 224)), STANDARD)
    assert iou[1] == pytest.approx(fraction)


def test_a_crop_protocol_judges_the_crop() -> None:
    """A box that fills the crop is hit, though it is not the whole image."""
    frame = SAT.frame((256, 256), (224, 224))
    centre, whole = constant_box_iou(np.array([[16.0, 16, 240, 240]]), frame, SAT)
    assert whole > 0.99
    assert centre == pytest.approx(0.7**2, abs=0.01)


def test_without_ground_truth_there_is_no_iou() -> None:
    assert constant_box_iou(np.zeros((0, 4)), Frame.identity((10, 10)), STANDARD).tolist() == []


def test_the_iou_distribution_has_only_correct_boxes() -> None:
    found = iou_distribution([0.1, 0.49, 0.5, 0.62, 0.74, 1.0], bins=5)
    assert found.edges.tolist() == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert found.counts.tolist() == [1, 1, 1, 0, 1]
    assert found.median == pytest.approx(0.68)
    assert iou_distribution([0.1]).median is None


def test_iou_by_size_is_the_mean_of_each_group() -> None:
    iou, fraction = [0.2, 0.4, 0.9, 0.5, 0.7], [0.1, 0.2, 0.25, 1.3, 0.99]
    edges, means = iou_by_size(iou, fraction, bins=4)
    assert edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
    np.testing.assert_allclose(means, [0.3, 0.9, np.nan, 0.6])
    with pytest.raises(ValueError, match=r"must both be \[N\], got shapes \(2,\) and \(1,\)"):
        iou_by_size([0.1, 0.2], [0.5])
