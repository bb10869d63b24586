"""Risk and coverage: whether a confidence separates errors from hits.

Acting on the most confident images only gives a coverage, the fraction of images, and a selective risk, the error
rate among them (El-Yaniv and Wiener, "On the foundations of noise-free selective classification", JMLR 2010). Images
of equal confidence have no order: each counts as the mean error among them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokenloc.metrics.images import ImageRow

RISKS: dict[str, Callable[[ImageRow], bool | None]] = {
    "gt_known": lambda row: None if row.largest is None else row.largest < 0.5,
    "box_acc_0.7": lambda row: None if row.largest is None else row.largest < 0.7,
    "top1_loc": lambda row: None if row.top1_loc is None else not row.top1_loc,
}
"""What counts as an error: IoU below 0.5 or 0.7, or a wrong class or box; None if unknown."""


def selective_risks(confidence: ArrayLike, errors: ArrayLike) -> NDArray[np.float64]:
    """Return the risk-coverage curve: the mean error of the k most confident images, for k = 1 … N.

    ``confidence`` [N] has any range, higher is more confident; ``errors`` [N] are in [0, 1], 1 for a wrong image.

    Returns:
        [N] float64 in [0, 1]; entry k - 1 is the risk at coverage k / N, averaged over all orders of ties.

    Raises:
        ValueError: if the arguments are not [N] with N ≥ 1, or not finite.

    >>> selective_risks([0.9, 0.1, 0.8], [0, 1, 0]).round(2).tolist()
    [0.0, 0.0, 0.33]
    """
    scores, wrong = np.asarray(confidence, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    if scores.ndim != 1 or not scores.size or scores.shape != wrong.shape:
        raise ValueError(f"expected confidence and errors [N], N at least 1, got {scores.shape} and {wrong.shape}")
    if not np.isfinite([scores, wrong]).all():
        raise ValueError("confidence and errors must be finite; got NaN or infinity")
    _, group, sizes = np.unique(-scores, return_inverse=True, return_counts=True)
    means = np.bincount(group, wrong) / sizes
    return np.asarray(np.cumsum(np.repeat(means, sizes)) / np.arange(1, len(scores) + 1))


def aurc(confidence: ArrayLike, errors: ArrayLike) -> float:
    """Return the area under the risk-coverage curve: the mean of ``selective_risks``.

    Defined by Geifman, Uziel and El-Yaniv, "Bias-reduced uncertainty estimation for deep neural classifiers" (ICLR
    2019). Lower is better; an uninformative confidence gives the error rate.
    """
    return float(selective_risks(confidence, errors).mean())


def optimal_aurc(errors: ArrayLike) -> float:
    """Return the lowest possible AURC, that of a confidence which knows the errors (Geifman et al.'s kappa*)."""
    return aurc(-np.asarray(errors, dtype=np.float64), errors)


def error_rate(confidence: ArrayLike, errors: ArrayLike, fraction: float = 0.5) -> float:
    """Return the mean error of the most confident ``fraction`` of images, in (0, 1], rounded up to whole images."""
    risks = selective_risks(confidence, errors)
    return float(risks[max(1, math.ceil(fraction * len(risks))) - 1])


def confidence_metrics(rows: Sequence[ImageRow]) -> dict[str, dict[str, float]]:
    """Return how well the confidence of boxes separates errors from hits, in percent, for each known risk of ``RISKS``.

    Empty without confidences or ground truth.
    """
    metrics: dict[str, dict[str, float]] = {}
    for name, is_wrong in RISKS.items():
        images = [(row.confidence, row.score, is_wrong(row)) for row in rows]
        known = np.array([image for image in images if None not in image], dtype=np.float64).reshape(-1, 3)
        if not len(known):
            continue
        confidence, score, errors = known.T
        values = {
            "error_rate_all": errors.mean(),
            "error_rate_most_trusted_half": error_rate(confidence, errors),
            "error_rate_highest_score_half": error_rate(score, errors),
            "aurc": aurc(confidence, errors),
            "aurc_class_score": aurc(score, errors),
            "aurc_optimal": optimal_aurc(errors),
        }
        metrics[name] = {"images": len(errors), **{key: 100 * float(value) for key, value in values.items()}}
    return metrics
