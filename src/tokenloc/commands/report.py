"""``tokenloc report``: what runs found, as one HTML file to look at."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from tokenloc._files import refuse_unwritable, write_text
from tokenloc.commands.console import print_message, progress
from tokenloc.commands.datasets import open_data
from tokenloc.commands.results import BOXES, IMAGES, METRICS, MISSING, read_metrics
from tokenloc.data import ImageDataset
from tokenloc.data.base import shorten
from tokenloc.metrics.images import read_table
from tokenloc.metrics.stored_boxes import StoredBoxes, open_boxes
from tokenloc.reporting.report import render_report
from tokenloc.reporting.report_numbers import ReportRun

EVALUATIONS = "evaluation"
CURVE = "figures/threshold.csv"
USUAL = "standard"


def report(
    runs: list[Path],
    *,
    out: Path = Path("report.html"),
    evaluation: str | None = None,
    images: int | Literal["all"] = 24,
    root: Path | None = None,
    title: str = "",
) -> Path:
    """Write one HTML file on a run, or on several side by side: numbers, curves, images with their boxes.

    It opens in any browser and needs no network. The threshold slider redraws the boxes.

    Args:
        runs: folders of evaluations, or of runs with evaluations in them, on the same images under one protocol.
        out: the file to write; an older one is replaced.
        evaluation: which evaluation of each run's folder; by default `standard`, or the only one.
        images: images in each gallery, or all for every image.
        root: the folder of the images, where they are no longer where they were measured.
        title: of the report; by default the names of the runs.

    Returns:
        the file.
    """
    if images != "all" and images < 1:
        raise ValueError(f"images must be at least 1, or all, got {images}")
    refuse_unwritable(out.parent)
    folders = [find_evaluation(folder, evaluation) for folder in runs]
    read = [read_run(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]
    for other in read[1:]:
        _require_alike(read[0], other)
    dataset, reason = _images(read, root)
    count = None if images == "all" else images
    page = render_report(read, dataset, images=count, title=title, notes=[reason] if reason else [], progress=progress)
    write_text(out, page)
    size = f"{out.stat().st_size / 1e6:.1f} MB"
    print_message(f"{out}: {size}")
    for note in [reason, *(note for run in read for note in run.notes)]:
        if note:
            print_message(note)
    return out


def find_evaluation(folder: Path, name: str | None = None) -> Path:
    """Return the folder with the metrics.json that is meant by ``folder``: it itself, or an evaluation in it.

    Args:
        folder: Of a run or of an evaluation.
        name: Of the evaluation in a run's folder; None for ``standard``, else the only one.

    Raises:
        FileNotFoundError: where there is none.
        ValueError: where it is not clear which one is meant.
    """
    found = {path.parent.name: path.parent for path in sorted(folder.glob(f"{EVALUATIONS}/*/{METRICS}"))}
    if name is not None and (found or not (folder / METRICS).is_file()):
        if name not in found:
            raise FileNotFoundError(f"{folder} has no evaluation {name!r}; it has: {shorten(list(found)) or 'none'}")
        return found[name]
    if USUAL in found or len(found) == 1:
        return found.get(USUAL) or next(iter(found.values()))
    if found:
        raise ValueError(
            f"{folder} has several evaluations: {', '.join(found)}; choose one by --evaluation NAME, or give its "
            f"folder, such as {folder / EVALUATIONS / next(iter(found))}"
        )
    if not (folder / METRICS).is_file():
        raise FileNotFoundError(
            f"{folder} is no evaluation: there is no {METRICS} in it, nor in {EVALUATIONS}/NAME below it; "
            "`tokenloc evaluate` writes it"
        )
    return folder


def _names(folders: Sequence[Path]) -> list[str]:
    """Return a short name for each folder; longer ones where short ones would be the same."""
    short = [_name(folder) for folder in folders]
    return short if len(set(short)) == len(short) else [str(folder) for folder in folders]


def _name(folder: Path) -> str:
    """Return an evaluation's name by its folder.

    >>> _name(Path("runs/sat/evaluation/standard")), _name(Path("runs/sat/evaluation/flip")), _name(Path("runs/sat"))
    ('sat', 'sat, flip', 'sat')
    """
    folder = folder.absolute()
    if folder.parent.name != EVALUATIONS:
        return folder.name or str(folder)
    return folder.parents[1].name + ("" if folder.name == USUAL else f", {folder.name}")


def read_run(folder: Path, name: str) -> ReportRun:
    """Return an evaluation as it lies in its folder.

    Raises:
        FileNotFoundError: where metrics.json or images.csv is missing.
        ValueError: where one of them is damaged.
    """
    metrics, rows = read_metrics(folder), read_table(folder / IMAGES)
    if not rows or metrics["images"] != len(rows):
        raise ValueError(
            f"{folder / IMAGES} has {len(rows)} images, {METRICS} beside it {metrics['images']}: they are not of "
            "one evaluation; measure again with `tokenloc evaluate`"
        )
    boxes, missing = _read_boxes(folder, metrics, rows)
    notes = [missing] if missing else []
    return ReportRun(name, metrics, rows, _read_curve(folder / CURVE), boxes, [*notes, *_left_out(metrics)])


def _read_boxes(folder: Path, metrics: dict[str, Any], rows: Sequence[Any]) -> tuple[StoredBoxes | None, str]:
    """Return the boxes at all thresholds, or None and why there is no slider."""
    boxed = [index for index, row in enumerate(rows) if row["largest"] is not None]
    if not boxed:
        return None, ""
    advice = "so there is no threshold slider; measure again with `tokenloc evaluate` to have it"
    path = folder / BOXES
    if not path.is_file():
        return None, f"there is no {path}, {advice}"
    try:
        boxes = open_boxes(path)
        agree = (boxes.protocol, list(boxes.ids)) == (metrics["protocol"], [row["id"] for row in rows])
        if not agree or not _same_iou(boxes, metrics["threshold"], rows, boxed[0]):
            return None, f"{path} is of another evaluation than {IMAGES} beside it, {advice}"
    except ValueError as error:
        return None, f"{error}; until then there is no threshold slider"
    return boxes, ""


def _same_iou(boxes: StoredBoxes, threshold: float, rows: Sequence[Any], index: int) -> bool:
    thresholds = boxes.thresholds.tolist()
    ((_, image),) = islice(boxes.images({index}), 1)
    return threshold in thresholds and bool(abs(image.iou[thresholds.index(threshold)] - rows[index]["largest"]) < 1e-4)


def _read_curve(path: Path) -> dict[str, list[float]] | None:
    if not path.is_file():
        return None
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = [{key: float(text) for key, text in line.items()} for line in csv.DictReader(file)]
        return {key: [line[key] for line in lines] for key in ("threshold", "0.5", "0.7", "0.9")} if lines else None
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}); measure again with `tokenloc evaluate`") from error


def _left_out(metrics: dict[str, Any]) -> list[str]:
    """Return in words what is in no number."""
    lists = {what: names for what, names in metrics.get("missing", {}).items() if names}
    told = [f"{len(names)} {MISSING[what]}: {shorten(names)}" for what, names in lists.items() if what in MISSING]
    unreadable = [item["id"] for item in metrics.get("unreadable", [])]
    return [*told, *([f"{len(unreadable)} images could not be read: {shorten(unreadable)}"] if unreadable else [])]


def _require_alike(first: ReportRun, other: ReportRun) -> None:
    """Raise ValueError where two runs cannot stand side by side."""
    protocols = first.metrics["protocol"], other.metrics["protocol"]
    if protocols[0] != protocols[1]:
        raise ValueError(
            f"{first.name} is under protocol {protocols[0]!r}, {other.name} under {protocols[1]!r}: their numbers "
            "cannot be compared; make a report of each, or measure both under one"
        )
    one, two = ({row["id"]: row["label"] for row in run.rows} for run in (first, other))
    odd = [id_ for id_ in {**one, **two} if one.get(id_) != two.get(id_)]
    if odd:
        raise ValueError(
            f"{first.name} and {other.name} are of different images or classes ({shorten(odd)}): expected one set; "
            "make a report of each"
        )
    if list(one) != list(two):
        raise ValueError(f"{first.name} and {other.name} have their images in another order; measure one again")


def _images(runs: Sequence[ReportRun], root: Path | None) -> tuple[ImageDataset | None, str]:
    """Open the images that were measured; return None, and why, where that cannot be."""
    described = next((run.metrics["data"] for run in runs if run.metrics.get("data")), None)
    if described is None:
        return (
            None,
            "the evaluation does not say where its images are; measure again with `tokenloc evaluate`",
        )
    try:
        return open_data({**described, **({"root": str(root)} if root else {})}, None), ""
    except (ValueError, OSError, KeyError, TypeError) as error:
        return (
            None,
            f"the images are not where they were measured ({error}); --root FOLDER says where they are now",
        )
