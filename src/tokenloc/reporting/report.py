"""The report: one HTML file with all that it needs in it, of one evaluation or of several side by side.

Its parts lie in ``templates``: the page, and small files of CSS and JavaScript. The page allows itself no
network and no script but its own, by its Content-Security-Policy; beside that every name in it is escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

from tokenloc.data import ImageDataset
from tokenloc.metrics import ERROR_CATEGORIES
from tokenloc.reporting.pages import render_page
from tokenloc.reporting.report_charts import HEIGHT, WIDTH, charts
from tokenloc.reporting.report_gallery import UNIT, Images, Slider, choose, imaged, slider
from tokenloc.reporting.report_numbers import (
    CLASS_COLUMNS,
    KINDS,
    ReportRun,
    class_columns,
    class_lines,
    kind_of,
    kind_shares,
    metric_lines,
)

LETTERS = "ABCDEF"
"""The runs' labels on images; a report has at most six."""

STYLES = ("base.css", "report.css")
SCRIPTS = ("core.js", "overlay.js", "filters.js", "slider.js", "gallery.js", "tables.js", "start.js")


def render_report(
    runs: Sequence[ReportRun],
    dataset: ImageDataset | None = None,
    *,
    images: int | None = 24,
    title: str = "",
    notes: Sequence[str] = (),
    progress: Callable[[Iterable[Any], str, int], Iterable[Any]] | None = None,
) -> str:
    """Return the page.

    Args:
        runs: Evaluations of the same images under the same protocol, at most six.
        dataset: The images; None draws boxes without them.
        images: Images in each gallery; None for all.
        title: Of the page; by default the runs' names.
        notes: What a reader should know about the report.
        progress: Wraps the reading of the images, to show its progress.

    Raises:
        ValueError: If there is no run or more than six.
    """
    if not 1 <= len(runs) <= len(LETTERS):
        raise ValueError(f"a report is of 1 to {len(LETTERS)} runs, got {len(runs)}")
    galleries, sliders = choose(runs, images), [slider(run) for run in runs]
    drawn = imaged(runs, sliders, galleries[-1].images, dataset, progress)
    return render_page(
        "report.html.j2",
        STYLES,
        SCRIPTS,
        title=title or " · ".join(run.name for run in runs),
        letters=LETTERS,
        runs=runs,
        first=runs[0].metrics,
        metrics=metric_lines(runs),
        kinds=[kind_shares(run) for run in runs],
        class_columns=[CLASS_COLUMNS[key] for key in class_columns(runs)],
        classes=class_lines(runs),
        charts=charts(runs),
        chart_size=(WIDTH, HEIGHT),
        sliders=sliders,
        notes=[*notes, *(f"{run.name}: {note}" for run in runs for note in run.notes)],
        unreadable=sum(image.thumbnail is None for image in drawn.values()),
        images=drawn,
        data=_data(runs, sliders, galleries, drawn),
    )


def _data(
    runs: Sequence[ReportRun],
    sliders: Sequence[Slider | None],
    galleries: Sequence[Any],
    shown: dict[int, Images],
) -> dict[str, Any]:
    """Return what the page's script works with, as plain values; classes and kinds of error by index."""
    classes = sorted({row[key] for run in runs for row in run.rows for key in ("label", "predicted")} - {None})
    places: dict[str | None, int | None] = {None: None, **{name: place for place, name in enumerate(classes)}}
    drawn = {index: {**asdict(one), "thumbnail": one.thumbnail is not None} for index, one in shown.items()}
    return {
        "unit": UNIT,
        "runs": [
            {"name": run.name, "slider": None if stops is None else asdict(stops)}
            for run, stops in zip(runs, sliders, strict=True)
        ],
        "classes": classes,
        "keys": ERROR_CATEGORIES,
        "kinds": [KINDS[key][0] for key in ERROR_CATEGORIES],
        "confidence": any(row.get("confidence") is not None for run in runs for row in run.rows),
        "boxes": any(row["largest"] is not None for run in runs for row in run.rows),
        "ids": [row["id"] for row in runs[0].rows],
        "labels": [places[row["label"]] for row in runs[0].rows],
        "predictions": [[_found(row, places) for row in run.rows] for run in runs],
        "galleries": [asdict(gallery) for gallery in galleries],
        "images": drawn,
    }


def _found(row: Any, places: dict[str | None, int | None]) -> list[float | int | None]:
    """Return what a run found in an image: predicted class, IoU, kind of error, confidence."""
    kind = kind_of(row)
    confidence = row.get("confidence")
    return [
        places[row["predicted"]],
        None if row["largest"] is None else round(row["largest"], 4),
        None if kind is None else ERROR_CATEGORIES.index(kind),
        None if confidence is None else round(confidence, 4),
    ]
