"""CSV (RFC 4180, UTF-8): one row per box."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tokenloc._files import atomic_write
from tokenloc.export._table import COLUMNS, table_rows
from tokenloc.export.base import FORMATS, Destination, Format, WriteImage
from tokenloc.inference.localization import LocalizationRecord

_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")


@contextmanager
def _open(destination: Destination) -> Iterator[WriteImage]:
    labels = [escape_formula(label) for label in destination.labels]
    with (
        atomic_write(destination.folder / "boxes.csv") as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(COLUMNS)

        def write_image(name: str, records: Sequence[LocalizationRecord]) -> None:
            writer.writerows(table_rows(escape_formula(name), records, labels))

        yield write_image


def escape_formula(text: str) -> str:
    """Return ``text`` with an apostrophe in front if a spreadsheet would run it as a formula.

    Text that starts with apostrophes and then a formula gets another one, so that the original can be restored.

    >>> escape_formula("=1+1"), escape_formula("'=1"), escape_formula("bird")
    ("'=1+1", "''=1", 'bird')
    """
    return f"'{text}" if _FORMULA.match(text) else text


CSV = FORMATS.add("csv", Format(("boxes.csv",), _open))
"""CSV: boxes.csv, one row per box."""
