"""The flags that say how a model looks at images, and the map threshold that goes with the look."""

from __future__ import annotations

from dataclasses import replace

from tokenloc.boxes import Protocol
from tokenloc.boxes.protocols import checked_threshold
from tokenloc.data import ImageDataset
from tokenloc.inference import PredictionOptions
from tokenloc.models.metadata import ModelMetadata


def options_of(
    scales: list[int] | None, flip: bool, refine: list[str] | None, fast: bool, ten_crop: bool = False
) -> PredictionOptions:
    """Return the viewing that the flags mean; steps may be parted by commas, and ``none`` is no step.

    >>> options_of([224, 448], False, ["affinity,reprediction"], False).refine
    ('affinity', 'reprediction')
    """
    steps = None if refine is None else tuple(step for word in refine for step in word.split(",") if step)
    return PredictionOptions(tuple(scales or ()), flip, ten_crop, () if steps == ("none",) else steps, fast)


def options_note(metadata: ModelMetadata, viewing: PredictionOptions) -> str:
    """Return a remark where the calibrated threshold was chosen for another viewing; empty where all is well.

    A fast viewing needs no threshold of its own: its maps hardly differ.
    """
    if metadata.threshold is None or metadata.threshold.options in (str(viewing), str(replace(viewing, fast=False))):
        return ""
    return (
        f", but for another viewing ({metadata.threshold.options}, not {viewing}): `tokenloc calibrate` chooses it anew"
    )


Known = tuple[float | None, str | None]
"""A map threshold and where it comes from."""


def calibrated(metadata: ModelMetadata, viewing: PredictionOptions, dataset: ImageDataset) -> Known:
    """Return the threshold that was calibrated, and a mark where it was by the very images of ``dataset``."""
    if metadata.threshold is None:
        return None, None
    seen = metadata.threshold.images == f"{dataset.split} of {dataset.name}"
    mark = "; chosen on the very images that are measured, as an oracle" if seen else ""
    return metadata.threshold.value, metadata.threshold.source + options_note(metadata, viewing) + mark


def threshold_of(protocol: Protocol, given: float | None, usual: Known) -> Known:
    """Return the ``given`` threshold, else the ``usual`` one where the protocol wants it; None for its own rule."""
    if given is not None:
        return checked_threshold(given), "given on the command line"
    return usual if protocol.threshold_rule == "calibrated" else (None, None)
