"""If a confidence tells errors from hits: the risk-coverage curve and the area under it.

Whoever acts on the most confident images only, covers a share of them, and errs on a share of these: the selective risk
(El-Yaniv and Wiener, "On the foundations of noise-free selective classification", JMLR 2010). All is pure: arrays in,
numbers out. Images of equal confidence are in no order: each stands for the mean error among them.
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
"""What counts as an error: a box with IoU below 0.5 or 0.7, or a wrong class or box; None where that is not known."""


def selective_risks(confidence: ArrayLike, errors: ArrayLike) -> NDArray[np.float64]:
    """Return the risk-coverage curve: the mean error of the k most confident images, for k = 1 … N.

    Args:
        confidence: [N], any range; the larger the surer.
        errors: [N] in [0, 1], 1 where an image is wrong.

    Returns:
        [N] float64 in [0, 1]; entry k - 1 is the risk at coverage k / N, in the mean over all orders of ties.

    Raises:
        ValueError: where the two are not [N], N at least 1, or not finite.

    >>> selective_risks([0.9, 0.1, 0.8], [0, 1, 0]).round(2).tolist()
    [0.0, 0.0, 0.33]
    """
    sure, wrong = np.asarray(confidence, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    if sure.ndim != 1 or not sure.size or sure.shape != wrong.shape:
        raise ValueError(f"expected confidence and errors [N], N at least 1, got {sure.shape} and {wrong.shape}")
    if not (np.isfinite(sure).all() and np.isfinite(wrong).all()):
        raise ValueError("confidence and errors must be finite; got NaN or infinity")
    _, group, sizes = np.unique(-sure, return_inverse=True, return_counts=True)
    shared = np.bincount(group, wrong) / sizes
    return np.asarray(np.cumsum(np.repeat(shared, sizes)) / np.arange(1, len(sure) + 1))


def aurc(confidence: ArrayLike, errors: ArrayLike) -> float:
    """Return the area under the risk-coverage curve: the mean of ``selective_risks`` over all coverages 1/N … 1.

    As defined by Geifman, Uziel and El-Yaniv, "Bias-reduced uncertainty estimation for deep neural classifiers" (ICLR
    2019). Less is better: a confidence that says nothing has the error rate, see ``optimal_aurc`` for the least.
    """
    return float(selective_risks(confidence, errors).mean())


def optimal_aurc(errors: ArrayLike) -> float:
    """Return the AURC of a confidence that knows the errors: the least that there can be (Geifman et al.'s kappa*)."""
    return aurc(-np.asarray(errors, dtype=np.float64), errors)


def error_rate(confidence: ArrayLike, errors: ArrayLike, share: float = 0.5) -> float:
    """Return the mean error of the most confident ``share`` of images, in (0, 1], rounded up to whole images."""
    risks = selective_risks(confidence, errors)
    return float(risks[max(1, math.ceil(share * len(risks))) - 1])


def confidence_metrics(rows: Sequence[ImageRow]) -> dict[str, dict[str, float]]:
    """Return whether images with less confidence are wrong more often: for each of ``RISKS`` that is known, in percent.

    Returns:
        By the name of the risk: ``images``, ``error_rate_all``, ``error_rate_most_trusted_half``,
        ``error_rate_highest_score_half``, ``aurc``, ``aurc_class_score`` and ``aurc_optimal``. Empty where images have
        no confidence, or no truth to judge by.
    """
    found = {}
    for name, is_wrong in RISKS.items():
        judged = [(row.confidence, row.score, is_wrong(row)) for row in rows]
        known = np.array([one for one in judged if None not in one], dtype=np.float64).reshape(-1, 3)
        if len(known):
            found[name] = _summary(*known.T)
    return found


def _summary(
    confidence: NDArray[np.float64], score: NDArray[np.float64], errors: NDArray[np.float64]
) -> dict[str, float]:
    parts = {
        "error_rate_all": errors.mean(),
        "error_rate_most_trusted_half": error_rate(confidence, errors),
        "error_rate_highest_score_half": error_rate(score, errors),
        "aurc": aurc(confidence, errors),
        "aurc_class_score": aurc(score, errors),
        "aurc_optimal": optimal_aurc(errors),
    }
    return {"images": len(errors), **{name: 100 * float(value) for name, value in parts.items()}}
