"""IoU levels, pixel metrics, and the constants of bootstrap intervals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]

IOU_LEVELS = (0.3, 0.5, 0.7, 0.8, 0.9)
"""The IoU levels δ of GT(δ)."""

V1_LEVEL = IOU_LEVELS.index(0.5)
"""The index of the level of GT-known, MaxBoxAcc V1 and the best threshold."""

V2_LEVELS = [IOU_LEVELS.index(level) for level in (0.3, 0.5, 0.7)]
"""The indices of the levels that MaxBoxAcc V2 averages."""

RESAMPLES = 1000
ENDS = [(1 - 0.95) / 2, (1 + 0.95) / 2]
"""The quantiles of 95 % percentile bootstrap intervals."""


def piou(pixels: Counts) -> float | None:
    """Return pIoU: the best IoU of object pixels and pixels above a threshold (the left edge of a bin), in percent.

    ``pixels`` [2, bins] are background and object pixels by map value; None without object pixels.
    """
    if not pixels[1].any():
        return None
    background, hits = _above(pixels)
    return 100.0 * float((hits / (background + pixels[1].sum())).max())


def pxap(pixels: Counts) -> float | None:
    """Return PxAP (Choe et al. 2020): the area under the pixel precision-recall curve, in percent.

    As in the `wsol-eval` evaluator: the sum over bins, from the highest down, of precision times the step in recall.
    ``pixels`` as in ``piou``; None without object pixels.
    """
    if not pixels[1].any():
        return None
    background, hits = (counts[::-1] for counts in _above(pixels))
    precision = hits / np.maximum(hits + background, 1)
    recall = hits / hits[-1]
    return 100.0 * float((precision * np.diff(recall, prepend=0.0)).sum())


def _above(pixels: Counts) -> tuple[Counts, Counts]:
    """Return the background and the object pixels from the left edge of each bin on, two of [bins]."""
    background, hits = np.cumsum(pixels[:, ::-1], axis=1)[:, ::-1]
    return background, hits
