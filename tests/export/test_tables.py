"""CSV and Parquet, as the csv module and pyarrow read them."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from tests.export.examples import (
    CLASSES,
    FORMULA_STARTS,
    HOSTILE,
    golden_results,
    localization,
    read_annotations,
    unescaped,
)
from tokenloc.export import FORMATS
from tokenloc.export.tables import COLUMNS, ROWS_PER_GROUP, escape_formula


def test_no_csv_cell_is_a_formula(tmp_path: Path) -> None:
    names = ["=cmd.jpg", "+1.jpg", "-1.jpg", "@x.jpg", "\t=1.jpg", "'=1.jpg", "\uff1d1+1.jpg"]
    results = [localization(name, index=index, classes=HOSTILE) for name in names for index in range(len(HOSTILE))]
    (path,) = FORMATS["csv"].write(results, HOSTILE, tmp_path)
    with path.open(encoding="utf-8", newline="") as file:
        cells = {cell for row in csv.reader(file, strict=True) for cell in row if cell}
    assert {cell[0] for cell in cells}.isdisjoint(FORMULA_STARTS)
    assert [one.file_name for one in read_annotations("csv", tmp_path)] == names


@given(st.text(st.sampled_from("'=+-@\t\r\nab \uff1d\uff0b")))
def test_escaped_formulas_can_be_restored(text: str) -> None:
    assert unescaped(escape_formula(text)) == text
    assert not escape_formula(text).startswith(FORMULA_STARTS)


def test_parquet_types_and_nulls(tmp_path: Path) -> None:
    (path,) = FORMATS["parquet"].write(golden_results("p"), CLASSES, tmp_path)
    table = parquet.read_table(path)
    assert table.column_names == list(COLUMNS)
    assert table.schema.field("class_index").type == pyarrow.int32()
    assert table["label"].to_pylist() == [CLASSES[0], CLASSES[0], CLASSES[1], CLASSES[2]]
    assert table["x1"].to_pylist() == [60.0, 3.0, None, 1234.0]
    assert table["confidence"].to_pylist() == [0.375, 0.25, None, 1 / 6]


def test_parquet_rows_are_written_in_groups(tmp_path: Path) -> None:
    count = 2 * ROWS_PER_GROUP + 1
    (path,) = FORMATS["parquet"].write((localization(f"{index}.jpg") for index in range(count)), CLASSES, tmp_path)
    written = parquet.ParquetFile(path)
    assert (written.metadata.num_rows, written.num_row_groups) == (count, 3)
