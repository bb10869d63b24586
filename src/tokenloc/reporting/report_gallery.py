"""Which images a report shows, their thumbnails, and their boxes at every stop of the threshold slider."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenloc.data import ImageDataset
from tokenloc.metrics import ERROR_CATEGORIES
from tokenloc.metrics.stored_boxes import StoredBoxes, SweptImage
from tokenloc.reporting.report_numbers import KINDS, ReportRun, Row, kind_of

SIDE = 256
"""The longer side of a thumbnail, in pixels."""

QUALITY = 76
STOPS = 100
"""Stops of the threshold slider at most, beside the threshold that is reported."""

UNIT = 1000
"""Boxes are in this part of the image's width and height, and IoU in this part of 1."""


@dataclass(frozen=True)
class Gallery:
    """TrainingData to look at together.

    Args:
        key: differ, check, worst, best, all, or a kind of error.
        title: For people.
        run: The run by which they were chosen; None for all.
        images: Indices of rows, in the order to be shown in.
        total: How many there are of that kind, shown or not; None where that says nothing.
    """

    key: str
    title: str
    run: int | None
    images: list[int]
    total: int | None = None


def choose(runs: Sequence[ReportRun], count: int | None) -> list[Gallery]:
    """Return the galleries: where runs differ, what to check, worst and best boxes, kinds of error; last, all of these.

    Args:
        runs: Of the same images.
        count: TrainingData in each; None for all.
    """
    galleries = [_differing(runs, count)] if len(runs) > 1 else []
    for number, run in enumerate(runs):
        galleries += _of_run(run.rows, number, count)
    everything = range(len(runs[0].rows)) if count is None else {image for one in galleries for image in one.images}
    galleries = [gallery for gallery in galleries if gallery.images]
    return [*galleries, Gallery("all", "All with an image", None, sorted(everything))]


def _differing(runs: Sequence[ReportRun], count: int | None) -> Gallery:
    iou = np.array([[_number(row["largest"]) for row in run.rows] for run in runs])
    spread = np.nan_to_num(iou.max(axis=0) - iou.min(axis=0))
    order = np.argsort(-spread, kind="stable")
    return Gallery("differ", "Runs differ most", None, [int(index) for index in order[:count] if spread[index] > 0])


def _of_run(rows: Sequence[Row], run: int, count: int | None) -> list[Gallery]:
    by_iou = _ascending(rows, "largest")
    kinds = [(kind, [index for index in by_iou if kind_of(rows[index]) == kind]) for kind in ERROR_CATEGORIES[1:]]
    boxed = [index for index in by_iou if rows[index]["largest"] is not None]
    confident = [index for index in _ascending(rows, "confidence") if rows[index].get("confidence") is not None]
    return [
        Gallery("check", "Check first", run, confident[:count]),
        Gallery("worst", "Worst boxes", run, boxed[:count]),
        Gallery("best", "Best boxes", run, boxed[::-1][:count]),
        *(Gallery(kind, KINDS[kind][0], run, images[:count], len(images)) for kind, images in kinds),
    ]


def _ascending(rows: Sequence[Row], column: str) -> list[int]:
    """Return the indices of ``rows`` by a column, the lowest first, those without a value last."""
    values = np.array([_number(row.get(column)) for row in rows])
    order: list[int] = np.argsort(values, kind="stable").tolist()
    return order


def _number(value: float | None) -> float:
    return math.nan if value is None else value


@dataclass(frozen=True)
class Slider:
    """The thresholds that a run's slider stops at, ascending.

    Args:
        columns: Of each stop, among the thresholds of the stored boxes.
        thresholds: Their values.
        start: The stop of the threshold that the run is reported at.
        gt_known: GT-known at each stop, in percent; None where it is not known.
    """

    columns: list[int]
    thresholds: list[float]
    start: int
    gt_known: list[float | None]


def slider(run: ReportRun) -> Slider | None:
    """Return a run's slider: the reported threshold and at most ``STOPS`` others; None without boxes at thresholds."""
    reported = run.metrics.get("threshold")
    if run.boxes is None or reported is None:
        return None
    columns = {_rounded(value): column for column, value in enumerate(run.boxes.thresholds.tolist())}
    grid = sorted(columns)
    stops = sorted({*grid[:: math.ceil(len(grid) / (STOPS + 1))], _rounded(reported)})
    known = {_rounded(value): accuracy for value, accuracy in _accuracies(run)}
    start = stops.index(_rounded(reported))
    return Slider([columns[stop] for stop in stops], stops, start, [known.get(stop) for stop in stops])


