"""The review order: the images of a run, the least confident first."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tokenloc._files import atomic_text
from tokenloc.commands.journal import Journal
from tokenloc.data import read_image
from tokenloc.export.base import valid_text
from tokenloc.export.tables import escape_formula
from tokenloc.reporting.drawing import save_sheet

TABLE, SHEET = "review.csv", "review.jpg"
SHEET_IMAGES = 12


def write_review(folder: Path, out: Path, files: Iterable[Path], journal: Journal) -> None:
    """Write review.csv, one line per image with the least confident first, and a sheet of the first drawings.

    Both are written to ``folder``; the drawings are in ``out``.

    The confidence of an image is that of the first box of its most probable class, 0 without a box.
    """
    finished = [file for file in files if file in journal]
    confidence = np.array([image.records[0].first_confidence for image in journal.read(finished)])
    ordered = [finished[index] for index in np.argsort(confidence, kind="stable").tolist()]
    with atomic_text(folder / TABLE) as file:
        writer = csv.writer(file)
        writer.writerow(("confidence", "file", "label", "score", "boxes", "image"))
        for image in journal.read(ordered):
            record, outputs = image.records[0], image.outputs[0]
            file_name, label = (escape_formula(valid_text(text)) for text in (record.source, record.label))
            values = round(record.first_confidence, 6), file_name, label, round(record.score, 6)
            writer.writerow((*values, len(record.boxes), outputs.get("image", "")))
    first = [image.outputs[0] for image in journal.read(ordered[:SHEET_IMAGES])]
    drawings = [read_image(out / outputs["image"]) for outputs in first if "image" in outputs]
    save_sheet(drawings, folder / SHEET, f"least confident images: the first {len(drawings)} of {TABLE}")
