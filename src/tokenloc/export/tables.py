"""CSV (RFC 4180, UTF-8), Parquet and pandas: one table with a row per box, or one for an image without boxes."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tokenloc._extras import library
from tokenloc._files import atomic_text, atomic_write
from tokenloc.export.base import FORMATS, Destination, Format, WriteImage
from tokenloc.inference.localization import LocalizationRecord

if TYPE_CHECKING:
    from pandas import DataFrame

COLUMNS = {
    "file": "string",
    "width": "int32",
    "height": "int32",
    "label": "string",
    "class_index": "int32",
    **dict.fromkeys(("score", "confidence", "x0", "y0", "x1", "y1"), "float64"),
}
"""Types by column. Corners are xyxy in original pixels, half-open; the score is the class probability."""

ROWS_PER_GROUP = 4096  # in memory, written to Parquet as one row group
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")  # also the full-width forms of = + - @


@contextmanager
def _open_csv(destination: Destination) -> Iterator[WriteImage]:
    labels = [escape_formula(label) for label in destination.labels]
    with atomic_text(destination.folder / "boxes.csv") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        yield lambda name, records: writer.writerows(table_rows(escape_formula(name), records, labels))


@contextmanager
def _open_parquet(destination: Destination) -> Iterator[WriteImage]:
    parquet = library("pyarrow.parquet", "parquet")
    labels, schema, rows = destination.labels, box_schema(), list[tuple[Any, ...]]()
    path = destination.folder / "boxes.parquet"
    with atomic_write(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:

        def write_image(name: str, records: Sequence[LocalizationRecord]) -> None:
            rows.extend(table_rows(name, records, labels))
            if len(rows) >= ROWS_PER_GROUP:
                writer.write_table(arrow_table(rows, schema))
                rows.clear()

        yield write_image
        writer.write_table(arrow_table(rows, schema))


def to_pandas(results: Iterable[LocalizationRecord]) -> DataFrame:
    """Return results, such as those of a list of images, as a pandas table with the columns of boxes.csv.

    It has a row for each box, or one with NaN as confidence and corners for a result without a box. Corners are xyxy in
    original pixels, half-open. Raises ImportError if pandas is not installed.
    """
    rows = [row for one in results for row in table_rows(one.source, [one], {one.class_index: one.label})]
    return library("pandas").DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def table_rows(
    name: str, records: Sequence[LocalizationRecord], labels: Sequence[str] | Mapping[int, str]
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of one image, with the values of ``COLUMNS``; without a box, confidence and corners are None."""
    for record in records:
        image = (name, *record.size, labels[record.class_index], record.class_index, record.score)
        boxes = zip(record.confidence.tolist(), record.boxes.tolist(), strict=True)
        for confidence, corners in list(boxes) or [(None, [None] * 4)]:
            yield (*image, confidence, *corners)


def escape_formula(text: str) -> str:
    """Return ``text`` with an apostrophe in front if it is a spreadsheet formula, or apostrophes and then one.

    >>> escape_formula("=1+1"), escape_formula("'=1"), escape_formula("bird")
    ("'=1+1", "''=1", 'bird')
    """
    return f"'{text}" if _FORMULA.match(text) else text


def box_schema() -> Any:
    """Return the pyarrow schema of the table."""
    return library("pyarrow", "parquet").schema(list(COLUMNS.items()))


def arrow_table(rows: Sequence[tuple[Any, ...]], schema: Any) -> Any:
    """Return rows, with the values of ``schema`` in order, as a pyarrow table."""
    table = library("pyarrow", "parquet").Table
    return table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema=schema)


FORMATS.add("csv", Format(("boxes.csv",), _open_csv))
FORMATS.add("parquet", Format(("boxes.parquet",), _open_parquet, ("pyarrow.parquet", "parquet")))
