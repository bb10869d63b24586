"""The bootstrap of metrics that choose their own threshold, against the metrics of sets with images repeated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tokenloc.boxes import Frame, get_protocol
from tokenloc.metrics import ImageScores, score_image
from tokenloc.metrics.evaluation import evaluate
from tokenloc.metrics.resamples import TOGETHER, Resamples
from tokenloc.metrics.totals import Totals

PROTOCOL = get_protocol("sat")
FRAME = Frame.resized((32, 32), (32, 32))


def scored(seed: int) -> ImageScores:
    generator = np.random.default_rng(seed)
    corner = generator.integers(2, 14, 2)
    box = [*corner, *(corner + generator.integers(6, 16, 2))]
    mask = np.zeros((32, 32), dtype=np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 1
    map_ = generator.random((8, 8)) + 1.5 * mask[::4, ::4]
    return score_image(map_[None], [0], [0], 0, frame=FRAME, protocol=PROTOCOL, boxes=[box], mask=mask)


IMAGES = [scored(seed) for seed in range(TOGETHER + 9)]


def test_each_resample_is_the_metric_of_the_repeated_images() -> None:
    """Three resamples: their least and greatest values are the ends of the widest interval."""
    resamples = Resamples(PROTOCOL, resamples=3, seed=5)
    for image in IMAGES:
        resamples.add(image)
    found = resamples.intervals(level=1.0)
    generator = np.random.default_rng(5)
    # Boxes and pixels are flushed in turn when they are full, and each again at the end.
    boxes_first, pixels_first = (generator.poisson(1.0, (3, TOGETHER)) for _ in range(2))
    boxes_last, pixels_last = (generator.poisson(1.0, (3, 9)) for _ in range(2))
    times = {"boxes": np.hstack([boxes_first, boxes_last]), "pixels": np.hstack([pixels_first, pixels_last])}
    for name in ("max_box_acc_v1", "max_box_acc_v2", "max_box_acc_v2_largest", "pxap", "piou"):
        drawn = times["pixels" if name in ("pxap", "piou") else "boxes"]
        sets = [[image for image, count in zip(IMAGES, row, strict=True) for _ in range(count)] for row in drawn]
        values = [getattr(evaluate(Totals.of(images, PROTOCOL), PROTOCOL), name) for images in sets]
        assert found[name] == pytest.approx([min(values), max(values)], rel=1e-6)


def test_intervals_hold_the_metric_and_narrow_with_more_images() -> None:
    few, many = Resamples(PROTOCOL), Resamples(PROTOCOL)
    for image in IMAGES[:20]:
        few.add(image)
    for image in IMAGES * 4:
        many.add(image)
    low, high = many.intervals()["pxap"]
    measured = evaluate(Totals.of(IMAGES, PROTOCOL), PROTOCOL).pxap
    assert measured is not None
    assert low < measured < high
    assert high - low < few.intervals()["pxap"][1] - few.intervals()["pxap"][0]


def test_what_a_set_lacks_has_no_interval() -> None:
    resamples = Resamples(PROTOCOL)
    assert resamples.intervals() == {}
    resamples.add(replace(IMAGES[0], pixels=None))
    assert set(resamples.intervals()) == {"max_box_acc_v1", "max_box_acc_v2", "max_box_acc_v2_largest"}
