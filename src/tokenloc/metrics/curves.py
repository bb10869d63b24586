"""Distributions over the images of a set, for figures; the curve of accuracy against threshold is in Evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class IouDistribution:
    """How the IoU of correct boxes is spread (SAT, Fig. 5).

    Args:
        edges: [bins + 1] float64, from the least correct IoU to 1.
        counts: [bins] int64 images.
        median: Of the correct boxes; None where there is none.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    median: float | None


def iou_distribution(iou: ArrayLike, correct: float = 0.5, bins: int = 25) -> IouDistribution:
    """Return the distribution of those of ``iou`` [N] that are at least ``correct``.

    >>> iou_distribution([0.2, 0.5, 0.8, 0.9], bins=2)
    IouDistribution(edges=array([0.5 , 0.75, 1.  ]), counts=array([1, 2]), median=0.8)
    """
    values = np.asarray(iou, dtype=np.float64)
    hits = values[values >= correct]
    counts, edges = np.histogram(hits, bins=bins, range=(correct, 1.0))
    return IouDistribution(edges, counts, float(np.median(hits)) if hits.size else None)


def iou_by_size(
    iou: ArrayLike, object_fraction: ArrayLike, bins: int = 10
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean IoU of images by the size of their object (SAT, Fig. 6).

    Args:
        iou: [N] in [0, 1], an image each.
        object_fraction: [N] area of the object over the image's, in [0, 1]; larger ones count as 1.
        bins: How many classes of size, of equal width.

    Returns:
        The edges of the sizes [bins + 1], and the mean IoU [bins] float64, NaN where no image is of that size.

    Raises:
        ValueError: where the two have different lengths.
    """
    values, shares = np.asarray(iou, dtype=np.float64), np.asarray(object_fraction, dtype=np.float64)
    if values.ndim != 1 or values.shape != shares.shape:
        raise ValueError(f"iou and object_fraction must be [N] both, got shapes {values.shape} and {shares.shape}")
    edges = np.linspace(0.0, 1.0, bins + 1)
    shares = np.clip(shares, 0.0, 1.0)
    images, _ = np.histogram(shares, bins=edges)
    sums, _ = np.histogram(shares, bins=edges, weights=values)
    return edges, np.where(images > 0, sums / np.maximum(images, 1), np.nan)
