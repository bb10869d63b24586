"""Calibration of the map threshold without boxes, by evidence.

A box of area a (a fraction of the image) that ignores the object holds, on average, about the fraction a of what a
model recognises. The criterion is the evidence beyond that: the mean of p(class | inside) - p(class | outside) - a.
docs/results/own_photographs.md has the alternatives and the images that it was chosen on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tokenloc.boxes import Protocol, largest_boxes, prepare_map
from tokenloc.data import EvaluationBatch, ImageDataset, Preprocessing, Unreadable, evaluation_loader
from tokenloc.inference.evaluation import Progress, evaluation_mode
from tokenloc.inference.evidence import box_mask
from tokenloc.inference.options import PredictionOptions
from tokenloc.inference.predictor import Predictor
from tokenloc.inference.processes import gather_in_order, rank_and_world
from tokenloc.methods import Method
from tokenloc.models.metadata import Threshold

THRESHOLDS = (0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)
"""The candidates, on maps scaled to [0, 1]."""

WITHOUT_EVIDENCE = "the classes are recognised no better in them than without them"
MOST = 300  # images, which limits the time on large datasets

Table = NDArray[np.float64]
"""[3, T]: the probability of the class inside and outside of a box, and the area of the box, at each threshold."""


def calibrate_without_boxes(
    model: Method,
    dataset: ImageDataset,
    preprocessing: Preprocessing,
    protocol: Protocol,
    *,
    options: PredictionOptions | None = None,
    **loading: Any,
) -> Threshold:
    """Choose the map threshold by evidence, on at most ``MOST`` images of known classes, spread over a dataset.

    Boxes, if there are any, are not used. The threshold is meant for these ``options`` of prediction; ``loading`` are
    further arguments of ``evidence_tables``, which raises the errors.
    """
    options = options or PredictionOptions()
    tables = evidence_tables(model, dataset, preprocessing, protocol, options=options, **loading)
    suffix = "" if options == PredictionOptions() else f", {options}"
    images = f"{dataset.split} of {dataset.name} ({len(tables)} images)"
    chosen = int(np.argmax(evidence_beyond_area(tables)))
    inside, outside, _ = tables.mean(axis=0)[:, chosen]
    source = f"chosen without boxes, by evidence on {images}, protocol {protocol.name}{suffix}"
    if inside <= outside:
        source += f"; warning: the boxes seem to be wrong, {WITHOUT_EVIDENCE}; train longer or another --model.method"
    return Threshold(THRESHOLDS[chosen], source, str(options))


def evidence_beyond_area(tables: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean evidence beyond the area of the boxes at each threshold, [T]; ``tables`` are [N, 3, T]."""
    inside, outside, area = tables.mean(axis=0)
    return np.asarray(inside - outside - area)


def evidence_tables(
    model: Method,
    dataset: ImageDataset,
    preprocessing: Preprocessing,
    protocol: Protocol,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    most: int = MOST,
    options: PredictionOptions | None = None,
    batch_size: int = 32,
    workers: int = 0,
    progress: Progress | None = None,
) -> NDArray[np.float64]:
    """Return the ``Table`` of at most ``most`` images of known classes, spread over a dataset, [N, 3, T].

    Those of ``BACKGROUND`` are left out. The arguments are those of ``evaluate_model``.

    Raises:
        ValueError: if no image is readable.
    """
    dataset = dataset.with_objects()
    if len(dataset) > most:
        dataset = dataset.subset(np.linspace(0, len(dataset) - 1, most).round().astype(int))
    predictor = Predictor(model, preprocessing, options, protocol)
    rank, world = rank_and_world()
    loader = evaluation_loader(dataset, predictor.transform, batch_size, workers=workers, rank=rank, world_size=world)
    total = math.ceil(len(dataset) / batch_size)

    def measured() -> Iterator[tuple[list[Unreadable], list[Table]]]:
        for batch in loader:
            yield batch.unreadable, list(_measure(predictor, batch, thresholds))

    unreadable: list[Unreadable] = []
    tables: list[Table] = []
    with evaluation_mode(model):
        batches = gather_in_order(measured(), total)
        for failed, measured_tables in progress(batches, "calibrating", total) if progress else batches:
            unreadable += failed
            tables += measured_tables
    if not tables:
        raise ValueError(f"no image of {dataset.name} ({dataset.split}) is readable; the first: {unreadable[0].reason}")
    return np.stack(tables)


def _measure(predictor: Predictor, batch: EvaluationBatch, thresholds: Sequence[float]) -> Iterator[Table]:
    """Yield the table of each image of a batch."""
    if not len(batch):
        return
    maps = predictor.class_maps(batch.images, batch.labels[:, None]).maps[:, 0].cpu().numpy()
    for image, label, map_, frame in zip(batch.images, batch.labels, maps, batch.frames, strict=True):
        prepared = prepare_map(map_, frame.input_size, predictor.protocol)
        boxes, rows = np.unique(largest_boxes(prepared, thresholds, predictor.protocol), axis=0, return_inverse=True)
        masks = torch.stack([box_mask(box[None], frame.input_size) for box in boxes])
        images, labels = image.expand(len(masks), -1, -1, -1), label.expand(len(masks))
        inside, outside = (predictor.recognised(images, shown, labels).cpu() for shown in (masks, ~masks))
        areas = masks.float().mean(dim=(1, 2, 3))
        yield np.vstack([inside, outside, areas])[:, rows.reshape(-1)].astype(np.float64)
