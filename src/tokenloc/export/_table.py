"""The table of boxes in CSV and Parquet: one row per box; images without a box have one row without corners."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tokenloc.inference.localization import LocalizationRecord

CORNERS = ("x0", "y0", "x1", "y1")

COLUMNS = ("file", "width", "height", "label", "class_index", "score", "confidence", *CORNERS)
"""Corners are xyxy in original pixels, half-open; the score is the class probability, the confidence that of the box."""


def table_rows(name: str, records: Sequence[LocalizationRecord], labels: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of one image, with the values of ``COLUMNS``; without a box, confidence and corners are None."""
    for record in records:
        image = (name, *record.size, labels[record.class_index], record.class_index, record.score)
        boxes = zip(record.confidence.tolist(), record.boxes.tolist(), strict=True)
        for confidence, corners in list(boxes) or [(None, [None] * 4)]:
            yield (*image, confidence, *corners)
