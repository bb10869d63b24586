"""Parquet: the table of boxes with types, for pandas, Polars, DuckDB and Spark. Needs the extra ``parquet``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tokenloc._extras import library
from tokenloc._files import atomic_write
from tokenloc.export.base import FORMATS, Destination, Format, WriteImage
from tokenloc.export.csv_table import COLUMNS, CORNERS, table_rows
from tokenloc.inference.localization import LocalizationRecord

ROWS_PER_GROUP = 4096
"""Rows in memory, written as one row group."""


@contextmanager
def _open(destination: Destination) -> Iterator[WriteImage]:
    """Confidence and corners are null in the row of an image without boxes."""
    parquet = library("pyarrow.parquet", "parquet")
    labels, schema = destination.labels, box_schema()
    rows: list[tuple[Any, ...]] = []
    with (
        atomic_write(destination.folder / "boxes.parquet") as temporary,
        parquet.ParquetWriter(temporary, schema) as writer,
    ):

        def write_image(name: str, records: Sequence[LocalizationRecord]) -> None:
            rows.extend(table_rows(name, records, labels))
            if len(rows) >= ROWS_PER_GROUP:
                writer.write_table(arrow_table(rows, schema))
                rows.clear()

        yield write_image
        writer.write_table(arrow_table(rows, schema))


def box_schema() -> Any:
    """Return the pyarrow schema of the table."""
    arrow = library("pyarrow", "parquet")
    types = dict.fromkeys(("file", "label"), arrow.string())
    types |= dict.fromkeys(("width", "height", "class_index"), arrow.int32())
    types |= dict.fromkeys(("score", "confidence", *CORNERS), arrow.float64())
    return arrow.schema([(column, types[column]) for column in COLUMNS])


def arrow_table(rows: Sequence[tuple[Any, ...]], schema: Any) -> Any:
    """Return rows, with the values of ``schema`` in order, as a pyarrow table."""
    arrow = library("pyarrow", "parquet")
    return arrow.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema=schema)


PARQUET = FORMATS.add("parquet", Format(("boxes.parquet",), _open, ("pyarrow.parquet", "parquet")))
"""Parquet: boxes.parquet, one row per box; needs the extra ``parquet``."""
