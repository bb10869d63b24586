"""Folders of evaluations as `tokenloc evaluate` leaves them, made in a moment of noisy maps around true boxes."""

from __future__ import annotations

import csv
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np

from tokenloc._files import write_json
from tokenloc.boxes import Frame, get_protocol
from tokenloc.data import ImageDataset, Sample, create_dataset
from tokenloc.data.base import as_boxes
from tokenloc.inference.tally import Evaluator
from tokenloc.metrics import score_image
from tokenloc.metrics.stored_boxes import writing_boxes
from tokenloc.reporting.charts import save_curves

SCENES = {"name": "scenes", "root": None, "split": "test", "options": {"size": 40, "length": 18}}
THRESHOLD = 0.35


def scenes() -> ImageDataset:
    return create_dataset("scenes", None, "test", size=40, length=18)


def named_samples(names: list[str], classes: list[str], boxed: bool = True) -> ImageDataset:
    """A dataset of these ids without images, of classes in turn."""
    boxes = as_boxes([[10, 8, 30, 28]] if boxed else ())
    samples = [Sample(name, None, index % len(classes), boxes) for index, name in enumerate(names)]
    return ImageDataset("test", classes, samples)


def write_evaluation(
    folder: Path, dataset: ImageDataset, seed: int = 0, protocol: str = "standard", **described: Any
) -> Path:
    """Measure maps of noise around the true boxes, of classes right in three of four; write all files of it."""
    rng, judged, frame = np.random.default_rng(seed), get_protocol(protocol), Frame.resized((40, 40), (40, 40))
    threshold = THRESHOLD if judged.threshold_rule == "calibrated" else None
    with TemporaryFile() as scratch, writing_boxes(folder / "boxes.npz", judged, threshold) as keep:
        tally = Evaluator(judged, threshold, scratch)
        for sample in dataset:
            map_ = rng.random((10, 10)) * rng.random()
            for x0, y0, x1, y1 in (sample.boxes / 4).astype(int).tolist():
                map_[y0 : y1 + 1, x0 : x1 + 1] += rng.random()
            right = rng.random() < 0.75
            top = (np.arange(len(dataset.classes)) + sample.label + (not right)) % len(dataset.classes)
            known: dict[str, Any] = {"frame": frame, "boxes": sample.boxes, "protocol": judged}
            scores = score_image(map_[None], [sample.label], top, sample.label, threshold=threshold, **known)
            tally.add(sample, frame, scores)
            keep.add(sample.id, frame, sample.boxes, scores)
        measured = tally.measured(dataset, [])
    write_json(folder / "metrics.json", {**measured.to_dict(), **described})
    measured.save_images(folder / "images.csv")
    save_curves(folder, measured.evaluation.curve)
    return folder


def with_column(folder: Path, name: str, values: list[Any]) -> None:
    """Give an evaluation's images.csv another column, or other values in one that it has."""
    path = folder / "images.csv"
    with path.open(encoding="utf-8", newline="") as file:
        lines = [{**line, name: value} for line, value in zip(csv.DictReader(file), values, strict=True)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
