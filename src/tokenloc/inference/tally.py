"""Adding up the images of a set as they come: its metrics, and a small row of each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tokenloc.boxes import Frame, Protocol
from tokenloc.data import ImageDataset, Sample, Unreadable
from tokenloc.metrics import Evaluation, ImageScores
from tokenloc.metrics.images import ImageLog, ImageRow, write_rows
from tokenloc.metrics.intervals import by_class, by_size, confidence_intervals
from tokenloc.metrics.localization import LocalizationMetrics
from tokenloc.metrics.reference import constant_box_iou, level_accuracies
from tokenloc.metrics.resamples import Resamples
from tokenloc.metrics.risk_coverage import confidence_metrics

CONSTANT_BOXES = {"centre 70 % box": 0.7, "whole-image box": 1.0}


@dataclass(frozen=True)
class EvaluationResult:
    """What ``measure`` found.

    Attributes:
        evaluation: all metrics.
        images: a row for each image that could be read, in the order of the dataset, at the evaluation's threshold.
        classes: names of the classes that rows have as indices.
        constant_boxes: GT(δ) in percent of boxes that ignore the image, by their name; empty without true boxes.
        unreadable: the images that could not be read: they are in no number.
        best_confidence: bootstrap intervals of the metrics that choose their own threshold, see ``Resamples``.
        missing: ids of images without "boxes" or "masks" where others have them, which are in no number that needs
            them; "images" that the lists name and that were left out; "classes" of which no image was measured.
    """

    evaluation: Evaluation
    images: list[ImageRow]
    classes: Sequence[str] = ()
    constant_boxes: dict[str, dict[float, float]] = field(default_factory=dict)
    unreadable: list[Unreadable] = field(default_factory=list)
    missing: dict[str, list[str]] = field(default_factory=dict)
    best_confidence: dict[str, list[float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the form of ``metrics.json``."""
        constant = {
            name: {f"{level:g}": value for level, value in box.items()} for name, box in self.constant_boxes.items()
        }
        return {
            **self.evaluation.to_dict(),
            "confidence": {**confidence_intervals(self.images), **self.best_confidence},
            "per_class": by_class(self.images, self.classes),
            "by_size": by_size(self.images),
            "constant_boxes": constant,
            "trust": confidence_metrics(self.images),
            "unreadable": [{"id": item.id, "reason": item.reason} for item in self.unreadable],
            "missing": self.missing,
        }

    def save_images(self, path: Path) -> None:
        """Write the rows as ``images.csv``; see ``write_rows``."""
        write_rows(path, self.images, self.classes)


class Evaluator:
    """The images of a set, added up one by one: memory stays flat but for a small row of each.

    Args:
        protocol: of all images' scores.
        threshold: a fixed map threshold in [0, 1]; None for the protocol's own rule.
        scratch: an empty temporary file, see ``ImageLog``.
    """

    def __init__(self, protocol: Protocol, threshold: float | None, scratch: IO[bytes]) -> None:
        self.protocol = protocol
        self._metrics = LocalizationMetrics(protocol, threshold, sync_on_compute=False)  # every process adds all images
        self._log = ImageLog(protocol, scratch)
        self._resamples = Resamples(protocol)
        self._constant: dict[str, list[float]] = {name: [] for name in CONSTANT_BOXES}
        self._without: dict[str, list[str]] = {"boxes": [], "masks": []}

    def add(self, sample: Sample, frame: Frame, scores: ImageScores) -> None:
        """Add an image."""
        self._metrics.update([scores])
        self._log.add(sample.id, scores)
        self._resamples.add(scores)
        self._without["boxes"] += [sample.id] * (scores.boxes is None)
        self._without["masks"] += [sample.id] * (scores.pixels is None)
        for name, share in CONSTANT_BOXES.items():
            iou = constant_box_iou(sample.boxes, frame, self.protocol, share)
            self._constant[name] += [] if iou is None else [iou]

    def measured(self, dataset: ImageDataset, unreadable: list[Unreadable]) -> EvaluationResult:
        """Return the result; the images added are those of ``dataset`` that are not ``unreadable``.

        Raises:
            ValueError: where no image was added.
        """
        if not len(self._log):
            reason = unreadable[0].reason if unreadable else "the list is empty"
            raise ValueError(f"none of the {len(unreadable)} images could be measured; the first: {reason}")
        evaluation = self._metrics.compute()
        constant = {name: level_accuracies(ious) for name, ious in self._constant.items()}
        known = {name: accuracies for name, accuracies in constant.items() if accuracies is not None}
        rows = self._log.rows(self._column(evaluation))
        missing = self._missing(dataset, rows)
        return EvaluationResult(
            evaluation, rows, dataset.classes, known, unreadable, missing, self._resamples.intervals()
        )

    def _missing(self, dataset: ImageDataset, rows: Sequence[ImageRow]) -> dict[str, list[str]]:
        found = {what: [] if len(ids) == len(rows) else ids for what, ids in self._without.items()}
        labels = {row.label for row in rows}
        empty = [name for label, name in enumerate(dataset.classes) if label not in labels]
        return {**found, "images": list(dataset.skipped), "classes": empty}

    def _column(self, evaluation: Evaluation) -> int:
        """Return where among the scored thresholds that of the evaluation is; a fixed one stands at the end."""
        if evaluation.threshold_source in ("given", "protocol") or evaluation.threshold is None:
            return -1
        return self.protocol.thresholds.index(evaluation.threshold)
