"""Prediction options from the flags of commands."""

from __future__ import annotations

from tokenloc.inference import PredictionOptions


def options_of(
    scales: list[int] | None, flip: bool, refine: list[str] | None, fast: bool, ten_crop: bool = False
) -> PredictionOptions:
    """Return the viewing that the flags mean; steps may be parted by commas, and ``none`` is no step.

    >>> options_of([224, 448], False, ["affinity,reprediction"], False).refine
    ('affinity', 'reprediction')
    """
    steps = None if refine is None else tuple(step for word in refine for step in word.split(",") if step)
    return PredictionOptions(tuple(scales or ()), flip, ten_crop, () if steps == ("none",) else steps, fast)
