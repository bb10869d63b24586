"""Tables of boxes, which CSV and Parquet share: one row a box, and one without corners for an image without boxes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from tokenloc.data.annotations import Annotation
from tokenloc.inference.localization import LocalizationRecord

COLUMNS = ("file", "width", "height", "label", "class_index", "score", "confidence", "x0", "y0", "x1", "y1")
"""Corners are xyxy in original pixels, half-open; the score is the class's probability, the confidence the box's."""

READ = tuple(column for column in COLUMNS if column != "confidence")
"""The columns that are read back."""

CORNERS = COLUMNS[-4:]


def rows_of(name: str, found: Sequence[LocalizationRecord], labels: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of an image; the values are those of ``COLUMNS``, None from the confidence on where no box is."""
    for localization in found:
        about = (name, *localization.size, labels[localization.class_index], localization.class_index)
        boxes = zip(localization.confidence.tolist(), localization.boxes.tolist(), strict=True)
        for confidence, corners in list(boxes) or [(None, [None] * 4)]:
            yield (*about, localization.score, confidence, *corners)


def annotations_of(rows: Iterable[Mapping[str, Any]]) -> list[Annotation]:
    """Return what rows hold; those of one image follow one another. Raises ValueError for what is no number."""
    return [_annotation(name, list(group)) for name, group in groupby(rows, key=lambda row: str(row["file"]))]


def _annotation(name: str, rows: Sequence[Mapping[str, Any]]) -> Annotation:
    boxes = [row for row in rows if row["x0"] not in (None, "")]
    objects = tuple((str(row["label"]), _corners(row)) for row in boxes)
    size = int(rows[0]["width"]), int(rows[0]["height"])
    return Annotation(name, objects, size, tuple(float(row["score"]) for row in boxes))


def _corners(row: Mapping[str, Any]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (float(row[corner]) for corner in CORNERS)
    return x0, y0, x1, y1
