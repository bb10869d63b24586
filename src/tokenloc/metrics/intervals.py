"""Confidence intervals of a set's accuracies, accuracies by class and object size, and the comparison of two runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest

from tokenloc.metrics.images import ImageRow
from tokenloc.metrics.statistics import ENDS, IOU_LEVELS, RESAMPLES

HITS = ("top1_cls", "top5_cls", "top1_loc", "top5_loc", "gt_known")
"""The columns of a row that are hits; the mean of each is an accuracy."""

SIZES = (0.0, 0.1, 0.25, 0.5, 1.0)
"""Edges of the object size groups, as fractions of the image; the last group includes larger objects."""


def confidence_intervals(rows: Sequence[ImageRow]) -> dict[str, list[float]]:
    """Return 95 % percentile bootstrap intervals of the accuracies over images, at the threshold of the rows.

    A resample draws as many images as there are, with replacement. Images with the same hits are interchangeable, so
    a resample is one multinomial draw of how often each pattern of hits occurs.

    Returns:
        [low, high] in percent for each metric that the images have, of ``HITS`` and ``box_acc_δ``; an image without a
        metric is left out of it.
    """
    names = [*HITS, *(f"box_acc_{delta:g}" for delta in IOU_LEVELS)]
    hits = np.array([_hits(row) for row in rows], dtype=np.float64).reshape(-1, len(names))  # NaN for None
    patterns, counts = np.unique(hits, axis=0, return_counts=True)
    draws = np.random.default_rng(0).multinomial(len(rows), counts / len(rows), size=RESAMPLES)
    with np.errstate(invalid="ignore"):
        percents = 100.0 * (draws @ np.nan_to_num(patterns)) / (draws @ ~np.isnan(patterns))
    known = np.flatnonzero(~np.isnan(hits).all(axis=0))
    return {names[column]: np.nanquantile(percents[:, column], ENDS).tolist() for column in known}


def by_class(rows: Sequence[ImageRow], classes: Sequence[str]) -> dict[str, dict[str, float | int | None]]:
    """Return the ``accuracies`` of each of ``classes`` that has images."""
    groups: dict[int, list[ImageRow]] = {}
    for row in rows:
        groups.setdefault(row.label, []).append(row)
    return {classes[label]: accuracies(groups[label]) for label in sorted(groups)}


def by_size(rows: Sequence[ImageRow]) -> list[dict[str, Any]]:
    """Return the ``accuracies`` by object size: "from" and "to" are fractions of the image."""
    groups: list[list[ImageRow]] = [[] for _ in pairwise(SIZES)]
    for row in rows:
        if row.object_fraction is not None:
            groups[int(np.searchsorted(SIZES[1:-1], row.object_fraction, "right"))].append(row)
    edges = pairwise(SIZES)
    return [{"from": low, "to": high, **accuracies(group)} for (low, high), group in zip(edges, groups, strict=True)]


def iou_by_size(
    iou: ArrayLike, object_fraction: ArrayLike, bins: int = 10
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean of ``iou`` [N] by object size, in ``bins`` groups of equal width (SAT, Fig. 6).

    ``object_fraction`` [N] is the area of each object divided by that of its image; values above 1 count as 1.

    Returns:
        The edges of the groups [bins + 1], and the mean IoU [bins] float64, NaN for an empty group.
    """
    values, sizes = np.asarray(iou, dtype=np.float64), np.clip(object_fraction, 0.0, 1.0)
    edges = np.linspace(0.0, 1.0, bins + 1)
    images, _ = np.histogram(sizes, bins=edges)
    sums, _ = np.histogram(sizes, bins=edges, weights=values)
    return edges, np.where(images > 0, sums / np.maximum(images, 1), np.nan)


def accuracies(rows: Sequence[ImageRow]) -> dict[str, float | int | None]:
    """Return the number of ``rows`` and their accuracies in percent; None for a metric that no row has."""
    known = {name: [hit for row in rows if (hit := getattr(row, name)) is not None] for name in HITS}
    means = {name: 100.0 * float(np.mean(values)) if values else None for name, values in known.items()}
    return {"images": len(rows), **means}


@dataclass(frozen=True)
class Comparison:
    """One metric of two runs on the same images.

    Attributes:
        metric: one of ``HITS``.
        images: images where both runs have it.
        first, second: accuracies of the two runs, in percent.
        only_first, only_second: images that only this run gets right.
        p_value: of McNemar's exact test: the sign test on the images that only one run gets right.
        difference: 95 % percentile bootstrap interval, over images, of the second accuracy minus the first, in percent.
    """

    metric: str
    images: int
    first: float
    second: float
    only_first: int
    only_second: int
    p_value: float
    difference: tuple[float, float]


def compare(
    first: Mapping[str, float | None], second: Mapping[str, float | None], metric: str = "gt_known"
) -> Comparison | None:
    """Compare the hits of two runs (1, 0, or None if unknown), by image id.

    Returns:
        None if no image has the metric in both runs.

    Raises:
        ValueError: if the runs have different images.
    """
    differing = sorted(first.keys() ^ second.keys())
    if differing:
        some = ", ".join(differing[:5]) + ("" if len(differing) <= 5 else f" and {len(differing) - 5} more")
        raise ValueError(f"the runs have different images; {len(differing)} occur in only one of them: {some}")
    pairs = [(first[id_], second[id_]) for id_ in first]
    both = np.array([pair for pair in pairs if None not in pair], dtype=bool).reshape(-1, 2)
    if not len(both):
        return None
    only_first, only_second = int((both[:, 0] & ~both[:, 1]).sum()), int((both[:, 1] & ~both[:, 0]).sum())
    discordant = only_first + only_second
    p_value = float(binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0
    a, b = (100.0 * both.mean(axis=0)).tolist()
    # With three kinds of images a resample is one multinomial draw.
    fractions = np.array([only_first, only_second, len(both) - discordant]) / len(both)
    draws = np.random.default_rng(0).multinomial(len(both), fractions, size=RESAMPLES)
    low, high = np.quantile(100.0 * (draws[:, 1] - draws[:, 0]) / len(both), [0.025, 0.975]).tolist()
    return Comparison(metric, len(both), a, b, only_first, only_second, p_value, (low, high))


def _hits(row: ImageRow) -> list[float | bool | None]:
    levels = [None if row.largest is None else row.largest >= delta for delta in IOU_LEVELS]
    return [*(getattr(row, name) for name in HITS), *levels]
