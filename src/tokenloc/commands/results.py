"""A measured model's numbers: printed, written, read again; and its images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.table import Table

from tokenloc._files import UniqueNames, write_json
from tokenloc.commands.console import console, print_message
from tokenloc.data import ImageDataset
from tokenloc.data.base import shorten
from tokenloc.inference import Localizer
from tokenloc.inference.tally import EvaluationResult
from tokenloc.metrics import ERROR_CATEGORIES
from tokenloc.metrics.risk_coverage import confidence_metrics
from tokenloc.reporting import draw_localization, heatmap, save_image, sheet, table_of_images, with_boxes
from tokenloc.reporting.curves import save_curves
from tokenloc.reporting.drawing import FOUND

METRICS = "metrics.json"
IMAGES = "images.csv"
BOXES = "boxes.npz"
FIGURES = 12
PARTS = 4
FAILURES = 6
MISSING = {
    "boxes": "images have no true box, where others have, and are in no box metric",
    "masks": "images have no mask, where others have, and are in no pixel metric",
    "images": "images are listed, but absent, and were left out",
    "classes": "classes have no measured image",
}
"""How ``EvaluationResult.missing`` is told."""


def write_results(folder: Path, measured: EvaluationResult, source: str | None, described: Mapping[str, Any]) -> None:
    """Print the numbers; write metrics.json, images.csv and curves.

    Args:
        folder: of the run or evaluation.
        measured: the numbers.
        source: where the threshold comes from, where the protocol does not say it.
        described: what else metrics.json says of the measurement.
    """
    print_results(measured, source)
    told = {"threshold_source": source} if source else {}
    write_json(folder / METRICS, {**measured.to_dict(), **described, **told})
    measured.save_images(folder / IMAGES)
    save_curves(measured.evaluation.curve, measured.images, folder / "figures")


def read_metrics(folder: Path) -> dict[str, Any]:
    """Return the metrics.json of a run's or an evaluation's folder.

    Raises:
        FileNotFoundError: where there is none.
        ValueError: where it is not JSON, or lacks protocol, images, metrics or threshold.
    """
    path = folder / METRICS
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: expected the folder of a run or of an evaluation")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        lacking = {"protocol", "images", "metrics", "threshold"} - set(content)
        if lacking or not isinstance(content["metrics"], dict):
            raise ValueError(f"it lacks {', '.join(sorted(lacking)) or 'metrics by name'}")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is no evaluation ({error}); measure again with `tokenloc evaluate`") from error
    return content


def print_results(measured: EvaluationResult, threshold_source: str | None = None) -> None:
    """Print the metrics, beside what boxes that ignore the image would reach."""
    evaluation = measured.evaluation
    table = Table(title=f"protocol {evaluation.protocol}, {evaluation.images} images, percent", title_justify="left")
    table.add_column("")
    for column in ("Cls@1", "Cls@5", "Loc@1", "Loc@5", "GT-kn.", "IoU.7", "IoU.9"):
        table.add_column(column, justify="right", no_wrap=True)
    shares = (evaluation.box_acc or {}).get(0.7), (evaluation.box_acc or {}).get(0.9)
    accuracies = (evaluation.top1_cls, evaluation.top5_cls, evaluation.top1_loc, evaluation.top5_loc)
    table.add_row("model", *percents(*accuracies, evaluation.gt_known, *shares))
    if evaluation.oracle is not None and evaluation.threshold != evaluation.oracle.threshold:
        oracle = evaluation.oracle
        row = (evaluation.top1_cls, evaluation.top5_cls, oracle.top1_loc, oracle.top5_loc, oracle.gt_known)
        table.add_row("best threshold (oracle)", *percents(*row, oracle.box_acc[0.7], oracle.box_acc[0.9]))
    for name, box in measured.constant_boxes.items():
        table.add_row(name, "", "", "", "", *percents(*(box[level] for level in (0.5, 0.7, 0.9))))
    console.print(table)
    if evaluation.threshold is not None:
        source = threshold_source or evaluation.threshold_source
        print_message(f"map threshold {evaluation.threshold:g} ({source})")
    if evaluation.max_box_acc_v2 is not None:
        v1, v2 = percents(evaluation.max_box_acc_v1, evaluation.max_box_acc_v2)
        print_message(f"MaxBoxAcc V1 {v1}, V2 {v2} (best thresholds on this set)")
    if evaluation.pxap is not None:
        print_message("PxAP {}, pIoU {}".format(*percents(evaluation.pxap, evaluation.piou)))
    if evaluation.dropped_boxes:
        cannot = f"{evaluation.dropped_boxes} true boxes cannot be and are in no number; `tokenloc info` lists them"
        print_message(cannot)
    if confident := confidence_metrics(measured.images).get("gt_known"):
        half, every = percents(confident["error_rate_most_trusted_half"], confident["error_rate_all"])
        print_message(f"boxes with IoU below 0.5: {half} of the most confident half, {every} of all")
    if not (evaluation.images_with_boxes or evaluation.images_with_masks):
        print_message("there are no true boxes or masks: localization is not measured")
    for what, names in measured.missing.items():
        if names:
            told = f"{len(names)} {MISSING[what]}: {shorten(names)}"
            print_message(told)
    for item in measured.unreadable:
        print_message(f"not measured: {item.reason}")


def percents(*values: float | None) -> list[str]:
    """Return numbers as a table shows them: one decimal, ``-`` where there is none."""
    return ["-" if value is None else f"{value:.1f}" for value in values]


def save_figures(localizer: Localizer, dataset: ImageDataset, folder: Path, title: str = "") -> Path:
    """Draw what is found in images spread over a dataset; return the path of the sheet with all of them."""
    picked = np.unique(np.linspace(0, len(dataset) - 1, FIGURES).round().astype(int)).tolist()
    drawn, readable, names = [], [], UniqueNames(".jpg")
    for index in picked:
        try:
            image = dataset.image(index)
        except (ValueError, OSError):  # measuring has named it already
            continue
        readable.append(index)
        result = localizer(image)
        drawn.append(draw_localization(image, result, dataset[index].boxes))
        save_image(drawn[-1], folder / names.take(Path(dataset[index].id).stem))
    save_parts(localizer, [dataset.image(index) for index in readable[:PARTS]], folder / "parts.png")
    path = folder / "summary.png"
    save_image(sheet(drawn, columns=3, title=title or "green: true box, red: found box; right: the map"), path)
    return path


def save_failures(localizer: Localizer, dataset: ImageDataset, measured: EvaluationResult, folder: Path) -> None:
    """Draw the images that fail worst, by the category of their error (``images.csv`` names them all)."""
    places = {sample.id: index for index, sample in enumerate(dataset)}
    for category in ERROR_CATEGORIES[1:]:
        failed = [row for row in measured.images if row.error == category]
        worst = [places[row.id] for row in sorted(failed, key=lambda row: row.largest or 0.0)[:FAILURES]]
        images = [dataset.image(index) for index in worst]
        drawn = [
            draw_localization(image, localizer(image), dataset[index].boxes)
            for index, image in zip(worst, images, strict=True)
        ]
        path = folder / f"failures-{category}.jpg"
        path.unlink(missing_ok=True)  # of an earlier evaluation
        if drawn:
            title = f"{category}: {len(failed)} of {len(measured.images)} images, the lowest IoU first"
            save_image(sheet(drawn, columns=3, title=title), path)


def save_parts(localizer: Localizer, images: list[Image.Image], path: Path) -> None:
    """Draw what the maps of some images are made of, such as SCM's maps of each block, where a method tells."""
    rows, names = [], []
    for image in images:
        parts = localizer.intermediate_maps(image)
        names = list(parts)
        found = localizer(image)
        last = with_boxes(heatmap(image, found.map_on_image()), found.boxes, FOUND)
        rows.append((found.label, [image, *(heatmap(image, part) for part in parts.values()), last]))
    if names:
        save_image(table_of_images(["image", *names, "map, box"], rows), path)
