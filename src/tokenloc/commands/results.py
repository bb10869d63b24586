"""The result of an evaluation: printed, written, and drawn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tokenloc._files import UniqueNames, atomic_files, write_json
from tokenloc._names import counted
from tokenloc.commands.console import percents, print_message, print_table
from tokenloc.data import ImageDataset, Sample
from tokenloc.data.base import shorten
from tokenloc.inference import Localizer
from tokenloc.inference.evaluation import EvaluationResult
from tokenloc.inference.localization import LocalizationRecord
from tokenloc.metrics import ERROR_CATEGORIES
from tokenloc.metrics.risk_coverage import confidence_metrics
from tokenloc.reporting.charts import save_curves
from tokenloc.reporting.drawing import (
    LEGEND,
    draw_localization,
    draw_map,
    heatmap,
    image_table,
    reduced,
    save_image,
    save_sheet,
)
from tokenloc.reporting.runs import BOXES, IMAGES, METRICS, missing_notes

_NAMES = ("curves.png", "threshold.csv", "iou.csv", "iou_by_size.csv", "parts.png", "summary.png", "failures-*.jpg")
EVALUATION_FILES = (IMAGES, BOXES, *(f"figures/{name}" for name in _NAMES))  # drawings are named as the images
FIGURES, INTERMEDIATE, FAILURES = 12, 4, 6  # images drawn: any, with intermediate maps, of each kind of error
FEWEST, DOUBTFUL = 5, 0.3  # boxes of a class, and their mean confidence below which most of them are wrong
WATCHED = 48  # images whose boxes are checked after a training


def atomic_results(folder: Path) -> AbstractContextManager[Path]:
    """Yield a temporary folder for the files of an evaluation, which replace those of an earlier one at the end.

    Wherever metrics.json exists, the other files are of the same evaluation.
    """
    return atomic_files(folder, METRICS, EVALUATION_FILES)


def write_results(folder: Path, result: EvaluationResult, source: str | None, described: Mapping[str, Any]) -> None:
    """Print the metrics; write metrics.json with ``described`` and the threshold's source, images.csv, and curves."""
    print_results(result, source)
    write_json(folder / METRICS, result.to_dict() | dict(described) | ({"threshold_source": source} if source else {}))
    result.save_images(folder / IMAGES)
    save_curves(folder, result.evaluation.curve)


def print_results(result: EvaluationResult, threshold_source: str | None = None) -> None:
    """Print the metrics beside those of boxes that ignore the image, and what they do not cover."""
    evaluation, oracle = result.evaluation, result.evaluation.oracle
    classes, levels = (evaluation.top1_cls, evaluation.top5_cls), evaluation.box_acc or {}
    values = (evaluation.top1_loc, evaluation.top5_loc, evaluation.gt_known, levels.get("0.7"), levels.get("0.9"))
    chosen = "oracle" in (threshold_source or evaluation.threshold_source or "")
    rows = [["model (oracle threshold)" if chosen else "model", *percents(*classes, *values)]]
    if oracle is not None and evaluation.threshold != oracle.threshold:
        values = (oracle.top1_loc, oracle.top5_loc, oracle.gt_known, oracle.box_acc["0.7"], oracle.box_acc["0.9"])
        rows.append(["best threshold (oracle)", *percents(*classes, *values)])
    for name, box in evaluation.constant_boxes.items():
        rows.append([name, "", "", "", "", *percents(*(box[level] for level in ("0.5", "0.7", "0.9")))])
    columns = ("", "Cls@1", "Cls@5", "Loc@1", "Loc@5", "GT-kn.", "IoU.7", "IoU.9")
    print_table(columns, rows, f"protocol {evaluation.protocol}, {counted(evaluation.images, 'image')}, percent")
    for message in _messages(result, threshold_source):
        print_message(message)


def _messages(result: EvaluationResult, threshold_source: str | None) -> Iterator[str]:
    evaluation = result.evaluation
    if evaluation.threshold is not None:
        yield f"map threshold {evaluation.threshold:g} ({threshold_source or evaluation.threshold_source})"
    if evaluation.max_box_acc_v2 is not None:
        v1, v2 = percents(evaluation.max_box_acc_v1, evaluation.max_box_acc_v2)
        yield f"MaxBoxAcc V1 {v1}, V2 {v2} (best thresholds on this set)"
    if evaluation.pxap is not None:
        yield "PxAP {}, pIoU {}".format(*percents(evaluation.pxap, evaluation.piou))
    if evaluation.dropped_boxes:
        yield f"{evaluation.dropped_boxes} true boxes are invalid and left out; `tokenloc info` lists them"
    if confidence := confidence_metrics(result.images).get("gt_known"):
        half, every = percents(confidence["error_rate_most_trusted_half"], confidence["error_rate_all"])
        yield f"boxes with IoU below 0.5: {half} of the most confident half, {every} of all"
    if not (evaluation.images_with_boxes or evaluation.images_with_masks):
        yield "there are no true boxes or masks: localization is not measured"
    yield from missing_notes(result.missing)
    for image in result.unreadable:
        yield f"not evaluated: {image.reason}"


