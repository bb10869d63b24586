"""What is kept of each image of a set: a small row, at the threshold that the set's metrics are reported at."""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tokenloc._files import write_text
from tokenloc.boxes import Protocol
from tokenloc.metrics.errors import ERROR_CATEGORIES
from tokenloc.metrics.scores import BoxScores, ImageScores

ADDED = ("score", "confidence")
"""The last columns of images.csv, which were added later."""


@dataclass(frozen=True)
class ImageRow:
    """One image at one map threshold; None where there is no box to judge by, or no prediction.

    Args:
        id: Of the image, unique in its set.
        label: The true class.
        predicted: The first predicted class.
        top1_cls: The first predicted class is right.
        top5_cls: One of the first five is.
        largest: IoU of the largest component of the true class's map with the ground-truth box that it meets best.
        any: The best such IoU of all components.
        gt_known: ``largest`` is at least 0.5.
        top1_loc: The first predicted class is right, and its own map hits.
        top5_loc: Likewise for one of the first five.
        error: One of ``ERROR_CATEGORIES``.
        object_fraction: Area of the largest ground-truth box over the image's.
        score: Probability of ``predicted``.
        confidence: How far the box can be confident, in [0, 1], see ``ImageScores``.
    """

    id: str
    label: int
    predicted: int | None = None
    top1_cls: bool | None = None
    top5_cls: bool | None = None
    largest: float | None = None
    any: float | None = None
    gt_known: bool | None = None
    top1_loc: bool | None = None
    top5_loc: bool | None = None
    error: str | None = None
    object_fraction: float | None = None
    score: float | None = None
    confidence: float | None = None


class ImageLog:
    """The images of a set as they come, until it is known which threshold they are reported at.

    Their scores at all thresholds wait in a file; in memory there is only a row for each.

    Args:
        protocol: Of the scores.
        file: An empty temporary file, open for writing and reading.
    """

    def __init__(self, protocol: Protocol, file: IO[bytes]) -> None:
        self._strict = protocol.strict_top_k
        self._file = file
        self._rows: list[ImageRow] = []
        self._lengths: list[int] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, id_: str, scores: ImageScores) -> None:
        """Add an image that was scored by ``score_image``."""
        row = ImageRow(id_, scores.label, score=scores.probability, confidence=scores.confidence)
        if len(scores.predicted):
            first = int(scores.predicted[0])
            row = replace(row, predicted=first, top1_cls=scores.in_top(1), top5_cls=scores.in_top(5))
        packed = b"" if scores.boxes is None else _packed(scores.boxes)
        self._file.write(packed)
        self._lengths.append(len(packed))
        share = None if scores.boxes is None else scores.boxes.object_fraction
        self._rows.append(replace(row, object_fraction=share))

    def rows(self, column: int) -> list[ImageRow]:
        """Return all images at one of the scores' thresholds (an index into ``scored_thresholds``)."""
        self._file.seek(0)
        packed = (self._file.read(length) for length in self._lengths)
        return [self._at(row, scores, column) for row, scores in zip(self._rows, packed, strict=True)]

    def _at(self, row: ImageRow, packed: bytes, column: int) -> ImageRow:
        if not packed:
            return row
        largest, any_, own, error = np.frombuffer(zlib.decompress(packed)).reshape(4, -1)[:, column].tolist()
        hit = own > 0.5 if self._strict else own >= 0.5
        found: dict[str, Any] = {"largest": largest, "any": any_, "gt_known": largest >= 0.5}
        found["error"] = ERROR_CATEGORIES[int(error)]
        if row.predicted is not None:
            found |= {"top1_loc": hit and bool(row.top1_cls), "top5_loc": hit and bool(row.top5_cls)}
        return replace(row, **found)


def _packed(boxes: BoxScores) -> bytes:
    arrays: NDArray[np.float64] = np.stack([boxes.largest, boxes.any, boxes.own, boxes.errors.astype(np.float64)])
    return zlib.compress(arrays.tobytes(), level=1)


def write_rows(path: str | Path, rows: Sequence[ImageRow], classes: Sequence[str]) -> None:
    """Write ``images.csv``: a line each, classes by name, truth as 1 and 0, nothing where a value is None.

    Written whole or not at all.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(ImageRow)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values = {name: int(value) if isinstance(value, bool) else value for name, value in asdict(row).items()}
        predicted = None if row.predicted is None else classes[row.predicted]
        writer.writerow({**values, "label": classes[row.label], "predicted": predicted})
    write_text(path, text.getvalue())


def read_table(path: str | Path) -> list[dict[str, Any]]:
    """Return the lines of an ``images.csv``: classes by name, numbers as float, None where there is nothing.

    Those of before there was a confidence lack its columns, which are then None; columns of other programs are left out.

    Raises:
        FileNotFoundError: where there is none.
        ValueError: where the file lacks a column, or has two lines of one id.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: measure the run with `tokenloc evaluate`, which writes it")
    names = [field.name for field in fields(ImageRow)]
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        there = reader.fieldnames or []
        if not set(names) - set(ADDED) <= set(there):
            raise ValueError(f"{path} has the columns {reader.fieldnames}, expected {names}")
        lines = [{name: _value(path, name, line.get(name)) for name in names} for line in reader]
    if len({line["id"] for line in lines}) < len(lines):
        raise ValueError(f"{path} has two lines of one id")
    return lines


def _value(path: Path, name: str, text: str | None) -> str | float | None:
    if not text:
        return None
    if name in ("id", "label", "predicted", "error"):
        return text
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{path} has {text!r} for {name}, expected a number; measure the run again") from None
