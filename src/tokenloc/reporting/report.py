"""The HTML report of one or several evaluations: a single file that contains all that it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tokenloc.data import ImageDataset
from tokenloc.inference.evaluation import Progress
from tokenloc.reporting.charts import evaluation_charts
from tokenloc.reporting.galleries import UNIT, Gallery, ReportImage, Slider, make_galleries, make_images, make_slider
from tokenloc.reporting.localized import LocalizedRun
from tokenloc.reporting.pages import render_page
from tokenloc.reporting.runs import Run
from tokenloc.reporting.tables import ERRORS, KINDS, class_table, error_counts, error_of, metric_table

LETTERS = "ABCDEF"  # the runs' labels on images
SCRIPTS = ("core.js", "overlay.js", "filters.js", "slider.js", "gallery.js", "tables.js")


def render_report(
    runs: Sequence[Run],
    dataset: ImageDataset | None = None,
    *,
    images: int | None = 24,
    title: str = "",
    notes: Sequence[str] = (),
    progress: Progress | None = None,
) -> str:
    """Return the page about one to six evaluations of the same images under the same protocol.

    Without ``dataset``, boxes are drawn without images. ``images`` is the number per gallery, None for all. Raises
    ValueError if there are more runs, or a file of one is damaged.
    """
    if not 1 <= len(runs) <= len(LETTERS):
        raise ValueError(f"a report is of 1 to {len(LETTERS)} runs, got {len(runs)}")
    galleries, sliders = make_galleries(runs, images), [make_slider(run) for run in runs]
    report_images = make_images(runs, sliders, galleries[-1].images, dataset, progress)
    class_columns, classes = class_table(runs)
    return render_page(
        "report.html.j2",
        ("base.css", "report.css"),
        SCRIPTS,
        title=title or " · ".join(run.name for run in runs),
        letters=LETTERS,
        runs=runs,
        first=runs[0].content,
        located=isinstance(runs[0], LocalizedRun),
        metrics=metric_table(runs),
        errors=[error_counts(run) for run in runs],
        error_texts=ERRORS,
        class_columns=class_columns,
        classes=classes,
        charts=evaluation_charts(runs),
        sliders=sliders,
        notes=[*notes, *(f"{run.name}: {note}" for run in runs for note in run.notes)],
        unreadable=sum(image.thumbnail is None for image in report_images.values()),
        images=report_images,
        data=_data(runs, sliders, galleries, report_images),
    )


def _data(
    runs: Sequence[Run], sliders: list[Slider | None], galleries: list[Gallery], images: dict[int, ReportImage]
) -> dict[str, Any]:
    """Return the data of the page's script as plain values; classes and kinds of error are indices."""
    rows = [row for run in runs for row in run.rows]
    classes = sorted({row[key] for row in rows for key in ("label", "predicted")} - {None})
    indices = {name: index for index, name in enumerate(classes)}

    def prediction(row: Mapping[str, Any]) -> list[float | int | None]:
        iou, confidence = (None if row[key] is None else round(row[key], 4) for key in ("largest", "confidence"))
        kind = None if (error := error_of(row)) is None else KINDS.index(error)
        return [indices.get(row["predicted"]), iou, kind, confidence]

    return {
        "unit": UNIT,
        "names": [run.name for run in runs],
        "sliders": [slider and asdict(slider) for slider in sliders],
        "classes": classes,
        "keys": KINDS,
        "kinds": [ERRORS[key][0] for key in KINDS],
        "confidence": any(row["confidence"] is not None for row in rows),
        "judged": any(error_of(row) is not None for row in rows),
        "boxes": any(row["largest"] is not None for row in rows),
        "ids": [row["id"] for row in runs[0].rows],
        "labels": [indices[row["label"]] for row in runs[0].rows],
        "predictions": [[prediction(row) for row in run.rows] for run in runs],
        "galleries": [asdict(gallery) for gallery in galleries],
        "images": {key: {**asdict(image), "thumbnail": image.thumbnail is not None} for key, image in images.items()},
    }
