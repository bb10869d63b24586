from __future__ import annotations

import numpy as np
import pytest

from tokenloc.boxes import Frame, get_protocol
from tokenloc.metrics import constant_box_accuracy, iou_by_size, iou_distribution
from tokenloc.metrics.reference import center_box

STANDARD, SAT = get_protocol("standard"), get_protocol("sat")


def test_the_centre_box() -> None:
    frame = Frame.resized((640, 480), (200, 100))
    assert center_box(frame, 0.7).tolist() == pytest.approx([30, 15, 170, 85])
    assert center_box(frame, 1).tolist() == [0, 0, 200, 100]


def test_the_whole_image_scores_the_share_of_the_object() -> None:
    shares = (0.25, 0.55, 0.75, 0.85, 0.95)
    truths = [([[0, 0, 100, 80 * share]], Frame.resized((100, 80), (224, 224))) for share in shares]
    expected = {0.3: 80, 0.5: 80, 0.7: 60, 0.8: 40, 0.9: 20}
    assert constant_box_accuracy(truths, STANDARD, share=1) == expected


def test_a_crop_protocol_judges_the_crop() -> None:
    """A box that fills the crop is hit there, though it is not the whole image."""
    frame = SAT.frame((256, 256), (224, 224))
    truths = [([[16, 16, 240, 240]], frame)]
    assert constant_box_accuracy(truths, SAT, share=1)[0.9] == 100
    assert constant_box_accuracy(truths, SAT, share=0.7) == {0.3: 100, 0.5: 0, 0.7: 0, 0.8: 0, 0.9: 0}


def test_images_without_a_possible_box_do_not_count() -> None:
    frame = Frame.identity((10, 10))
    hit, none, bad = ([[0, 0, 10, 10]], frame), ([], frame), ([[5, 5, 5, 9]], frame)
    assert constant_box_accuracy([hit, none, bad], STANDARD, share=1)[0.9] == 100
    assert constant_box_accuracy([none, bad], STANDARD) is None


@pytest.mark.parametrize("share", [0, -1, 1.5])
def test_a_bad_share_is_quoted(share: float) -> None:
    with pytest.raises(ValueError, match=rf"share must be in \(0, 1\] of the network's input, got {share}"):
        constant_box_accuracy([], STANDARD, share=share)


def test_the_iou_distribution_is_of_correct_boxes() -> None:
    found = iou_distribution([0.1, 0.49, 0.5, 0.62, 0.74, 1.0], bins=5)
    assert found.edges.tolist() == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert found.counts.tolist() == [1, 1, 1, 0, 1]
    assert found.median == pytest.approx(0.68)
    assert iou_distribution([0.1]).median is None


def test_iou_by_size_is_the_mean_of_each_class_of_size() -> None:
    iou, share = [0.2, 0.4, 0.9, 0.5, 0.7], [0.1, 0.2, 0.25, 1.3, 0.99]
    edges, means = iou_by_size(iou, share, bins=4)
    assert edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
    np.testing.assert_allclose(means, [0.3, 0.9, np.nan, 0.6])


def test_unequal_lengths_are_told() -> None:
    with pytest.raises(ValueError, match=r"must be \[N\] both, got shapes \(2,\) and \(1,\)"):
        iou_by_size([0.1, 0.2], [0.5])
