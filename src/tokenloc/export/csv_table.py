"""CSV (RFC 4180, UTF-8), and the rows that it shares with Parquet: one per box, or one for an image without boxes."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tokenloc._files import atomic_text
from tokenloc.export.base import FORMATS, Destination, Format, WriteImage
from tokenloc.inference.localization import LocalizationRecord

COLUMNS = {
    "file": "string",
    "width": "int32",
    "height": "int32",
    "label": "string",
    "class_index": "int32",
    **dict.fromkeys(("score", "confidence", "x0", "y0", "x1", "y1"), "float64"),
}
"""Types by column. Corners are xyxy in original pixels, half-open; the score is the class probability."""

_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")


@contextmanager
def _open(destination: Destination) -> Iterator[WriteImage]:
    labels = [escape_formula(label) for label in destination.labels]
    with atomic_text(destination.folder / "boxes.csv") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        yield lambda name, records: writer.writerows(table_rows(escape_formula(name), records, labels))


def table_rows(name: str, records: Sequence[LocalizationRecord], labels: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of one image, with the values of ``COLUMNS``; without a box, confidence and corners are None."""
    for record in records:
        image = (name, *record.size, labels[record.class_index], record.class_index, record.score)
        boxes = zip(record.confidence.tolist(), record.boxes.tolist(), strict=True)
        for confidence, corners in list(boxes) or [(None, [None] * 4)]:
            yield (*image, confidence, *corners)


def escape_formula(text: str) -> str:
    """Return ``text`` with an apostrophe in front if a spreadsheet would run it as a formula.

    Text that starts with apostrophes and then a formula gets another one, so that the original can be restored.

    >>> escape_formula("=1+1"), escape_formula("'=1"), escape_formula("bird")
    ("'=1+1", "''=1", 'bird')
    """
    return f"'{text}" if _FORMULA.match(text) else text


CSV = FORMATS.add("csv", Format(("boxes.csv",), _open))
"""CSV: boxes.csv, one row per box."""