def _rounded(threshold: float) -> float:
    """Return a threshold by which it is found again: 0.35 of a grid may be 0.35000000000000003."""
    return round(threshold, 9)


def _accuracies(run: ReportRun) -> list[tuple[float, float | None]]:
    """Return GT-known by threshold, that of the reported threshold last."""
    curve = run.curve or {"threshold": [], "0.5": []}
    return [*zip(curve["threshold"], curve["0.5"], strict=True), (run.metrics["threshold"], run.metric("gt_known"))]


@dataclass
class Images:
    """An image of a report, in plain values for its page.

    Args:
        size: (width, height); the thumbnail's where no boxes are stored; None where nothing is known.
        truth: True boxes, four numbers each in ``UNIT`` of the image.
        boxes: For each run, and each stop at which its box is another than before, six numbers: the stop, x0, y0, x1,
            y1 and IoU, both in ``UNIT``; empty without boxes.
        thumbnail: Its JPEG, base64; None where it could not be read.
    """

    size: tuple[int, int] | None = None
    truth: list[list[int]] = field(default_factory=list)
    boxes: list[list[int]] = field(default_factory=list)
    thumbnail: str | None = None


def imaged(
    runs: Sequence[ReportRun],
    sliders: Sequence[Slider | None],
    images: Iterable[int],
    dataset: ImageDataset | None,
    progress: Callable[[Iterable[Any], str, int], Iterable[Any]] | None = None,
) -> dict[int, Images]:
    """Return what is drawn of each of ``images``.

    Args:
        runs: Of the same images.
        sliders: Of the runs.
        images: Indices of rows.
        dataset: Has the images, by the rows' ids; None where they are nowhere.
        progress: Wraps the reading of the images, to show how far it is.
    """
    wanted = sorted(set(images))
    found = {index: Images(boxes=[[] for _ in runs]) for index in wanted}
    for number, (run, stops) in enumerate(zip(runs, sliders, strict=True)):
        if run.boxes is not None and stops is not None:
            _add_boxes(found, number, run.boxes, stops)
    if dataset is not None:
        places = {id_: place for place, id_ in enumerate(dataset.ids)}
        shown = progress(wanted, "images", len(wanted)) if progress else wanted
        for index in shown:
            _add_image(found[index], dataset, places.get(runs[0].rows[index]["id"]))
    return found


def _add_boxes(found: dict[int, Images], run: int, boxes: StoredBoxes, stops: Slider) -> None:
    for index, image in boxes.images(found):
        one = found[index]
        one.size = boxes.size(index)
        one.truth = _parts(boxes.truth[index], one.size).tolist()
        one.boxes[run] = steps(image, one.size, stops.columns)


def steps(image: SweptImage, size: tuple[int, int], columns: Sequence[int]) -> list[int]:
    """Return an image's boxes at ``columns`` of its thresholds, each where it changes; see :class:`Images`.

    >>> boxes = np.array([[0, 0, 20, 10], [0, 0, 20, 10], [5, 0, 10, 10]])
    >>> steps(SweptImage(boxes, np.array([0.5, 0.5, 0.7996], np.float32)), (20, 10), [0, 1, 2])
    [0, 0, 0, 1000, 1000, 500, 2, 250, 0, 500, 1000, 799]
    """
    iou = image.iou[list(columns)]
    if np.isnan(iou).any():
        return []
    parts = np.floor(np.float64(UNIT) * iou + 1e-4).astype(np.int64)  # a miss by a hair must not look like a hit
    lines = np.column_stack([np.arange(len(columns)), _parts(image.boxes[list(columns)], size), parts])
    changed = np.concatenate([[True], (np.diff(lines[:, 1:], axis=0) != 0).any(axis=1)])
    flat: list[int] = lines[changed].ravel().tolist()
    return flat


def _parts(boxes: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.int64]:
    """Return boxes [N, 4] in ``UNIT`` of an image's (width, height), kept inside of it."""
    return np.clip(np.round(UNIT * boxes / [*size, *size]), 0, UNIT).astype(np.int64).reshape(-1, 4)


def _add_image(one: Images, dataset: ImageDataset, place: int | None) -> None:
    if place is None:
        return
    try:
        image = dataset.image(place, min_size=(SIDE, SIDE))
    except (ValueError, OSError):  # the page says how many have no image
        return
    image.thumbnail((SIDE, SIDE))
    one.size = one.size or image.size
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY, optimize=True)
    one.thumbnail = base64.b64encode(file.getvalue()).decode("ascii")
