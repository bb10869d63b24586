"""The flags that say how a model looks at pictures: --scales, --flip, --ten-crop, --refine."""

from __future__ import annotations

from tokenloc.inference import Viewing
from tokenloc.training.checkpoint import Card


def viewing_of(scales: list[int] | None, flip: bool, refine: list[str] | None, ten_crop: bool = False) -> Viewing:
    """Return the viewing that the flags mean; steps may be parted by commas, and ``none`` is no step.

    >>> viewing_of([224, 448], False, ["affinity,reprediction"]).refine
    ('affinity', 'reprediction')
    """
    steps = None if refine is None else tuple(step for word in refine for step in word.split(",") if step)
    return Viewing(tuple(scales or ()), flip, ten_crop, () if steps == ("none",) else steps)


def viewing_note(card: Card, viewing: Viewing) -> str:
    """Return a remark where the calibrated threshold was chosen for another viewing; empty where all is well."""
    if card.threshold is None or card.threshold.viewing == str(viewing):
        return ""
    return f", but for another viewing ({card.threshold.viewing}, not {viewing}): `tokenloc calibrate` chooses it anew"
