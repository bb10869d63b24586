"""Measuring a model on a dataset, and choosing its map threshold on another split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from tokenloc.boxes import Protocol
from tokenloc.data import (
    ImageDataset,
    Located,
    Preprocessing,
    Unreadable,
    evaluation_loader,
)
from tokenloc.inference.viewing import Viewer, Viewing
from tokenloc.methods import Method
from tokenloc.metrics import Evaluation, ImageScores, constant_box_accuracy, score_image, top_classes
from tokenloc.metrics.localization import LocalizationMetrics
from tokenloc.training.checkpoint import Threshold

Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]
CONSTANT_BOXES = {"centre 70 % box": 0.7, "whole-image box": 1.0}


@dataclass(frozen=True)
class Measured:
    """What ``measure`` found.

    Attributes:
        evaluation: all metrics.
        scores: of each image that could be read, in the order of the dataset.
        constant_boxes: GT(δ) in percent of boxes that ignore the picture, by their name; empty without true boxes.
        unreadable: the pictures that could not be read: they are in no number.
    """

    evaluation: Evaluation
    scores: list[ImageScores]
    constant_boxes: dict[str, dict[float, float]] = field(default_factory=dict)
    unreadable: list[Unreadable] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the form of ``metrics.json``."""
        constant = {
            name: {f"{level:g}": value for level, value in box.items()} for name, box in self.constant_boxes.items()
        }
        unreadable = [{"id": item.id, "reason": item.reason} for item in self.unreadable]
        return {**self.evaluation.to_dict(), "constant_boxes": constant, "unreadable": unreadable}


def measure(
    model: Method,
    dataset: ImageDataset,
    preprocessing: Preprocessing,
    protocol: Protocol,
    threshold: float | None = None,
    *,
    viewing: Viewing | None = None,
    batch_size: int = 32,
    workers: int = 0,
    progress: Progress | None = None,
) -> Measured:
    """Measure a model on a dataset under a protocol.

    Args:
        model: is put in evaluation mode and left in the mode it was in.
        dataset: with boxes or masks, or without: then only classification is measured.
        preprocessing: of the model.
        protocol: how pictures are shown, maps become boxes, and boxes are judged.
        threshold: a fixed map threshold in [0, 1]; None for the protocol's own rule.
        viewing: how the model looks at pictures; None for plainly.
        batch_size: images that pass the network together.
        workers: processes that read pictures.
        progress: wraps the batches, to show how far it is.

    Raises:
        ValueError: where no picture at all could be read, or a map has values that are not finite.
    """
    viewer = Viewer(viewing or Viewing(), preprocessing, protocol)
    loader = evaluation_loader(dataset, viewer.transform, batch_size, workers=workers)
    batches: Iterable[Any] = progress(loader, "measuring", len(loader)) if progress else loader
    scores: list[ImageScores] = []
    truths: list[tuple[Any, Any]] = []
    unreadable: list[Unreadable] = []
    with evaluating(model):
        for batch in batches:
            unreadable += batch.unreadable
            scores += _score_batch(model, viewer, dataset, batch, protocol, threshold)
            truths += [(dataset[index].boxes, frame) for index, frame in zip(batch.indices, batch.frames, strict=True)]
    if not scores:
        raise ValueError(f"none of the {len(dataset)} pictures could be read; the first: {unreadable[0].reason}")
    metrics = LocalizationMetrics(protocol, threshold)
    metrics.update(scores)
    constant = {name: constant_box_accuracy(truths, protocol, share) for name, share in CONSTANT_BOXES.items()}
    known = {name: accuracy for name, accuracy in constant.items() if accuracy is not None}
    return Measured(metrics.compute(), scores, known, unreadable)


def _score_batch(
    model: Method,
    viewer: Viewer,
    dataset: ImageDataset,
    batch: Located,
    protocol: Protocol,
    threshold: float | None,
) -> Iterator[ImageScores]:
    """Yield the scores of the pictures of a batch; only the true class's map is judged, which is what metrics need."""
    if not batch.indices:
        return
    device = next(model.parameters()).device
    logits, maps = viewer.locate(model, batch.images.to(device), batch.labels[:, None].to(device))
    predictions = logits.float().cpu().numpy(), maps.float().cpu().numpy()
    rows = zip(batch.indices, batch.frames, batch.masks, *predictions, strict=True)
    for index, frame, mask, scores, class_maps in rows:
        sample = dataset[index]
        yield score_image(
            class_maps,
            [sample.label],
            top_classes(scores),
            sample.label,
            frame=frame,
            protocol=protocol,
            threshold=threshold,
            boxes=sample.boxes,
            mask=mask,
        )


def calibrate_threshold(
    model: Method,
    dataset: ImageDataset,
    preprocessing: Preprocessing,
    protocol: Protocol,
    *,
    viewing: Viewing | None = None,
    **options: Any,
) -> Threshold:
    """Choose the map threshold with the best GT-known on a dataset with boxes, which should not be the one measured.

    Args:
        model: the model.
        dataset: with boxes.
        preprocessing: of the model.
        protocol: of the boxes; its own threshold, where it has one, plays no part.
        viewing: how the model looks at pictures, for which the threshold is then meant; None for plainly.
        options: of ``measure``.

    Raises:
        ValueError: where the dataset has no boxes.
    """
    if not dataset.has_boxes:
        raise ValueError(f"{dataset.name} ({dataset.split}) has no boxes, by which a threshold could be chosen")
    viewing = viewing or Viewing()
    oracle = measure(model, dataset, preprocessing, protocol, viewing=viewing, **options).evaluation.oracle
    if oracle is None:
        raise ValueError(f"no box of {dataset.name} ({dataset.split}) lies inside its picture")
    seen = "" if viewing == Viewing() else f", {viewing}"
    photographs = f"{dataset.split} of {dataset.name} ({len(dataset)} photographs)"
    return Threshold(oracle.threshold, f"calibrated on {photographs}, protocol {protocol.name}{seen}", str(viewing))


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode without gradients; its modes are restored, also after errors."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
