"""Parquet: the table of boxes with its types, for pandas, Polars, DuckDB, Spark. Needs the extra ``parquet``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenloc._extras import library
from tokenloc._files import atomic_write
from tokenloc.data.annotations import Annotation
from tokenloc.export._rows import COLUMNS, CORNERS, READ, annotations_of, rows_of
from tokenloc.export.base import FORMATS, AddImage, Destination, Format
from tokenloc.inference.localization import LocalizationRecord

ROWS_AT_A_TIME = 4096
"""Rows that are held in memory, and then written as one row group."""


@contextmanager
def _writing(destination: Destination) -> Iterator[AddImage]:
    """Trust and corners are null in the row of an image without boxes."""
    parquet = library("pyarrow.parquet", "parquet")
    labels, schema = destination.labels, box_schema()
    rows: list[tuple[Any, ...]] = []
    with (
        atomic_write(destination.folder / "boxes.parquet") as temporary,
        parquet.ParquetWriter(temporary, schema) as writer,
    ):

        def add(name: str, found: Sequence[LocalizationRecord]) -> None:
            rows.extend(rows_of(name, found, labels))
            if len(rows) >= ROWS_AT_A_TIME:
                writer.write_table(_table(rows, schema))
                rows.clear()

        yield add
        writer.write_table(_table(rows, schema))


def box_schema() -> Any:
    """Return the columns of the table and their types."""
    arrow = library("pyarrow", "parquet")
    types = {
        "file": arrow.string(),
        "width": arrow.int32(),
        "height": arrow.int32(),
        "label": arrow.string(),
        "class_index": arrow.int32(),
        "score": arrow.float64(),
        "confidence": arrow.float64(),
        **dict.fromkeys(CORNERS, arrow.float64()),
    }
    return arrow.schema([(column, types[column]) for column in COLUMNS])


def _table(rows: Sequence[tuple[Any, ...]], schema: Any) -> Any:
    arrow = library("pyarrow", "parquet")
    return arrow.Table.from_pylist([dict(zip(COLUMNS, row, strict=True)) for row in rows], schema=schema)


def _read(path: Path) -> list[Annotation]:
    parquet, arrow = library("pyarrow.parquet", "parquet"), library("pyarrow", "parquet")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        rows = parquet.read_table(path, columns=list(READ)).to_pylist()
        return annotations_of(rows)
    except (arrow.ArrowException, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a Parquet table with the columns {', '.join(READ)} ({error})") from error


PARQUET = FORMATS.add("parquet", Format(("boxes.parquet",), _writing, _read, ("pyarrow.parquet", "parquet")))
"""Parquet: boxes.parquet, a row for each box; needs the extra ``parquet``."""
