"""The flags that say how a model looks at images, and the map threshold that goes with the look."""

from __future__ import annotations

from dataclasses import replace

from tokenloc.boxes import Protocol
from tokenloc.boxes.protocols import checked_threshold
from tokenloc.data import ImageDataset
from tokenloc.inference import PredictionOptions
from tokenloc.models.metadata import ModelMetadata


def options_note(metadata: ModelMetadata, options: PredictionOptions) -> str:
    """Return a remark where the calibrated threshold was chosen for another options; empty where all is well.

    A fast options needs no threshold of its own: its maps hardly differ.
    """
    if metadata.threshold is None or metadata.threshold.options in (str(options), str(replace(options, fast=False))):
        return ""
    return f", but for other options ({metadata.threshold.options}, not {options}): run `tokenloc calibrate` with these"


Known = tuple[float | None, str | None]
"""A map threshold and where it comes from."""


def calibrated(metadata: ModelMetadata, options: PredictionOptions, dataset: ImageDataset) -> Known:
    """Return the threshold that was calibrated, and a mark where it was by the very images of ``dataset``."""
    if metadata.threshold is None:
        return None, None
    seen = metadata.threshold.images == f"{dataset.split} of {dataset.name}"
    mark = "; chosen on the very images that are measured, as an oracle" if seen else ""
    return metadata.threshold.value, metadata.threshold.source + options_note(metadata, options) + mark


def threshold_of(protocol: Protocol, given: float | None, usual: Known) -> Known:
    """Return the ``given`` threshold, else the ``usual`` one where the protocol wants it; None for its own rule."""
    if given is not None:
        return checked_threshold(given), "given on the command line"
    return usual if protocol.threshold_rule == "calibrated" else (None, None)
