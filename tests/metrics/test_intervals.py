from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from tokenloc.metrics.images import ImageRow
from tokenloc.metrics.intervals import by_class, by_size, compare, confidence_intervals, iou_by_size


def rows(count: int, fraction: float, seed: int = 0) -> list[ImageRow]:
    """Images, about ``fraction`` of which are hits; every fifth has no box."""
    rng = np.random.default_rng(seed)
    found = []
    for index, (hit, iou) in enumerate(zip(rng.random(count) < fraction, rng.random(count), strict=True)):
        row = ImageRow(str(index), index % 3, 0, bool(hit), True)
        boxed = {"largest": float(iou), "gt_known": bool(iou >= 0.5), "top1_loc": bool(hit and iou >= 0.5)}
        found.append(row if index % 5 == 0 else replace(row, **boxed, object_fraction=float(iou)))
    return found


def test_intervals_match_drawing_images() -> None:
    images = rows(200, 0.7)
    found = confidence_intervals(images)
    rng = np.random.default_rng(5)
    hits = np.array([np.nan if row.gt_known is None else row.gt_known for row in images])
    drawn = hits[rng.integers(0, 200, (4000, 200))]
    expected = np.quantile(100 * np.nanmean(drawn, axis=1), [0.025, 0.975])
    np.testing.assert_allclose(found["gt_known"], expected, atol=1)  # of 1000 resamples
    assert found["gt_known"] == found["box_acc_0.5"]
    assert found["top5_cls"] == [100, 100]
    assert "top5_loc" not in found
    assert found["box_acc_0.9"][1] < found["box_acc_0.3"][0]


def test_intervals_narrow_with_more_images() -> None:
    def width(images: list[ImageRow]) -> float:
        low, high = confidence_intervals(images)["top1_cls"]
        return high - low

    assert width(rows(1600, 0.5)) == pytest.approx(width(rows(100, 0.5)) / 4, rel=0.25)


def test_accuracies_by_class() -> None:
    images = [
        ImageRow("a", 0, 0, True, True, gt_known=True),
        ImageRow("b", 0, 1, False, True, gt_known=False),
        ImageRow("c", 2, 2, True, True),
    ]
    found = by_class(images, ["ant", "bee", "cat"])
    assert list(found) == ["ant", "cat"]
    localized = {"top1_loc": None, "top5_loc": None, "gt_known": 50}
    assert found["ant"] == {"images": 2, "top1_cls": 50, "top5_cls": 100, **localized}
    assert (found["cat"]["images"], found["cat"]["gt_known"]) == (1, None)


def test_accuracies_by_object_size() -> None:
    fractions = [0.0, 0.05, 0.1, 0.3, 0.99, 1.0, 1.2, None]
    images = [
        ImageRow(str(n), 0, gt_known=n % 2 == 0, object_fraction=fraction) for n, fraction in enumerate(fractions)
    ]
    found = by_size(images)
    assert [(group["from"], group["to"], group["images"]) for group in found] == [
        (0.0, 0.1, 2),
        (0.1, 0.25, 1),
        (0.25, 0.5, 1),
        (0.5, 1.0, 3),
    ]
    assert [group["gt_known"] for group in found] == [50, 100, 0, pytest.approx(200 / 3)]


def test_iou_by_size_is_the_mean_of_each_group() -> None:
    iou, fraction = [0.2, 0.4, 0.9, 0.5, 0.7], [0.1, 0.2, 0.25, 1.3, 0.99]
    edges, means = iou_by_size(iou, fraction, bins=4)
    assert edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
    np.testing.assert_allclose(means, [0.3, 0.9, np.nan, 0.6])


def test_the_p_value_is_that_of_the_sign_test() -> None:
    first = {"a": 1.0, "b": 1.0, "c": 1.0, "d": 0.0, "e": 1.0, "f": None, "g": 1.0}
    second = {"a": 0.0, "b": 0.0, "c": 0.0, "d": 1.0, "e": 1.0, "f": 1.0, "g": 0.0}
    found = compare(first, second, metric="gt_known")
    assert found is not None
    assert (found.images, found.only_first, found.only_second) == (6, 4, 1)
    assert (found.first, found.second) == (pytest.approx(500 / 6), pytest.approx(200 / 6))
    splits = [sum(coins) for coins in product([0, 1], repeat=5)]
    assert found.p_value == pytest.approx(sum(min(n, 5 - n) <= 1 for n in splits) / len(splits))


def test_equal_runs_and_runs_without_the_metric() -> None:
    found = compare({"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 0.0})
    assert found is not None
    assert (found.only_first, found.only_second, found.p_value) == (0, 0, 1.0)
    assert compare({"a": None}, {"a": 1.0}) is None


def test_runs_on_different_images_are_refused() -> None:
    with pytest.raises(ValueError, match="different images; 2 occur in only one of them: b, c$"):
        compare({"a": 1.0, "b": 1.0}, {"a": 1.0, "c": 1.0})
    with pytest.raises(ValueError, match="7 occur in only one of them: 0, 1, 2, 3, 4 and 2 more"):
        compare({str(n): 1.0 for n in range(7)}, {})


def test_the_interval_of_a_difference_matches_drawing_pairs() -> None:
    rng = np.random.default_rng(2)
    first, second = rng.random(300) < 0.6, rng.random(300) < 0.7
    runs = ({str(index): float(hit) for index, hit in enumerate(run)} for run in (first, second))
    found = compare(*runs)
    assert found is not None
    drawn = rng.integers(0, 300, (4000, 300))
    expected = np.quantile(100 * (second[drawn].mean(axis=1) - first[drawn].mean(axis=1)), [0.025, 0.975])
    np.testing.assert_allclose(found.difference, expected, atol=0.8)
    assert found.difference[0] < found.second - found.first < found.difference[1]
