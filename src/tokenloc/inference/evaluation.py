"""Evaluation of a model on a dataset, and calibration of its map threshold on another split."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenloc._names import counted
from tokenloc.boxes import Protocol, largest_boxes, prepare_map
from tokenloc.boxes.confidence import evident_confidence
from tokenloc.data import EvaluationBatch, ImageDataset, Preprocessing, Unreadable, evaluation_loader
from tokenloc.data.base import BACKGROUND
from tokenloc.inference.evidence import box_mask
from tokenloc.inference.inputs import ORIGINALS, map_ahead
from tokenloc.inference.options import PredictionOptions
from tokenloc.inference.predictor import Predictor
from tokenloc.inference.processes import gather_in_order, rank_and_world
from tokenloc.methods import Method, top_classes
from tokenloc.metrics import Evaluation, ImageScores, Scorer, ScoreTable, bootstrap_intervals, evaluate
from tokenloc.metrics.images import ImageRow, image_row, write_rows
from tokenloc.metrics.intervals import by_class, by_size, confidence_intervals
from tokenloc.metrics.risk_coverage import confidence_metrics
from tokenloc.metrics.stored_boxes import save_boxes
from tokenloc.metrics.stored_maps import MapWriter
from tokenloc.models.metadata import Threshold

Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]
"""Wraps an iterable with a label and a total, to display progress."""


CLEARLY = 6  # images: the fewest for which McNemar's exact test of two thresholds can have p < 0.05


@dataclass(frozen=True)
class EvaluationResult:
    """The metrics of an evaluation.

    Attributes:
        images: a row for each readable image, in the order of the dataset, at the threshold of the metrics.
        intervals: see ``bootstrap_intervals``.
        unreadable: images that could not be read, which are in no metric.
        missing: ids of images without "boxes" or "masks" although others have them; "images" that the dataset's lists
            name but that do not exist; "classes" without an evaluated image.
    """

    evaluation: Evaluation
    images: list[ImageRow]
    classes: Sequence[str] = ()
    intervals: dict[str, list[float]] = field(default_factory=dict)
    unreadable: list[Unreadable] = field(default_factory=list)
    missing: dict[str, list[str]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``metrics.json``."""
        return {
            **self.evaluation.to_dict(),
            "confidence": {**confidence_intervals(self.images), **self.intervals},
            "per_class": by_class(self.images, self.classes),
            "by_size": by_size(self.images),
            "median_iou": _percent_of(np.median, [row.largest for row in self.images if row.gt_known]),
            "mask_iou": _percent_of(np.mean, [row.mask_iou for row in self.images if row.mask_iou is not None]),
            "constant_boxes": self.evaluation.constant_boxes,
            "trust": confidence_metrics(self.images),
            "unreadable": [{"id": image.id, "reason": image.reason} for image in self.unreadable],
            "missing": self.missing,
        }

    def save_images(self, path: Path) -> None:
        """Write the rows as ``images.csv``."""
        write_rows(path, self.images, self.classes)


def _percent_of(statistic: Callable[[Any], Any], values: Sequence[float | None]) -> float | None:
    return 100.0 * float(statistic(values)) if values else None


