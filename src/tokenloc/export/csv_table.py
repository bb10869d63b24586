"""CSV (RFC 4180, UTF-8): one row a box."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tokenloc._files import atomic_write
from tokenloc.data.annotations import Annotation
from tokenloc.export._rows import COLUMNS, READ, annotations_of, rows_of
from tokenloc.export.base import FORMATS, AddImage, Destination, Format
from tokenloc.inference.localization import LocalizationRecord

TEXTS = ("file", "label")
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")


@contextmanager
def _writing(destination: Destination) -> Iterator[AddImage]:
    labels = [escaped_formula(label) for label in destination.labels]
    with (
        atomic_write(destination.folder / "boxes.csv") as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(COLUMNS)

        def add(name: str, found: Sequence[LocalizationRecord]) -> None:
            writer.writerows(rows_of(escaped_formula(name), found, labels))

        yield add


def escaped_formula(text: str) -> str:
    """Return ``text`` so that no spreadsheet runs it: what begins like a formula gets an apostrophe before it.

    Text that begins with apostrophes and then like a formula gets one more, so that ``restored`` can tell them.

    >>> escaped_formula("=1+1"), restored(escaped_formula("=1+1")), escaped_formula("bird"), escaped_formula("'=1")
    ("'=1+1", '=1+1', 'bird', "''=1")
    """
    return f"'{text}" if _FORMULA.match(text) else text


def restored(text: str) -> str:
    """Return what ``escaped_formula`` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def _read(path: Path) -> list[Annotation]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets put a byte order mark there
        reader = csv.DictReader(file, restval="")
        missing = [column for column in READ if column not in (reader.fieldnames or [])]
        if missing:
            raise ValueError(f"{path}: lacks the columns {', '.join(missing)}; expected {', '.join(READ)}")
        try:
            return annotations_of(map(_restored_row, reader))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, near line {reader.line_num}: {error}; correct it, or export it again") from error


def _restored_row(row: Mapping[str, str]) -> dict[str, str]:
    return {**row, **{name: restored(row[name]) for name in TEXTS}}


CSV = FORMATS.add("csv", Format(("boxes.csv",), _writing, _read))
"""CSV: boxes.csv, a row for each box."""
