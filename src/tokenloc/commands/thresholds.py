"""Which map threshold a command uses, and where it comes from. The texts are values of metrics.json: keep them."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from tokenloc.boxes import Protocol
from tokenloc.boxes.protocols import checked_threshold
from tokenloc.data import ImageDataset
from tokenloc.inference import PredictionOptions
from tokenloc.models.metadata import ModelMetadata


class ThresholdChoice(NamedTuple):
    """A map threshold in [0, 1] and its source, for people; None leaves both to the protocol."""

    value: float | None = None
    source: str | None = None


def calibrated_threshold(metadata: ModelMetadata, options: PredictionOptions, dataset: ImageDataset) -> ThresholdChoice:
    """Return the calibrated threshold; the source notes other options, and calibration on the evaluated images."""
    if metadata.threshold is None:
        return ThresholdChoice()
    same = metadata.threshold.images == f"{dataset.split} of {dataset.name}"
    mark = "; chosen on the very images that are measured, as an oracle" if same else ""
    source = metadata.threshold.source + calibration_note(metadata, options) + mark
    return ThresholdChoice(metadata.threshold.value, source)


def calibration_note(metadata: ModelMetadata, options: PredictionOptions) -> str:
    """Return a note if the threshold was calibrated for other options than these, else "".

    The threshold of default precision is also that of ``fast``, and ``evidence`` does not change a box.
    """
    options = replace(options, evidence=False)
    if metadata.threshold is None or metadata.threshold.options in (str(options), str(replace(options, fast=False))):
        return ""
    return f", but for other options ({metadata.threshold.options}, not {options}): run `tokenloc calibrate` with these"


def choose_threshold(protocol: Protocol, given: float | None, calibrated: ThresholdChoice) -> ThresholdChoice:
    """Return the ``given`` threshold, else the ``calibrated`` one if the protocol uses it, else the protocol's rule."""
    if given is not None:
        return ThresholdChoice(checked_threshold(given), "given on the command line")
    return calibrated if protocol.threshold_rule == "calibrated" else ThresholdChoice()
