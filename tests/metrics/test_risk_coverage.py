"""Risk and coverage against a brute-force version of their definition."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenloc.metrics.images import ImageRow
from tokenloc.metrics.risk_coverage import aurc, confidence_metrics, error_rate, optimal_aurc, selective_risks

PAIRS = st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.7, 0.9]), st.booleans()), min_size=1, max_size=5)


def slow_risks(confidence: list[float], errors: list[bool]) -> list[float]:
    """The error rate among the first k, averaged over all orders by descending confidence."""
    orders = [
        order
        for order in permutations(range(len(errors)))
        if all(confidence[a] >= confidence[b] for a, b in pairwise(order))
    ]
    return [
        float(np.mean([sum(errors[index] for index in order[:k]) / k for order in orders]))
        for k in range(1, len(errors) + 1)
    ]


@given(PAIRS)
def test_risks_match_the_definition(pairs: list[tuple[float, bool]]) -> None:
    confidence, errors = map(list, zip(*pairs, strict=True))
    expected = slow_risks(confidence, errors)
    np.testing.assert_allclose(selective_risks(confidence, errors), expected, atol=1e-12)
    assert aurc(confidence, errors) == pytest.approx(np.mean(expected))
    assert error_rate(confidence, errors) == pytest.approx(expected[(len(errors) + 1) // 2 - 1])
    assert error_rate(confidence, errors, 1.0) == pytest.approx(np.mean(errors))


@given(PAIRS)
def test_the_optimal_aurc_is_the_lowest_of_all_orders(pairs: list[tuple[float, bool]]) -> None:
    confidence, errors = map(list, zip(*pairs, strict=True))
    assert optimal_aurc(errors) <= aurc(confidence, errors) + 1e-12
    orders = set(permutations(errors))
    every = [np.mean([np.mean(order[:k]) for k in range(1, len(order) + 1)]) for order in orders]
    assert optimal_aurc(errors) == pytest.approx(min(every))


def test_the_aurc_of_an_uninformative_confidence_is_the_error_rate() -> None:
    errors = np.arange(200) % 5 == 0
    assert aurc(np.ones(200), errors) == pytest.approx(0.2)
    random = [aurc(np.random.default_rng(seed).random(200), errors) for seed in range(200)]
    assert np.mean(random) == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize(
    ("confidence", "errors", "message"),
    [
        ([], [], r"N at least 1, got \(0,\) and \(0,\)"),
        ([1, 2], [0], r"got \(2,\) and \(1,\)"),
        ([[1]], [[0]], r"got \(1, 1\)"),
        ([float("nan")], [0], "must be finite; got NaN"),
    ],
)
def test_bad_input_is_refused(confidence: list[float], errors: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        selective_risks(confidence, errors)


def test_confidence_metrics_of_rows() -> None:
    rows = [
        ImageRow("a", 0, 0, largest=0.9, top1_loc=True, score=0.5, confidence=0.9),
        ImageRow("b", 0, 0, largest=0.6, top1_loc=False, score=0.9, confidence=0.7),
        ImageRow("c", 0, 0, largest=0.2, top1_loc=False, score=0.8, confidence=0.1),
        ImageRow("d", 0, 0, score=0.8, confidence=0.1),  # no ground truth
    ]
    found = confidence_metrics(rows)
    assert set(found) == {"gt_known", "box_acc_0.7", "top1_loc"}
    assert found["gt_known"] == pytest.approx(
        {
            "images": 3,
            "error_rate_all": 100 / 3,
            "error_rate_most_trusted_half": 0,
            "error_rate_highest_score_half": 50,
            "aurc": 100 / 9,
            "aurc_class_score": 100 * (0 + 1 / 2 + 1 / 3) / 3,
            "aurc_optimal": 100 / 9,
        }
    )
    for name in ("box_acc_0.7", "top1_loc"):
        assert found[name]["error_rate_all"] == pytest.approx(200 / 3)
        assert found[name]["aurc"] == pytest.approx(100 * (0 + 1 / 2 + 2 / 3) / 3)


@pytest.mark.parametrize(
    "row", [ImageRow("a", 0), ImageRow("a", 0, largest=0.5), ImageRow("a", 0, score=1, confidence=1)]
)
def test_without_confidence_or_truth_there_are_no_metrics(row: ImageRow) -> None:
    assert confidence_metrics([row]) == {}
