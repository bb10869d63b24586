"""Bootstrap of the metrics that are not a share of images at one threshold: MaxBoxAcc, PxAP, pIoU.

The images come one by one and are not kept. In each resample an image counts as often as a Poisson variable of mean 1
says: for many images that is drawing with replacement, and needs nothing to be known of the others.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tokenloc.boxes import Protocol
from tokenloc.metrics.scores import ImageScores, pixel_edges
from tokenloc.metrics.statistics import V1_LEVEL, V2_LEVELS, piou, pxap
from tokenloc.metrics.totals import IOU_LEVELS

TOGETHER = 64
"""Images that are added in one matrix product."""

Array = NDArray[np.float32]


class Resamples:
    """Weighted sums of hits and pixels, for each of R resamples.

    Args:
        protocol: Of the scores; its grid of thresholds is searched in each resample anew.
        resamples: R.
        seed: Of the draws; the images' order matters, their number need not be known.
    """

    def __init__(self, protocol: Protocol, resamples: int = 1000, seed: int = 0) -> None:
        self._levels = np.array(IOU_LEVELS)[V2_LEVELS][:, None]
        self._grid = len(protocol.thresholds)
        self._generator = np.random.default_rng(seed)
        self._boxes = _Sums(resamples, 2 * len(V2_LEVELS) * self._grid)
        self._pixels = _Sums(resamples, 2 * (len(pixel_edges(protocol)) - 1))

    def add(self, scores: ImageScores) -> None:
        """Add an image that was scored under the protocol."""
        if scores.boxes is not None:
            kinds = (scores.boxes.largest[: self._grid], scores.boxes.any[: self._grid])
            hits = np.stack([kind >= self._levels for kind in kinds])
            self._boxes.add(hits.astype(np.float32).ravel(), self._generator)
        if scores.pixels is not None:
            self._pixels.add(scores.pixels.astype(np.float32).ravel(), self._generator)

    def intervals(self, level: float = 0.95) -> dict[str, list[float]]:
        """Return the percentile intervals [low, high], in percent, of the metrics that the images have.

        MaxBoxAcc V2 takes the hits of any component, ``max_box_acc_v2_largest`` those of the largest.
        """
        found: dict[str, list[float]] = {}
        if self._boxes.images:
            sums, weights = self._boxes.totals(self._generator)
            hits = sums.reshape(len(sums), 2, len(V2_LEVELS), self._grid) / np.maximum(weights, 1)[:, None, None, None]
            best = 100.0 * hits.max(axis=3)
            found["max_box_acc_v1"] = _ends(best[:, 0, V2_LEVELS.index(V1_LEVEL)], level)
            found["max_box_acc_v2"] = _ends(best[:, 1].mean(axis=1), level)
            found["max_box_acc_v2_largest"] = _ends(best[:, 0].mean(axis=1), level)
        if self._pixels.images:
            sums, _ = self._pixels.totals(self._generator)
            counts = sums.reshape(len(sums), 2, -1).round().astype(np.int64)
            measures: dict[str, Callable[[NDArray[np.int64]], float | None]] = {"pxap": pxap, "piou": piou}
            for name, measure in measures.items():
                values = [value for one in counts if (value := measure(one)) is not None]
                found |= {name: _ends(np.array(values), level)} if values else {}
        return found


class _Sums:
    """Sums of rows of numbers, weighted anew in each resample."""

    def __init__(self, resamples: int, width: int) -> None:
        self.images = 0
        self._sums = np.zeros((resamples, width), dtype=np.float64)
        self._weights = np.zeros(resamples, dtype=np.int64)
        self._waiting: list[Array] = []

    def add(self, row: Array, generator: np.random.Generator) -> None:
        self.images += 1
        self._waiting.append(row)
        if len(self._waiting) == TOGETHER:
            self._flush(generator)

    def totals(self, generator: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        if self._waiting:
            self._flush(generator)
        return self._sums, self._weights

    def _flush(self, generator: np.random.Generator) -> None:
        weights = generator.poisson(1.0, (len(self._sums), len(self._waiting)))
        self._sums += weights.astype(np.float32) @ np.stack(self._waiting)
        self._weights += weights.sum(axis=1)
        self._waiting.clear()


def _ends(values: NDArray[np.float64], level: float) -> list[float]:
    return [float(end) for end in np.quantile(values, [(1 - level) / 2, (1 + level) / 2])]
