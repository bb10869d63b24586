"""The bootstrap of metrics that choose their own threshold, against the metrics of sets with repeated images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tokenloc.boxes import Frame, get_protocol
from tokenloc.metrics import ImageScores, Scorer, bootstrap_intervals, evaluate
from tokenloc.metrics.bootstrap import BLOCK
from tokenloc.metrics.statistics import ENDS

SCORER = Scorer(get_protocol("sat"))


def scored(seed: int) -> ImageScores:
    generator = np.random.default_rng(seed)
    corner = generator.integers(2, 14, 2)
    box = [*corner, *(corner + generator.integers(6, 16, 2))]
    mask = np.zeros((32, 32), dtype=np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 1
    map_ = generator.random((8, 8)) + 1.5 * mask[::4, ::4]
    return SCORER.score(map_, 0, [0], frame=Frame.identity((32, 32)), boxes=[box], mask=mask)


IMAGES = [scored(seed) for seed in range(BLOCK + 9)]


def test_each_resample_is_the_metric_of_the_repeated_images() -> None:
    intervals = bootstrap_intervals(IMAGES, SCORER, resamples=3, seed=5)
    generator = np.random.default_rng(5)
    # Boxes and pixels draw weights in turn for each full block, and again at the end.
    boxes_first, pixels_first = (generator.poisson(1.0, (3, BLOCK)) for _ in range(2))
    boxes_last, pixels_last = (generator.poisson(1.0, (3, 9)) for _ in range(2))
    times = {"boxes": np.hstack([boxes_first, boxes_last]), "pixels": np.hstack([pixels_first, pixels_last])}
    for name in ("max_box_acc_v1", "max_box_acc_v2", "max_box_acc_v2_largest", "pxap", "piou"):
        draws = times["pixels" if name in ("pxap", "piou") else "boxes"]
        sets = [[image for image, count in zip(IMAGES, row, strict=True) for _ in range(count)] for row in draws]
        values = [getattr(evaluate(images, SCORER), name) for images in sets]
        assert intervals[name] == pytest.approx(np.quantile(values, ENDS).tolist(), rel=1e-6)


def test_intervals_contain_the_metric_and_narrow_with_more_images() -> None:
    few, many = bootstrap_intervals(IMAGES[:20], SCORER), bootstrap_intervals(IMAGES * 4, SCORER)
    low, high = many["pxap"]
    pxap = evaluate(IMAGES, SCORER).pxap
    assert pxap is not None
    assert low < pxap < high
    assert high - low < few["pxap"][1] - few["pxap"][0]


def test_missing_ground_truth_gives_no_interval() -> None:
    assert bootstrap_intervals([], SCORER) == {}
    without_mask = replace(IMAGES[0], pixels=np.zeros((2, 0), np.int64))
    names = {"max_box_acc_v1", "max_box_acc_v2", "max_box_acc_v2_largest"}
    assert set(bootstrap_intervals([without_mask], SCORER)) == names
