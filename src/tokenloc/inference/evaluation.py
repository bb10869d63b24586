"""Measuring a model on a dataset, and choosing its map threshold on another split."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from tempfile import TemporaryFile
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from tokenloc.boxes import Frame, Protocol
from tokenloc.data import (
    EvaluationBatch,
    ImageDataset,
    Preprocessing,
    Sample,
    Unreadable,
    evaluation_loader,
)
from tokenloc.inference.options import PredictionOptions
from tokenloc.inference.predictor import Predictor
from tokenloc.inference.processes import in_order, share
from tokenloc.inference.tally import EvaluationResult, Evaluator
from tokenloc.methods import Method
from tokenloc.metrics import ImageScores, score_image, top_classes
from tokenloc.metrics.stored_boxes import BoxWriter
from tokenloc.metrics.stored_maps import MapWriter
from tokenloc.models.metadata import Threshold

Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]


def measure(
    model: Method,
    dataset: ImageDataset,
    preprocessing: Preprocessing,
    protocol: Protocol,
    threshold: float | None = None,
    *,
    options: PredictionOptions | None = None,
    batch_size: int = 32,
    workers: int = 0,
    progress: Progress | None = None,
    save: MapWriter | None = None,
    keep: BoxWriter | None = None,
) -> EvaluationResult:
    """Measure a model on a dataset under a protocol; by all processes together where torch.distributed has several.

    Each process then gets the whole result, the same to the last bit as of one process alone.

    Args:
        model: is put in evaluation mode and left in the mode it was in.
        dataset: with boxes or masks, or without: then only classification is measured.
        preprocessing: of the model.
        protocol: how images are shown, maps become boxes, and boxes are judged.
        threshold: a fixed map threshold in [0, 1]; None for the protocol's own rule.
        options: how the model looks at images; None for plainly.
        batch_size: images that pass the network together.
        workers: processes that read images.
        progress: wraps the batches, to show how far it is.
        save: keeps the maps and predictions that are measured.
        keep: keeps the boxes at all thresholds.

    Raises:
        ValueError: where no image at all could be read, or a map has values that are not finite.
    """
    predictor = Predictor(model, preprocessing, options, protocol)
    rank, world_size = share()
    loader = evaluation_loader(
        dataset, predictor.transform, batch_size, workers=workers, rank=rank, world_size=world_size
    )
    total = math.ceil(len(dataset) / batch_size)
    unreadable: list[Unreadable] = []
    with evaluating(model), TemporaryFile() as scratch, ThreadPoolExecutor() as threads:
        score = partial(_score, protocol, threshold)
        batches: Iterable[_Found] = in_order(
            (_found(predictor, dataset, batch, score, threads) for batch in loader), total
        )
        tally = Evaluator(protocol, threshold, scratch)
        for broken, located in progress(batches, "measuring", total) if progress else batches:
            unreadable += broken
            for image, scores in located:
                tally.add(image.sample, image.frame, scores)
                if keep is not None:
                    keep.add(image.sample.id, image.frame, image.sample.boxes, scores)
                if save is not None:
                    made = image.map_, image.predicted, image.frame, image.probability
                    save.add(image.sample.id, *made)
        return tally.measured(dataset, unreadable)


class _LocatedSample(NamedTuple):
    """An image's map [h, w] of the true class, which is the one that metrics need, and its first predicted classes.

    ``probability`` is that of the first.
    """

    sample: Sample
    frame: Frame
    mask: NDArray[np.uint8] | None
    map_: NDArray[np.float32]
    predicted: NDArray[np.int64]
    probability: float


_Found = tuple[list[Unreadable], list[tuple[_LocatedSample, ImageScores]]]
"""A batch's broken images, and the others with their scores."""


def _found(
    predictor: Predictor,
    dataset: ImageDataset,
    batch: EvaluationBatch,
    score: Callable[[_LocatedSample], ImageScores],
    threads: ThreadPoolExecutor,
) -> _Found:
    located = list(_located(predictor, dataset, batch))
    scores = threads.map(score, located)
    return batch.unreadable, [(image._replace(mask=None), one) for image, one in zip(located, scores, strict=True)]


def _located(predictor: Predictor, dataset: ImageDataset, batch: EvaluationBatch) -> Iterator[_LocatedSample]:
    if not batch.indices:
        return
    predicted = predictor.class_maps(batch.images, batch.labels[:, None].to(predictor.device))
    probabilities = predicted.logits.softmax(dim=1).amax(dim=1).clamp(max=1).tolist()
    predictions = predicted.logits.cpu().numpy(), predicted.maps.cpu().numpy(), probabilities
    rows = zip(batch.indices, batch.frames, batch.masks, *predictions, strict=True)
    for index, frame, mask, scores, class_maps, probability in rows:
        yield _LocatedSample(dataset[index], frame, mask, class_maps[0], top_classes(scores), probability)


def _score(protocol: Protocol, threshold: float | None, image: _LocatedSample) -> ImageScores:
    sample = image.sample
    known: dict[str, Any] = {"frame": image.frame, "boxes": sample.boxes, "mask": image.mask}
    judged: dict[str, Any] = {"protocol": protocol, "threshold": threshold, "probability": image.probability}
    return score_image(image.map_[None], [sample.label], image.predicted, sample.label, **known, **judged)


def calibrate_threshold(
    model: Method,
    dataset: ImageDataset,
    preprocessing: Preprocessing,
    protocol: Protocol,
    *,
    options: PredictionOptions | None = None,
    **settings: Any,
) -> Threshold:
    """Choose the map threshold with the best GT-known on a dataset with boxes, which should not be the one measured.

    Args:
        model: the model.
        dataset: with boxes.
        preprocessing: of the model.
        protocol: of the boxes; its own threshold, where it has one, plays no part.
        options: how the model looks at images, for which the threshold is then meant; None for plainly.
        options: of ``measure``.

    Raises:
        ValueError: where the dataset has no boxes.
    """
    if not dataset.has_boxes:
        raise ValueError(f"{dataset.name} ({dataset.split}) has no boxes, by which a threshold could be chosen")
    options = options or PredictionOptions()
    oracle = measure(model, dataset, preprocessing, protocol, options=options, **settings).evaluation.oracle
    if oracle is None:
        raise ValueError(f"no box of {dataset.name} ({dataset.split}) lies inside its image")
    seen = "" if options == PredictionOptions() else f", {options}"
    images = f"{dataset.split} of {dataset.name}"
    source = f"calibrated on {images} ({len(dataset)} images), protocol {protocol.name}{seen}"
    return Threshold(oracle.threshold, source, str(options), images)


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
