"""Parquet: the table of boxes with types, for pandas, Polars, DuckDB and Spark. Needs the extra ``parquet``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tokenloc._extras import library
from tokenloc._files import atomic_write
from tokenloc.export.base import FORMATS, Destination, Format, WriteImage
from tokenloc.export.csv_table import COLUMNS, table_rows
from tokenloc.inference.localization import LocalizationRecord

ROWS_PER_GROUP = 4096
"""Rows in memory, written as one row group."""


@contextmanager
def _open(destination: Destination) -> Iterator[WriteImage]:
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


def box_schema() -> Any:
    """Return the pyarrow schema of the table."""
    return library("pyarrow", "parquet").schema(list(COLUMNS.items()))


def arrow_table(rows: Sequence[tuple[Any, ...]], schema: Any) -> Any:
    """Return rows, with the values of ``schema`` in order, as a pyarrow table."""
    table = library("pyarrow", "parquet").Table
    return table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema=schema)


PARQUET = FORMATS.add("parquet", Format(("boxes.parquet",), _open, ("pyarrow.parquet", "parquet")))
"""Parquet: boxes.parquet, one row per box; needs the extra ``parquet``."""
