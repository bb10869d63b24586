"""How sure the numbers of a set are, how they differ by class and size, and if two runs really differ."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.stats import binomtest

from tokenloc.metrics.images import ImageRow
from tokenloc.metrics.totals import IOU_LEVELS

HITS = ("top1_cls", "top5_cls", "top1_loc", "top5_loc", "gt_known")
"""The columns of a row that are hits, and their mean an accuracy."""

SIZES = (0.0, 0.1, 0.25, 0.5, 1.0)
"""The edges of the classes of object size, in shares of the image; the last holds all that is larger, too."""


def confidence_intervals(
    rows: Sequence[ImageRow], level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> dict[str, list[float]]:
    """Return the percentile bootstrap intervals of the accuracies over images, at the threshold of the rows.

    A resample draws as many images as there are, with replacement. Images with the same hits are alike, so that a
    resample is how often each of the few patterns of hits is drawn: one multinomial.

    Args:
        rows: Images; those where a metric is None take no part in it.
        level: The share of resamples inside of the interval, in (0, 1).
        resamples: How many.
        seed: Of the draws.

    Returns:
        For each metric that the images have, ``HITS`` and ``box_acc_δ``, [low, high] in percent.

    Raises:
        ValueError: where ``level`` is not in (0, 1) or ``resamples`` is not positive.
    """
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f"expected a level in (0, 1) and at least 1 resample, got {level!r} and {resamples!r}")
    names = [*HITS, *(f"box_acc_{delta:g}" for delta in IOU_LEVELS)]
    hits = np.array([_hits(row) for row in rows], dtype=np.float64).reshape(-1, len(names))  # NaN where None
    patterns, counts = np.unique(hits, axis=0, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(rows), counts / len(rows), size=resamples)
    measured = drawn @ ~np.isnan(patterns)
    with np.errstate(invalid="ignore"):
        percents = 100.0 * (drawn @ np.nan_to_num(patterns)) / measured
    known = np.asarray(~np.isnan(hits).all(axis=0))
    ends = [(1 - level) / 2, (1 + level) / 2]
    return {
        name: np.nanquantile(percents[:, column], ends).tolist() for column, name in enumerate(names) if known[column]
    }


def by_class(rows: Sequence[ImageRow], classes: Sequence[str]) -> dict[str, dict[str, float | int | None]]:
    """Return images and accuracies in percent of each of ``classes`` that has an image; see ``HITS``."""
    return {
        classes[label]: accuracies(group)
        for label, group in sorted(_grouped(rows, lambda row: row.label).items(), key=lambda item: item[0])
    }


def by_size(rows: Sequence[ImageRow]) -> list[dict[str, Any]]:
    """Return images and accuracies in percent by the size of the object: "from" and "to" are shares of the image."""
    boxed = [row for row in rows if row.object_fraction is not None]
    groups = _grouped(boxed, lambda row: int(np.searchsorted(SIZES[1:-1], row.object_fraction or 0.0, "right")))
    return [
        {"from": low, "to": high, **accuracies(groups.get(index, []))}
        for index, (low, high) in enumerate(pairwise(SIZES))
    ]


def accuracies(rows: Sequence[ImageRow]) -> dict[str, float | int | None]:
    """Return how many ``rows`` there are, and their accuracies in percent; None where no row has a metric."""
    columns = {name: [getattr(row, name) for row in rows] for name in HITS}
    known = {name: [value for value in column if value is not None] for name, column in columns.items()}
    means = {name: 100.0 * float(np.mean(values)) if values else None for name, values in known.items()}
    return {"images": len(rows), **means}


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same images, by one metric.

    Args:
        metric: A name of ``HITS``.
        images: Images where both runs have it.
        first: Accuracy of the first run, in percent.
        second: Of the second.
        only_first: Images that the first run alone gets right.
        only_second: Images that the second alone does.
        p_value: How likely runs that are equally good would differ as much or more: McNemar's exact test, which is the
            sign test of the images that one run alone gets right.
        difference: The 95 % percentile bootstrap interval, over images, of the second's accuracy less the first's, in
            percent.
    """

    metric: str
    images: int
    first: float
    second: float
    only_first: int
    only_second: int
    p_value: float
    difference: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def compare(
    first: Mapping[str, float | None], second: Mapping[str, float | None], metric: str = "gt_known"
) -> Comparison | None:
    """Compare two runs by their hits (1 and 0, None where there is nothing to judge) on the images of one set, by id.

    Returns:
        None where no image has the metric in both.

    Raises:
        ValueError: where the runs have different images.
    """
    odd = sorted(first.keys() ^ second.keys())
    if odd:
        some = ", ".join(odd[:5]) + ("" if len(odd) <= 5 else f" and {len(odd) - 5} more")
        raise ValueError(f"the runs have different images; {len(odd)} are in one alone: {some}")
    pairs = [(first[id_], second[id_]) for id_ in first]
    both = np.array([pair for pair in pairs if None not in pair], dtype=bool).reshape(-1, 2)
    if not len(both):
        return None
    only_first, only_second = int((both[:, 0] & ~both[:, 1]).sum()), int((both[:, 1] & ~both[:, 0]).sum())
    apart = only_first + only_second
    p_value = float(binomtest(only_first, apart, 0.5).pvalue) if apart else 1.0
    a, b = (100.0 * both.mean(axis=0)).tolist()
    difference = _difference(only_first, only_second, len(both))
    return Comparison(metric, len(both), a, b, only_first, only_second, p_value, difference)


def _difference(
    only_first: int, only_second: int, images: int, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return the interval of a paired difference; images are of three kinds, so that a resample is one multinomial."""
    shares = np.array([only_first, only_second, images - only_first - only_second]) / images
    drawn = np.random.default_rng(seed).multinomial(images, shares, size=resamples)
    low, high = np.quantile(100.0 * (drawn[:, 1] - drawn[:, 0]) / images, [0.025, 0.975]).tolist()
    return low, high


def _hits(row: ImageRow) -> list[float | bool | None]:
    levels = [None if row.largest is None else row.largest >= delta for delta in IOU_LEVELS]
    return [*(getattr(row, name) for name in HITS), *levels]


def _grouped(rows: Sequence[ImageRow], key: Callable[[ImageRow], Hashable]) -> dict[Any, list[ImageRow]]:
    groups: dict[Any, list[ImageRow]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups
