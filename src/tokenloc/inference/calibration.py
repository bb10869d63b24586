"""Calibration of the map threshold without boxes, by evidence.

A box of area a (a fraction of the image) that ignores the object holds, on average, about the fraction a of what a
model recognises. The criterion is the evidence beyond that: the mean of p(class | inside) - p(class | outside) - a.
docs/results/own_photographs.md has the alternatives and the images that it was chosen on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

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
    batch_size: int = 32,
    workers: int = 0,
    progress: Progress | None = None,
) -> Threshold:
    """Choose the map threshold by evidence, on at most ``MOST`` images of known classes, spread over a dataset.

    Boxes, if there are any, are not used. The arguments are those of ``evaluate_model``; the threshold is meant for
    these ``options`` of prediction.

    Raises:
        ValueError: if no image is readable.
    """
    if len(dataset) > MOST:
        dataset = dataset.subset(np.linspace(0, len(dataset) - 1, MOST).round().astype(int))
    predictor = Predictor(model, preprocessing, options, protocol)
    rank, world = rank_and_world()
    loader = evaluation_loader(dataset, predictor.transform, batch_size, workers=workers, rank=rank, world_size=world)
    total = math.ceil(len(dataset) / batch_size)

    def measured() -> Iterator[tuple[list[Unreadable], list[Table]]]:
        for batch in loader:
            yield batch.unreadable, list(_measure(predictor, batch))

    unreadable: list[Unreadable] = []
    tables: list[Table] = []
    with evaluation_mode(model):
        batches = gather_in_order(measured(), total)
        for failed, measured_tables in progress(batches, "calibrating", total) if progress else batches:
            unreadable += failed
            tables += measured_tables
    if not tables:
        raise ValueError(f"no image of {dataset.name} ({dataset.split}) is readable; the first: {unreadable[0].reason}")
    suffix = "" if predictor.options == PredictionOptions() else f", {predictor.options}"
    images = f"{dataset.split} of {dataset.name} ({len(tables)} images)"
    source = f"chosen without boxes, by evidence on {images}, protocol {protocol.name}{suffix}"
    return Threshold(best_threshold(np.stack(tables)), source, str(predictor.options))


def best_threshold(tables: NDArray[np.float64]) -> float:
    """Return the candidate with the most evidence beyond the area of its boxes; ``tables`` are [N, 3, T]."""
    inside, outside, area = tables.mean(axis=0)
    return THRESHOLDS[int(np.argmax(inside - outside - area))]


def _measure(predictor: Predictor, batch: EvaluationBatch) -> Iterator[Table]:
    """Yield the table of each image of a batch."""
    if not len(batch):
        return
    maps = predictor.class_maps(batch.images, batch.labels[:, None]).maps[:, 0].cpu().numpy()
    for image, label, map_, frame in zip(batch.images, batch.labels, maps, batch.frames, strict=True):
        prepared = prepare_map(map_, frame.input_size, predictor.protocol)
        boxes, rows = np.unique(largest_boxes(prepared, THRESHOLDS, predictor.protocol), axis=0, return_inverse=True)
        masks = torch.stack([box_mask(box[None], frame.input_size) for box in boxes])
        images, labels = image.expand(len(masks), -1, -1, -1), label.expand(len(masks))
        inside, outside = (predictor.recognised(images, shown, labels).cpu() for shown in (masks, ~masks))
        areas = masks.float().mean(dim=(1, 2, 3))
        yield np.vstack([inside, outside, areas])[:, rows.reshape(-1)].astype(np.float64)