def evaluate_scores(
    images: Iterable[ImageScores | Unreadable], dataset: ImageDataset, scorer: Scorer, boxes: Path | None = None
) -> EvaluationResult:
    """Evaluate the scored images of a dataset, one by one in its order; memory grows by a small row for each.

    ``boxes`` is where to write the boxes of all thresholds, see ``save_boxes``.

    Raises:
        ValueError: if no image is readable.
    """
    unreadable = []
    with TemporaryFile() as file:
        table = ScoreTable(file)
        for image in images:
            if isinstance(image, Unreadable):
                unreadable.append(image)
            else:
                table.append(image)
        if not len(table):
            reason = unreadable[0].reason if unreadable else "the dataset is empty"
            raise ValueError(f"none of the {len(unreadable)} images could be evaluated; the first: {reason}")
        if boxes is not None:
            save_boxes(boxes, table, scorer)
        evaluation = evaluate(table, scorer)
        intervals = bootstrap_intervals(table, scorer)
        fixed = scorer.fixed_threshold is not None or evaluation.threshold is None
        column = -1 if fixed else scorer.protocol.thresholds.index(evaluation.threshold)
        pixel_bin = None if evaluation.threshold is None else scorer.pixel_bin(evaluation.threshold)
        rows: list[ImageRow] = []
        without: dict[str, list[str]] = {"boxes": [], "masks": []}
        for image in table:
            rows.append(image_row(image, column, scorer.protocol, pixel_bin))
            if dataset.classes[image.label] != BACKGROUND:
                without["boxes"] += [] if len(image.truth) else [image.id]
                without["masks"] += [] if image.pixels.size else [image.id]
    labels = {row.label for row in rows}
    objects = sum(dataset.classes[row.label] != BACKGROUND for row in rows)
    missing = {
        **{name: [] if len(ids) == objects else ids for name, ids in without.items()},
        "images": list(dataset.skipped),
        "classes": [name for label, name in enumerate(dataset.classes) if label not in labels],
    }
    return EvaluationResult(evaluation, rows, dataset.classes, intervals, unreadable, missing)


def evaluate_model(
    model: Method,
    dataset: ImageDataset,
    preprocessing: Preprocessing,
    scorer: Scorer,
    *,
    options: PredictionOptions | None = None,
    batch_size: int = 32,
    workers: int = 0,
    progress: Progress | None = None,
    maps: MapWriter | None = None,
    boxes: Path | None = None,
) -> EvaluationResult:
    """Evaluate a model on a dataset, in all processes of ``torch.distributed`` together.

    Each process gets the full result, bit-identical to that of a single process.

    Args:
        model: on its device; its training mode is restored.
        dataset: without boxes and masks only classification is evaluated.
        preprocessing: of the model.
        scorer: protocol and map threshold.
        options: of prediction.
        batch_size: images per forward pass.
        workers: processes that read images.
        progress: wraps the batches.
        maps: receives the maps and predicted classes.
        boxes: where to write the boxes of all thresholds, see ``save_boxes``.

    Raises:
        ValueError: if no image is readable, or a map is not finite.
    """
    predictor = Predictor(model, preprocessing, options, scorer.protocol)
    rank, world = rank_and_world()
    loader = evaluation_loader(dataset, predictor.transform, batch_size, workers=workers, rank=rank, world_size=world)
    total = math.ceil(len(dataset) / batch_size)
    predict = partial(_predict_batch, predictor, scorer)

    def scored_images() -> Iterator[ImageScores | Unreadable]:
        scored = (_score_batch(predictor, dataset, scorer, threads, *each) for each in predicted)
        batches = gather_in_order(scored, total)
        for unreadable, images, batch_maps in progress(batches, "evaluating", total) if progress else batches:
            yield from unreadable
            for image, map_ in zip(images, batch_maps, strict=True):
                if maps is not None:
                    maps.add(image.id, map_, image.predicted, image.frame, image.probability)
                yield image

    # One thread runs the network on the next batch while others find the boxes of this one.
    with (
        evaluation_mode(model),
        ThreadPoolExecutor() as threads,
        closing(map_ahead(predict, loader, ahead=1, threads=1)) as predicted,
    ):
        return evaluate_scores(scored_images(), dataset, scorer, boxes)


def _predict_batch(
    predictor: Predictor, scorer: Scorer, batch: EvaluationBatch
) -> tuple[EvaluationBatch, Tensor, NDArray[np.float32]]:
    """Return the batch, its logits [B, C] and the maps [B, K, h, w] that are judged, on the CPU."""
    if not batch.indices:
        return batch, torch.zeros(0, predictor.model.num_classes), np.zeros((0, 1, 1, 1), np.float32)
    prediction = predictor.class_maps(batch.images, scorer.protocol.judged_maps or batch.labels[:, None])
    return batch, prediction.logits.cpu(), prediction.maps.cpu().numpy()


