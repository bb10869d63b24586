from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from tokenloc.boxes import Frame, get_protocol
from tokenloc.metrics import ImageScores, Totals, evaluate, score_image
from tokenloc.metrics.localization import LocalizationMetrics

SAT = get_protocol("sat")


def scored(count: int, **options: Any) -> list[ImageScores]:
    rng = np.random.default_rng(0)
    frame = Frame.resized((40, 30), (28, 28))
    found = []
    for index in range(count):
        boxes = [[5, 5, 30, 25]] if index % 3 else None
        mask = rng.integers(0, 2, (30, 40)) if index % 2 else None
        predicted = rng.permutation(7)[:5]
        maps = rng.random((1, 7, 7)).cumsum(axis=1)
        found.append(score_image(maps, [0], predicted, 0, frame=frame, boxes=boxes, mask=mask, **options))
    return found


def processes(parts: Sequence[Sequence[ImageScores]], **options: Any) -> list[LocalizationMetrics]:
    """Metrics of several processes, each of which gathers the states of all, as torch.distributed would."""
    metrics: list[LocalizationMetrics] = []
    turn = {"next": 0}

    def gather(state: torch.Tensor, group: Any = None) -> list[torch.Tensor]:
        name = list(metrics[0]._reductions)[turn["next"] % len(metrics[0]._reductions)]
        turn["next"] += 1
        return [torch.as_tensor(local[name]) for local in locals_]

    for part in parts:
        metric = LocalizationMetrics(dist_sync_fn=gather, distributed_available_fn=lambda: True, **options)
        metric.update(part)
        metrics.append(metric)
    locals_ = [{name: getattr(metric, name).clone() for name in metric._reductions} for metric in metrics]
    return metrics


@pytest.mark.parametrize("threshold", [None, 0.2])
@pytest.mark.parametrize("cuts", [(), (5,), (1, 8), (0, 0, 9)])
def test_any_number_of_processes_gives_the_same(cuts: tuple[int, ...], threshold: float | None) -> None:
    images = scored(11, protocol=SAT, threshold=threshold)
    expected = evaluate(Totals.of(images, SAT, threshold), SAT, threshold)
    edges = [0, *cuts, len(images)]
    parts = [images[low:high] for low, high in pairwise(edges)]
    for metric in processes(parts, protocol="sat", threshold=threshold):
        assert metric.compute() == expected


def test_batches_add_up() -> None:
    images = scored(9, protocol=SAT)
    metric = LocalizationMetrics(SAT)
    for start in range(0, 9, 2):
        metric.update(images[start : start + 2])
    assert metric.compute() == evaluate(Totals.of(images, SAT), SAT)
    assert metric.totals().images == 9
    metric.reset()
    metric.update([])
    assert metric.compute().images == 0


def test_states_are_integers_that_are_summed() -> None:
    metric = LocalizationMetrics("standard", threshold=0.4)
    for name, reduction in metric._reductions.items():
        assert getattr(metric, name).dtype == torch.int64, name
        assert reduction(torch.ones(3)) == 3, name
    assert set(metric._reductions) == set(Totals.__dataclass_fields__)


def test_a_bad_image_adds_nothing() -> None:
    metric = LocalizationMetrics("standard")
    with pytest.raises(ValueError, match="score images and add them up under one protocol and threshold"):
        metric.update([*scored(2, protocol=get_protocol("standard")), *scored(2, protocol=SAT)])
    assert metric.totals().images == 0


def test_bad_settings_are_told() -> None:
    with pytest.raises(ValueError, match="unknown protocol 'wsol'"):
        LocalizationMetrics("wsol")
    with pytest.raises(ValueError, match=r"a map threshold must be in \[0, 1\], got 1.5"):
        LocalizationMetrics("sat", threshold=1.5)
