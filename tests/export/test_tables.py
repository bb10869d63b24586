"""CSV and Parquet, as the csv module and pyarrow read them."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from tests.export.examples import CLASSES, HOSTILE, found, golden_results
from tokenloc import _extras
from tokenloc.export import CSV, PARQUET
from tokenloc.export._rows import COLUMNS
from tokenloc.export.csv_table import escaped_formula, restored
from tokenloc.export.parquet import ROWS_AT_A_TIME


def test_the_csv_module_reads_it(tmp_path: Path) -> None:
    (path,) = CSV.write(golden_results("p"), CLASSES, tmp_path)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    assert list(rows[0]) == list(COLUMNS)
    assert [[row["file"], row["x1"]] for row in rows] == [
        ["p/a/bird.jpg", "60.0"],
        ["p/a/bird.jpg", "3.0"],
        ["p/b/bird.png", ""],
        ["p/c d,e & 🐦.jpg", "1234.0"],
    ]
    assert rows[2]["label"] == CLASSES[1]
    assert [row["confidence"] for row in rows] == ["0.375", "0.25", "", str(1 / 6)]


def test_a_table_of_before_there_was_a_trust_is_read(tmp_path: Path) -> None:
    (path,) = CSV.write(golden_results("p"), CLASSES, tmp_path)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    with (tmp_path / "old.csv").open("w", encoding="utf-8", newline="") as file:
        place = COLUMNS.index("confidence")
        csv.writer(file).writerows([*row[:place], *row[place + 1 :]] for row in rows)
    assert CSV.read(tmp_path / "old.csv") == CSV.read(path)


def test_no_cell_is_a_formula(tmp_path: Path) -> None:
    names = ["=cmd.jpg", "+1.jpg", "-1.jpg", "@x.jpg", "\t=1.jpg", "'=1.jpg"]
    results = [found(name, index=index, classes=HOSTILE) for name in names for index in range(len(HOSTILE))]
    (path,) = CSV.write(results, HOSTILE, tmp_path)
    with path.open(encoding="utf-8", newline="") as file:
        cells = {cell for row in csv.reader(file, strict=True) for cell in row if cell}
    assert {cell[0] for cell in cells}.isdisjoint("=+-@\t\r\n")
    assert [one.file_name for one in CSV.read(path)] == names


@given(st.text(st.sampled_from("'=+-@\t\r\nab ")))
def test_defusing_can_be_undone(text: str) -> None:
    assert restored(escaped_formula(text)) == text
    assert not escaped_formula(text).startswith(("=", "+", "-", "@", "\t", "\r", "\n"))


def test_a_spreadsheets_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    (path,) = CSV.write([found("a.jpg")], CLASSES, tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [one.file_name for one in CSV.read(path)] == ["a.jpg"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,width\na.jpg,3\n", r"boxes\.csv: lacks the columns height, label, .*; expected file, width, height"),
        ("", r"boxes\.csv: lacks the columns file"),
        (",".join(COLUMNS) + "\na.jpg,80,40,bird,0,0.5,0.5,1,2,wide,4\n", r"near line 2: could not convert .*'wide'"),
        (",".join(COLUMNS) + "\na.jpg,80\n", r"boxes\.csv, near line 2: "),
    ],
)
def test_a_broken_csv_is_named(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        CSV.read(tmp_path / "boxes.csv")


def test_pyarrow_reads_types_and_nulls(tmp_path: Path) -> None:
    (path,) = PARQUET.write(golden_results("p"), CLASSES, tmp_path)
    table = parquet.read_table(path)
    assert table.column_names == list(COLUMNS)
    assert table.schema.field("class_index").type == pyarrow.int32()
    assert table["label"].to_pylist() == [CLASSES[0], CLASSES[0], CLASSES[1], CLASSES[2]]
    assert table["x1"].to_pylist() == [60.0, 3.0, None, 1234.0]
    assert table["confidence"].to_pylist() == [0.375, 0.25, None, 1 / 6]


def test_rows_are_written_in_groups(tmp_path: Path) -> None:
    count = 2 * ROWS_AT_A_TIME + 1
    (path,) = PARQUET.write((found(f"{index}.jpg") for index in range(count)), CLASSES, tmp_path)
    written = parquet.ParquetFile(path)
    assert (written.metadata.num_rows, written.num_row_groups) == (count, 3)


def test_what_is_no_table_of_boxes_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(ValueError, match=r"text\.parquet: not a Parquet table with the columns file, width"):
        PARQUET.read(tmp_path / "text.parquet")
    parquet.write_table(pyarrow.table({"file": ["a.jpg"]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=r"other\.parquet: not a Parquet table with the columns file, width"):
        PARQUET.read(tmp_path / "other.parquet")


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r"pyarrow is not installed; .*pip install 'tokenloc\[parquet\]'"):
        PARQUET.write([found("a.jpg")], CLASSES, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_is_there_is_returned() -> None:
    assert _extras.library("csv", "none") is csv
