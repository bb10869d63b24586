"""What a person should look at first: the photographs of a run, the least trusted first."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from tokenloc._files import written_whole
from tokenloc.commands.journal import Finished, Journal
from tokenloc.export.base import valid_text
from tokenloc.export.csv_table import defused
from tokenloc.reporting import save_picture, sheet

TABLE = "check_first.csv"
SHEET = "check_first.jpg"
COLUMNS = ("trust", "file", "label", "score", "boxes", "picture")
SHOWN = 12


def write_check_first(out: Path, files: Iterable[Path], journal: Journal) -> None:
    """Write check_first.csv: a line for each photograph, the least trusted first; and a sheet of the first of them.

    A photograph's trust is that of its most probable class's first box; one without a box stands at the top. In memory
    there is a number for each photograph.

    Args:
        out: the folder; the drawn photographs, where there are some, are below it.
        files: the photographs; those that are not finished are left out.
        journal: of the run.
    """
    done = [file for file in files if file in journal]
    trust = np.fromiter((one.findings[0].first_trust for one in journal.finished(done)), np.float64, len(done))
    ordered = [done[index] for index in np.argsort(trust, kind="stable").tolist()]
    _write_table(out / TABLE, journal.finished(ordered))
    _write_sheet(out, journal.finished(ordered[:SHOWN]))


def _write_table(path: Path, finished: Iterable[Finished]) -> None:
    with written_whole(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for one in finished:
            finding, shown = one.findings[0], one.shown[0]
            names = (defused(valid_text(text)) for text in (finding.source, finding.label))
            numbers = round(finding.score, 6), len(finding.boxes)
            writer.writerow((round(finding.first_trust, 6), *names, *numbers, shown.get("picture", "")))


def _write_sheet(out: Path, finished: Iterable[Finished]) -> None:
    """Draw the photographs on one sheet, where pictures of them were drawn."""
    pictures = [_opened(out / one.shown[0]["picture"]) for one in finished if "picture" in one.shown[0]]
    (out / SHEET).unlink(missing_ok=True)  # of an earlier run
    if pictures:
        title = f"what to check first: the first {len(pictures)} of {TABLE}"
        save_picture(sheet(pictures, columns=3, title=title), out / SHEET)


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")