def _score_batch(
    predictor: Predictor,
    dataset: ImageDataset,
    scorer: Scorer,
    threads: ThreadPoolExecutor,
    batch: EvaluationBatch,
    logits: Tensor,
    maps: NDArray[np.float32],
) -> tuple[list[Unreadable], list[ImageScores], NDArray[np.float32]]:
    """Return the unreadable images of a batch, and of the others the scores and the maps [B, h, w] that are judged."""
    if logits.isnan().any():
        raise ValueError("the model's logits contain NaN; check its weights, or evaluate in full precision")
    predicted = top_classes(logits, 5).numpy()
    probabilities = logits.softmax(dim=1).amax(dim=1).clamp(max=1).tolist()

    def score(row: int) -> ImageScores:
        sample, frame, mask = dataset[batch.indices[row]], batch.frames[row], batch.masks[row]
        with nullcontext() if mask is None else ORIGINALS.hold(frame.original_size):
            return scorer.score(
                maps[row, 0],
                sample.label,
                predicted[row],
                frame=frame,
                id_=sample.id,
                boxes=sample.boxes,
                mask=mask,
                probability=probabilities[row],
                top_maps=maps[row],
            )

    scored = list(threads.map(score, range(len(maps))))
    if predictor.options.evidence and scorer.fixed_threshold is not None and scored:
        scored = _with_evidence(predictor, scorer.fixed_threshold, batch.images, scored, maps[:, 0])
    return batch.unreadable, scored, maps[:, 0]


def _with_evidence(
    predictor: Predictor, threshold: float, images: Tensor, scored: Sequence[ImageScores], maps: NDArray[np.float32]
) -> list[ImageScores]:
    """Return the scores with the evidence of the largest component's box for the predicted class in the confidence.

    ``images`` [B, 3, H, W] are network inputs, and ``maps`` [B, h, w] those that are judged.
    """
    masks = []
    for one, map_ in zip(scored, maps, strict=True):
        prepared = prepare_map(map_, one.frame.input_size, predictor.protocol)
        masks.append(box_mask(largest_boxes(prepared, [threshold], predictor.protocol), one.frame.input_size))
    predicted = torch.tensor([int(one.predicted[0]) for one in scored])
    inside = predictor.recognised(images, torch.stack(masks), predicted).tolist()
    evident = [
        evident_confidence(one.confidence or 0.0, one.probability or 0.0, seen)
        for one, seen in zip(scored, inside, strict=True)
    ]
    return [replace(one, confidence=float(each)) for one, each in zip(scored, evident, strict=True)]


def calibrate_threshold(
    model: Method,
    dataset: ImageDataset,
    preprocessing: Preprocessing,
    protocol: Protocol,
    *,
    options: PredictionOptions | None = None,
    report: Callable[[str], None] | None = None,
    **loading: Any,
) -> Threshold:
    """Choose the map threshold with the best GT-known on a dataset with boxes, which should not be the test set.

    The default of the method stays unless the best threshold gets at least ``CLEARLY`` more images right. The threshold
    is meant for these ``options`` of prediction. ``report`` receives the accuracies before and after; ``loading`` are
    further arguments of ``evaluate_model``.

    Raises:
        ValueError: if the dataset has no boxes.
    """
    if not dataset.has_boxes:
        raise ValueError(f"{dataset.name} ({dataset.split}) has no boxes, which calibration needs")
    options, default = options or PredictionOptions(), model.default_threshold
    result = evaluate_model(model, dataset, preprocessing, Scorer(protocol, default), options=options, **loading)
    before, best = result.evaluation.gt_known, result.evaluation.oracle
    if best is None or before is None:
        raise ValueError(f"no box of {dataset.name} ({dataset.split}) is inside its image")
    count = result.evaluation.images_with_boxes
    more = round((best.gt_known - before) * count / 100)
    images = f"{dataset.split} of {dataset.name}"
    where = f"on {images} ({count} images), protocol {protocol.name}"
    where += "" if options == PredictionOptions() else f", {options}"
    if report:
        report(f"GT-known {where}: {before:.1f} at the default {default:g}, {best.gt_known:.1f} at {best.threshold:g}")
    if more < CLEARLY:
        kept = f": the default, as {best.threshold:g} gets only {counted(more, 'image')} more right"
        return Threshold(default, f"calibrated {where}{kept}", str(options), images)
    return Threshold(best.threshold, f"calibrated {where}", str(options), images)


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode, and restore the modes of its modules, also after errors."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