def save_figures(localizer: Localizer, dataset: ImageDataset, folder: Path) -> None:
    """Draw the localizations of some images, spread over a dataset; summary.png has all of them."""
    images, drawn, names = [], [], UniqueNames(".jpg")
    for sample, image in _some_images(dataset, FIGURES):
        drawn.append(draw_localization(image, localizer(image), sample.boxes))
        save_image(drawn[-1], folder / names.take(Path(sample.id).stem))
        images.append(reduced(image))
    _save_intermediate_maps(localizer, images[:INTERMEDIATE], folder / "parts.png")
    save_sheet(drawn, folder / "summary.png", f"{LEGEND}; right: the map, the mask outlined")


def _some_images(dataset: ImageDataset, count: int) -> Iterator[tuple[Sample, Image.Image]]:
    """Yield ``count`` samples with their images, spread over a dataset, without unreadable ones."""
    for index in np.unique(np.linspace(0, len(dataset) - 1, count).round().astype(int)).tolist():
        with suppress(ValueError, OSError):  # training and evaluation have reported it
            yield dataset[index], dataset.image(index)


def whole_image_note(localizer: Localizer, dataset: ImageDataset) -> str | None:
    """Return a warning if most boxes on some images of a dataset cover the image."""
    results = [localizer(image) for _, image in _some_images(dataset, WATCHED)]
    return whole_image_warning(sum(result.covers_image for result in results), len(results))


def whole_image_warning(whole: int, total: int) -> str | None:
    """Return a warning if most of ``total`` boxes are ``whole`` images."""
    if 2 * whole <= total:
        return None
    advice = "train longer, choose another --threshold, or draw boxes on some images for `tokenloc calibrate`"
    return f"warning: {whole} of {total} boxes cover the whole image, and locate nothing; {advice}"


def doubtful_classes_warning(records: Iterable[LocalizationRecord]) -> str | None:
    """Return a warning if the mean confidence of a class with at least ``FEWEST`` boxes is below ``DOUBTFUL``.

    ``records`` are one of each image, of which the first box counts.
    """
    confidence: dict[str, list[float]] = {}
    for record in records:
        if len(record.boxes):
            confidence.setdefault(record.label, []).append(record.first_confidence)
    means = {label: float(np.mean(values)) for label, values in confidence.items() if len(values) >= FEWEST}
    doubtful = sorted((mean, label) for label, mean in means.items() if mean < DOUBTFUL)
    if not doubtful:
        return None
    listed = shorten([f"{label} {mean:.2f}" for mean, label in doubtful])
    return (
        f"warning: most boxes of {len(doubtful)} of {len(means)} classes seem to be wrong (mean confidence: {listed}); "
        "look at the drawings before you use them, or train longer or another --model.method"
    )


def save_failures(localizer: Localizer, dataset: ImageDataset, result: EvaluationResult, folder: Path) -> None:
    """Draw the images with the lowest IoU of each kind of error (``images.csv`` lists them all)."""
    positions = {sample.id: index for index, sample in enumerate(dataset)}
    for category in ERROR_CATEGORIES[1:]:
        failed = sorted((row for row in result.images if row.error == category), key=lambda row: row.largest or 0.0)
        shown = [positions[row.id] for row in failed[:FAILURES]]
        images = ((dataset.image(index), dataset[index].boxes) for index in shown)
        drawn = [draw_localization(image, localizer(image), truth) for image, truth in images]
        title = f"{category}: {len(failed)} of {counted(len(result.images), 'image')}, lowest IoU first"
        save_sheet(drawn, folder / f"failures-{category}.jpg", title)


def _save_intermediate_maps(localizer: Localizer, images: Sequence[Image.Image], path: Path) -> None:
    """Draw what the maps of some images are computed from, such as SCM's maps of each block, if the method has any."""
    rows, names = [], []
    for image in images:
        maps, result = localizer.intermediate_maps(image), localizer(image)
        names = list(maps)
        heatmaps = (heatmap(image, map_) for map_ in maps.values())
        rows.append((result.label, [image, *heatmaps, draw_map(image, result)]))
    if names:
        save_image(image_table(["image", *names, "map, box"], rows), path)
