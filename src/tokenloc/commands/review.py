"""What a person should look at first: the images of a run, the least confident first."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from tokenloc._files import atomic_write
from tokenloc.commands.journal import Finished, Journal
from tokenloc.export.base import valid_text
from tokenloc.export.csv_table import escaped_formula
from tokenloc.reporting import save_image, sheet

TABLE = "review.csv"
SHEET = "review.jpg"
COLUMNS = ("confidence", "file", "label", "score", "boxes", "image")
SHOWN = 12


def write_review(out: Path, files: Iterable[Path], journal: Journal) -> None:
    """Write review.csv: a line for each image, the least confident first; and a sheet of the first of them.

    An image's confidence is that of its most probable class's first box; one without a box stands at the top. In memory
    there is a number for each image.

    Args:
        out: the folder; the drawn images, where there are some, are below it.
        files: the images; those that are not finished are left out.
        journal: of the run.
    """
    done = [file for file in files if file in journal]
    confidence = np.fromiter(
        (one.findings[0].first_confidence for one in journal.finished(done)), np.float64, len(done)
    )
    ordered = [done[index] for index in np.argsort(confidence, kind="stable").tolist()]
    _write_table(out / TABLE, journal.finished(ordered))
    _write_sheet(out, journal.finished(ordered[:SHOWN]))


def _write_table(path: Path, finished: Iterable[Finished]) -> None:
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for one in finished:
            finding, shown = one.findings[0], one.shown[0]
            names = (escaped_formula(valid_text(text)) for text in (finding.source, finding.label))
            numbers = round(finding.score, 6), len(finding.boxes)
            writer.writerow((round(finding.first_confidence, 6), *names, *numbers, shown.get("image", "")))


def _write_sheet(out: Path, finished: Iterable[Finished]) -> None:
    """Draw the images on one sheet, where images of them were drawn."""
    images = [_opened(out / one.shown[0]["image"]) for one in finished if "image" in one.shown[0]]
    (out / SHEET).unlink(missing_ok=True)  # of an earlier run
    if images:
        title = f"what to check first: the first {len(images)} of {TABLE}"
        save_image(sheet(images, columns=3, title=title), out / SHEET)


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")
