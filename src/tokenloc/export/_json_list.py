"""A JSON array written item by item, so that memory stays flat."""

from __future__ import annotations

import json
from typing import IO, Any


class JsonList:
    """The items of a JSON array, one a line, on an open file; the brackets are the caller's."""

    def __init__(self, file: IO[str]) -> None:
        self.file = file
        self.count = 0

    def add(self, item: dict[str, Any]) -> None:
        """Write one more item (no NaN: standard readers refuse it)."""
        self.file.write(",\n" if self.count else "\n")
        self.file.write(json.dumps(item, ensure_ascii=False, allow_nan=False))
        self.count += 1
