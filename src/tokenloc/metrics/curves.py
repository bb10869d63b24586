"""Distributions over the images of a set, for figures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class IouDistribution:
    """The IoU histogram of correct boxes (SAT, Fig. 5).

    Attributes:
        edges: [bins + 1] float64, from the lowest IoU of a correct box to 1.
        counts: [bins] int64 images.
        median: of the correct boxes; None without any.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    median: float | None


def iou_distribution(iou: ArrayLike, correct: float = 0.5, bins: int = 25) -> IouDistribution:
    """Return the distribution of the values of ``iou`` [N] that are at least ``correct``.

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
    """Return the mean IoU by object size (SAT, Fig. 6).

    Args:
        iou: [N] in [0, 1], one per image.
        object_fraction: [N] area of the object divided by that of the image; values above 1 count as 1.
        bins: number of size groups, of equal width.

    Returns:
        The edges of the groups [bins + 1], and the mean IoU [bins] float64, NaN for an empty group.

    Raises:
        ValueError: if the lengths differ.
    """
    values, sizes = np.asarray(iou, dtype=np.float64), np.asarray(object_fraction, dtype=np.float64)
    if values.ndim != 1 or values.shape != sizes.shape:
        raise ValueError(f"iou and object_fraction must both be [N], got shapes {values.shape} and {sizes.shape}")
    edges = np.linspace(0.0, 1.0, bins + 1)
    sizes = np.clip(sizes, 0.0, 1.0)
    images, _ = np.histogram(sizes, bins=edges)
    sums, _ = np.histogram(sizes, bins=edges, weights=values)
    return edges, np.where(images > 0, sums / np.maximum(images, 1), np.nan)
