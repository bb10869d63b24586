"""Evaluation folders as `tokenloc evaluate` writes them, quickly made from noisy maps around the true boxes."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tokenloc._files import write_json
from tokenloc.boxes import Frame, get_protocol
from tokenloc.data import ImageDataset, Sample, create_dataset
from tokenloc.data.base import as_boxes
from tokenloc.inference.evaluation import evaluate_scores
from tokenloc.metrics import ImageScores, Scorer
from tokenloc.reporting.charts import save_curves

SCENES = {"name": "scenes", "root": None, "split": "test", "options": {"size": 40, "length": 18}}
THRESHOLD = 0.35


def scenes() -> ImageDataset:
    return create_dataset("scenes", None, "test", size=40, length=18)


def named_samples(names: list[str], classes: list[str], boxed: bool = True) -> ImageDataset:
    """A dataset of these ids without images, with classes in turn."""
    boxes = as_boxes([[10, 8, 30, 28]] if boxed else ())
    samples = [Sample(name, None, index % len(classes), boxes) for index, name in enumerate(names)]
    return ImageDataset("test", classes, samples)


def write_evaluation(
    folder: Path, dataset: ImageDataset, seed: int = 0, protocol: str = "standard", **described: Any
) -> Path:
    """Evaluate noisy maps around the true boxes, with three of four classes correct; write all files."""
    judged = get_protocol(protocol)
    scorer = Scorer(judged, THRESHOLD if judged.threshold_rule == "calibrated" else None)
    result = evaluate_scores(_scored(dataset, scorer, seed), dataset, scorer, folder / "boxes.npz")
    write_json(folder / "metrics.json", {**result.to_dict(), **described})
    result.save_images(folder / "images.csv")
    save_curves(folder, result.evaluation.curve)
    return folder


def _scored(dataset: ImageDataset, scorer: Scorer, seed: int) -> Iterator[ImageScores]:
    rng, frame = np.random.default_rng(seed), Frame.identity((40, 40))
    for sample in dataset:
        map_ = rng.random((10, 10)) * rng.random()
        for x0, y0, x1, y1 in (sample.boxes / 4).astype(int).tolist():
            map_[y0 : y1 + 1, x0 : x1 + 1] += rng.random()
        correct = rng.random() < 0.75
        top = (np.arange(len(dataset.classes)) + sample.label + (not correct)) % len(dataset.classes)
        yield scorer.score(map_, sample.label, top, frame=frame, id_=sample.id, boxes=sample.boxes)


def with_column(folder: Path, name: str, values: list[Any]) -> None:
    """Set a column of an evaluation's images.csv."""
    path = folder / "images.csv"
    with path.open(encoding="utf-8", newline="") as file:
        lines = [{**line, name: value} for line, value in zip(csv.DictReader(file), values, strict=True)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
