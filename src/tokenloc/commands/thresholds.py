"""Which map threshold a command uses, and where it comes from. The texts are values of metrics.json: keep them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from tokenloc.boxes import Protocol
from tokenloc.boxes.protocols import checked_threshold
from tokenloc.data import ImageDataset
from tokenloc.inference import PredictionOptions
from tokenloc.methods import Method
from tokenloc.models.metadata import ModelMetadata
from tokenloc.refinement import StepChoice, describe_steps


class ThresholdChoice(NamedTuple):
    """A map threshold in [0, 1] and its source, for people; None leaves both to the protocol."""

    value: float | None = None
    source: str | None = None


def localize_threshold(
    model: Method, metadata: ModelMetadata, options: PredictionOptions, dataset: ImageDataset
) -> ThresholdChoice:
    """Return the threshold that `tokenloc localize` uses: the calibrated one, or else the default of the method.

    The source notes other options, and calibration on the evaluated images.
    """
    if metadata.threshold is None:
        return ThresholdChoice(model.default_threshold, f"the default of {metadata.model.method}; not calibrated")
    same = metadata.threshold.images == f"{dataset.split} of {dataset.name}"
    mark = "; chosen on the very images that are measured, as an oracle" if same else ""
    source = metadata.threshold.source + calibration_note(metadata, options, model.refinement) + mark
    return ThresholdChoice(metadata.threshold.value, source)


def calibration_note(metadata: ModelMetadata, options: PredictionOptions, steps: Sequence[StepChoice]) -> str:
    """Return a note if the threshold was calibrated for other options than these, else "".

    The threshold of the default precision is also that of ``fast``, and ``evidence`` does not change a box.
    ``steps`` are the model's own, which options without ``refine`` stand for.
    """
    if metadata.threshold is None:
        return ""
    own, options = describe_steps(steps), replace(options, evidence=False)
    same = [options, *([replace(options, refine=own)] if options.refine is None else [])]
    same += [replace(options, refine=None)] if options.refine == own else []
    if metadata.threshold.options in {str(replace(each, fast=fast)) for each in same for fast in (False, each.fast)}:
        return ""
    return f", but for other options ({metadata.threshold.options}, not {options}): run `tokenloc calibrate` with these"


def choose_threshold(protocol: Protocol, given: float | None, localized: ThresholdChoice) -> ThresholdChoice:
    """Return the ``given`` threshold, else the ``localized`` one if the protocol uses it, else the protocol's rule."""
    if given is not None:
        return ThresholdChoice(checked_threshold(given), "given on the command line")
    return localized if protocol.threshold_rule == "calibrated" else ThresholdChoice()
