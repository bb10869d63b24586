from __future__ import annotations

import numpy as np
import pytest

from tokenloc.boxes import Frame, get_protocol
from tokenloc.metrics import constant_box_iou

STANDARD, SAT = get_protocol("standard"), get_protocol("sat")


def test_constant_boxes_are_centred_in_the_network_input() -> None:
    frame = Frame.resized((640, 480), (200, 100))
    for row, box in enumerate(([30, 15, 170, 85], [0, 0, 200, 100])):
        assert constant_box_iou(frame.to_original([box]), frame, STANDARD)[row] == pytest.approx(1)


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
