"""The table of images, ``images.csv``: one row per image, at the map threshold of the reported metrics."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tokenloc._files import read_csv, write_text
from tokenloc.boxes import Protocol
from tokenloc.metrics.errors import ERROR_CATEGORIES
from tokenloc.metrics.scores import ImageScores

TEXT_COLUMNS = ("id", "label", "predicted", "error")
OPTIONAL_COLUMNS = ("score", "confidence", "mask_iou", "mask_fraction")
"""Columns that tables of older versions lack."""
_TOGETHER = {"id": "", "label": "", "object_fraction": "largest", "mask_fraction": "mask_iou"}
"""Columns that must not be empty in a row where another one is not; "" for every row."""
OLD_NAMES = {"object_share": "object_fraction", "trust": "confidence"}
"""Columns that older versions name differently."""


@dataclass(frozen=True)
class ImageRow:
    """One image at one map threshold; None if a value needs ground truth or a prediction that is missing.

    Attributes:
        id: unique in the set.
        label: index of the true class.
        predicted: index of the first predicted class, of probability ``score``.
        top1_cls: the first predicted class is correct; ``top5_cls``: one of the first five is.
        largest: IoU of the largest component's box with the best-matching ground-truth box, in the map of the class
            that the protocol judges.
        any: the best IoU of all components.
        gt_known: ``largest`` is at least 0.5.
        top1_loc: the first predicted class is correct and the box hits; ``top5_loc``: likewise for the first five.
        error: one of ``ERROR_CATEGORIES``.
        object_fraction: area of the largest ground-truth box divided by that of the image.
        confidence: of the box, in [0, 1], see ``ImageScores``.
        mask_iou: IoU of the object's mask with the map's pixels above the threshold (SAT, Fig. 6).
        mask_fraction: the mask's pixels divided by all that are not ignored, in the protocol's frame of the truth.
    """

    id: str
    label: int
    predicted: int | None = None
    top1_cls: bool | None = None
    top5_cls: bool | None = None
    largest: float | None = None
    any: float | None = None
    gt_known: bool | None = None
    top1_loc: bool | None = None
    top5_loc: bool | None = None
    error: str | None = None
    object_fraction: float | None = None
    score: float | None = None
    confidence: float | None = None
    mask_iou: float | None = None
    mask_fraction: float | None = None


def image_row(scores: ImageScores, column: int, protocol: Protocol, pixel_bin: int | None = None) -> ImageRow:
    """Return the row of an image at one of the scored thresholds, given by its index.

    ``pixel_bin`` is the index of the first bin of ``scores.pixels`` above the threshold; None if there is no threshold.
    """
    values: dict[str, Any] = {"score": scores.probability, "confidence": scores.confidence}
    if predicted := len(scores.predicted) > 0:
        values["predicted"] = int(scores.predicted[0])
        values |= {"top1_cls": scores.in_top(1), "top5_cls": scores.in_top(5)}
    if len(scores.truth):
        largest, best = float(scores.largest[column]), float(scores.any[column])
        error = ERROR_CATEGORIES[scores.errors[column]]
        values |= {"largest": largest, "any": best, "gt_known": largest >= 0.5, "error": error}
        values["object_fraction"] = scores.object_fraction
        if predicted:
            values |= {f"top{k}_loc": bool(scores.localized(k, protocol)[column]) for k in (1, 5)}
    background, objects = scores.pixels
    if pixel_bin is not None and objects.any():
        values["mask_iou"] = float(objects[pixel_bin:].sum() / (background[pixel_bin:].sum() + objects.sum()))
        values["mask_fraction"] = float(objects.sum() / scores.pixels.sum())
    return ImageRow(scores.id, scores.label, **values)


def write_rows(path: str | Path, rows: Sequence[ImageRow], classes: Sequence[str]) -> None:
    """Write ``images.csv`` atomically: classes by name, booleans as 1 and 0, None as an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(ImageRow)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values = {name: int(value) if isinstance(value, bool) else value for name, value in asdict(row).items()}
        predicted = None if row.predicted is None else classes[row.predicted]
        writer.writerow({**values, "label": classes[row.label], "predicted": predicted})
    write_text(path, text.getvalue())


def read_table(path: str | Path) -> list[dict[str, Any]]:
    """Read an ``images.csv``: classes by name, numbers as float, None for empty fields and for ``OPTIONAL_COLUMNS``.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if a column is missing, a number is invalid, or an id occurs twice.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: `tokenloc evaluate` writes it")
    names = [field.name for field in fields(ImageRow)]
    columns, lines = read_csv(path)
    if not set(names) - set(OPTIONAL_COLUMNS) <= {OLD_NAMES.get(name, name) for name in columns}:
        raise ValueError(f"{path} has the columns {columns}, expected {names}")
    lines = [{OLD_NAMES.get(name, name): text for name, text in line.items()} for line in lines]
    rows = [{name: _value(path, name, line.get(name)) for name in names} for line in lines]
    if len({row["id"] for row in rows}) < len(rows):
        raise ValueError(f"{path} contains an id twice")
    for row in rows:
        lacking = [name for name, other in _TOGETHER.items() if row[name] is None and row.get(other, "") is not None]
        if lacking:
            raise ValueError(f"{path} has no {lacking[0]} for {row['id']}; evaluate again")
    return rows


def _value(path: Path, name: str, text: str | None) -> str | float | None:
    if not text:
        return None
    if name in TEXT_COLUMNS:
        if name == "error" and text not in ERROR_CATEGORIES:
            raise ValueError(f"{path} has {text!r:.80} as {name}, expected {', '.join(ERROR_CATEGORIES)}")
        return text
    try:
        if math.isfinite(value := float(text)):
            return value
    except ValueError:
        pass
    raise ValueError(f"{path} has {text!r:.80} as {name}, expected a number; evaluate again")
