"""The report: one HTML file with all that it needs in it, of one evaluation or of several side by side.

Its parts lie in ``templates``: the page, and small files of CSS and JavaScript. The page allows itself no
network and no script but its own, by its Content-Security-Policy; beside that every name in it is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from tokenloc.data import ImageDataset
from tokenloc.metrics import ERROR_CATEGORIES
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
"""By which runs are told from each other on images; so there are six at most."""

SCRIPTS = ("core.js", "slider.js", "gallery.js", "tables.js", "start.js")
_TEMPLATES = files("tokenloc.reporting").joinpath("templates")


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
        runs: Evaluations of the same images under the same protocol, six at most.
        dataset: Has the images, by their ids; None where they are nowhere: boxes are then drawn on nothing.
        images: TrainingData in each gallery; None for all in each.
        title: Of the page; by default the runs' names.
        notes: What a reader should know of the whole.
        progress: Wraps the reading of the images, to show how far it is.

    Raises:
        ValueError: where there is no run, or more than six.
    """
    if not 1 <= len(runs) <= len(LETTERS):
        raise ValueError(f"a report is of 1 to {len(LETTERS)} runs, got {len(runs)}")
    galleries, sliders = choose(runs, images), [slider(run) for run in runs]
    shown = imaged(runs, sliders, galleries[-1].images, dataset, progress)
    script = Markup("(() => {\n'use strict';\n" + "\n".join(_text(name) for name in SCRIPTS) + "})();\n")
    lacking = sum(one.image is None for one in shown.values())
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=title or " · ".join(run.name for run in runs),
            letters=LETTERS,
            runs=runs,
            first=runs[0].metrics,
            metrics=metric_lines(runs),
            kinds=[kind_shares(run) for run in runs],
            explained=KINDS,
            class_columns=[CLASS_COLUMNS[key] for key in class_columns(runs)],
            classes=class_lines(runs),
            charts=charts(runs),
            chart_size=(WIDTH, HEIGHT),
            sliders=sliders,
            notes=[*notes, *(f"{run.name}: {note}" for run in runs for note in run.notes)],
            lacking=lacking,
            shown=shown,
            data=_data(runs, sliders, galleries, shown),
            style=Markup(_text("report.css")),
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
            version=version("tokenloc"),
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_text), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.filters["number"] = _number
    return environment


def _text(name: str) -> str:
    return _TEMPLATES.joinpath(name).read_text(encoding="utf-8")


def _number(value: float | None, digits: int = 1) -> str:
    """Return a number as tables show it; a dash where there is none.

    >>> _number(82.54), _number(None), _number(0.5, 2)
    ('82.5', '-', '0.50')
    """
    return "-" if value is None else f"{value:.{digits}f}"


def _data(
    runs: Sequence[ReportRun],
    sliders: Sequence[Slider | None],
    galleries: Sequence[Any],
    shown: dict[int, Images],
) -> dict[str, Any]:
    """Return what the page's script works with, as plain values; classes and kinds of error by index."""
    classes = sorted({row[key] for run in runs for row in run.rows for key in ("label", "predicted")} - {None})
    places: dict[str | None, int | None] = {None: None, **{name: place for place, name in enumerate(classes)}}
    drawn = {index: {**asdict(one), "image": one.image is not None} for index, one in shown.items()}
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
        "found": [[_found(row, places) for row in run.rows] for run in runs],
        "galleries": [asdict(gallery) for gallery in galleries],
        "shown": drawn,
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
