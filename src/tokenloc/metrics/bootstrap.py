"""Bootstrap intervals of the metrics that are not a mean at one threshold: MaxBoxAcc, PxAP, pIoU.

In each resample an image counts as often as a Poisson variable of mean 1: for many images this equals drawing with
replacement, and images can be processed one by one.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from tokenloc.metrics.scores import ImageScores, Scorer
from tokenloc.metrics.statistics import ENDS, IOU_LEVELS, RESAMPLES, V1_LEVEL, V2_LEVELS, piou, pxap

BLOCK = 64
"""Images that are added in one matrix product."""


def bootstrap_intervals(
    images: Iterable[ImageScores], scorer: Scorer, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, list[float]]:
    """Return 95 % percentile bootstrap intervals; each resample searches its own best threshold.

    The order of the images, which ``scorer`` scored, matters for the random draws.

    Returns:
        [low, high] in percent for each metric that the images have, of ``max_box_acc_v1``, ``max_box_acc_v2``,
        ``max_box_acc_v2_largest``, ``pxap`` and ``piou``, see ``Evaluation``.
    """
    levels = np.array(IOU_LEVELS)[V2_LEVELS][:, None]
    grid = len(scorer.protocol.thresholds)
    generator = np.random.default_rng(seed)
    boxes = _WeightedSums((resamples, 2 * len(V2_LEVELS) * grid), generator)
    pixels = _WeightedSums((resamples, 2 * (len(scorer.pixel_edges) - 1)), generator)
    for image in images:
        if len(image.truth):
            boxes.add(np.stack([iou[:grid] >= levels for iou in (image.largest, image.any)]))
        if image.pixels.size:
            pixels.add(image.pixels)
    values: dict[str, NDArray[np.float64]] = {}
    sums, weights = boxes.totals()
    if weights.any():
        hits = sums.reshape(resamples, 2, len(V2_LEVELS), grid) / np.maximum(weights, 1)[:, None, None, None]
        best = 100.0 * hits.max(axis=3)
        values["max_box_acc_v1"] = best[:, 0, V2_LEVELS.index(V1_LEVEL)]
        values["max_box_acc_v2"] = best[:, 1].mean(axis=1)
        values["max_box_acc_v2_largest"] = best[:, 0].mean(axis=1)
    counts = pixels.totals()[0].reshape(resamples, 2, -1).round().astype(np.int64)
    for name, metric in (("pxap", pxap), ("piou", piou)):
        values[name] = np.array([value for one in counts if (value := metric(one)) is not None])
    return {name: np.quantile(metrics, ENDS).tolist() for name, metrics in values.items() if len(metrics)}


class _WeightedSums:
    """Sums of arrays, with other random weights in each resample."""

    def __init__(self, shape: tuple[int, int], generator: np.random.Generator) -> None:
        self._generator = generator
        self._sums = np.zeros(shape, dtype=np.float64)
        self._weights = np.zeros(shape[0], dtype=np.int64)
        self._block: list[NDArray[np.float32]] = []

    def add(self, array: NDArray[np.generic]) -> None:
        self._block.append(array.astype(np.float32).ravel())
        if len(self._block) == BLOCK:
            self.totals()

    def totals(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the sums [resamples, size] and the sums of the weights [resamples]."""
        if self._block:
            weights = self._generator.poisson(1.0, (len(self._weights), len(self._block)))
            self._sums += weights.astype(np.float32) @ np.stack(self._block)
            self._weights += weights.sum(axis=1)
            self._block.clear()
        return self._sums, self._weights
