"""The images of a report: which ones it shows, their thumbnails, and their boxes at every stop of the slider."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenloc.data import ImageDataset
from tokenloc.inference.evaluation import Progress
from tokenloc.metrics import ERROR_CATEGORIES
from tokenloc.metrics.stored_boxes import ImageBoxes
from tokenloc.reporting.localized import LocalizedRun
from tokenloc.reporting.runs import Run
from tokenloc.reporting.tables import ERRORS, error_of

SIDE, QUALITY = 256, 76  # of thumbnails: longer side in pixels, JPEG quality
STOPS = 100  # of the slider at most, besides the reported threshold
UNIT = 1000  # boxes are in 1/UNIT of the image's width and height, IoU in 1/UNIT


@dataclass(frozen=True)
class Gallery:
    """Indices of images to show together, chosen by one run or by all (None), of ``total`` images of their kind."""

    key: str
    title: str
    run: int | None
    images: list[int]
    total: int | None = None


def make_galleries(runs: Sequence[Run], count: int | None) -> list[Gallery]:
    """Return the galleries of runs on the same images, with at most ``count`` images each; the last unites them."""
    galleries = []
    if len(runs) > 1:
        iou = np.array([_column(run.rows, "largest") for run in runs])
        gaps = np.nan_to_num(iou.max(axis=0) - iou.min(axis=0))
        order = np.argsort(-gaps, kind="stable")[:count]
        galleries.append(Gallery("differ", "Runs differ most", None, order[gaps[order] > 0].tolist()))
    for index, run in enumerate(runs):
        galleries += _galleries_of(run.rows, index, count)
    galleries = [gallery for gallery in galleries if gallery.images]
    union = range(len(runs[0].rows)) if count is None else {image for each in galleries for image in each.images}
    return [*galleries, Gallery("all", "All with an image", None, sorted(union))]


def _galleries_of(rows: Sequence[Mapping[str, Any]], run: int, count: int | None) -> list[Gallery]:
    order, uncertain = (np.argsort(_column(rows, key), kind="stable").tolist() for key in ("largest", "confidence"))
    boxed = [index for index in order if rows[index]["largest"] is not None]
    uncertain = [index for index in uncertain if rows[index]["confidence"] is not None]
    errors = {error: [index for index in order if error_of(rows[index]) == error] for error in ERROR_CATEGORIES[1:]}
    return [
        Gallery("check", "Review first", run, uncertain[:count]),
        Gallery("worst", "Worst boxes", run, boxed[:count]),
        Gallery("best", "Best boxes", run, boxed[::-1][:count]),
        *(Gallery(error, ERRORS[error][0], run, images[:count], len(images)) for error, images in errors.items()),
    ]


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> NDArray[np.float64]:
    return np.array([row[name] for row in rows], dtype=np.float64)  # None becomes NaN


@dataclass(frozen=True)
class Slider:
    """The stops of a run's threshold slider, ascending; ``start`` is the stop of the reported threshold."""

    columns: list[int]  # of the stored boxes
    thresholds: list[float]
    start: int
    gt_known: list[float | None]  # percent


def make_slider(run: Run) -> Slider | None:
    """Return the slider of a run: the reported threshold and at most ``STOPS`` others; None without stored boxes."""
    if run.boxes is None or run.threshold is None:
        return None
    reported = round(run.threshold, 9)  # in a grid, 0.35 may be 0.35000000000000003
    columns = {round(value, 9): column for column, value in enumerate(run.boxes.thresholds.tolist())}
    grid = sorted(columns)
    stops = sorted({*grid[:: math.ceil(len(grid) / (STOPS + 1))], reported})
    accuracies = {reported: run.metrics.get("gt_known")}
    if run.curve is not None:
        known = zip(run.curve["threshold"], run.curve["0.5"], strict=True)
        accuracies = {**{round(value, 9): accuracy for value, accuracy in known}, **accuracies}
    return Slider([columns[stop] for stop in stops], stops, stops.index(reported), [accuracies.get(x) for x in stops])


@dataclass
class ReportImage:
    """An image in plain values for the page."""

    boxes: list[list[int]]  # of each run, see ``box_steps``
    truth: list[list[int]] = field(default_factory=list)
    others: list[list[int]] = field(default_factory=list)  # further predicted boxes, without an IoU
    size: tuple[int, int] | None = None  # (width, height); without stored boxes that of the thumbnail
    thumbnail: str | None = None  # JPEG, base64; None if the image could not be read


def make_images(
    runs: Sequence[Run],
    sliders: Sequence[Slider | None],
    indices: Iterable[int],
    dataset: ImageDataset | None,
    progress: Progress | None = None,
) -> dict[int, ReportImage]:
    """Return the images at ``indices`` of the rows, read from ``dataset`` by the rows' ids; see ``render_report``."""
    images = {index: ReportImage([[] for _ in runs]) for index in sorted(set(indices))}
    for number, (run, slider) in enumerate(zip(runs, sliders, strict=True)):
        if run.boxes is not None and slider is not None:
            for index, swept in run.boxes.images(images):
                size = run.boxes.size(index)
                images[index].size, images[index].truth = size, _to_unit(run.boxes.truth[index], size).tolist()
                images[index].boxes[number] = box_steps(swept, size, slider.columns)
        if isinstance(run, LocalizedRun):
            for index, image in images.items():
                record = run.records[index]
                image.size = record["width"], record["height"]
                image.others = _to_unit(np.array(record["boxes"], np.float64).reshape(-1, 4), image.size).tolist()
    if dataset is not None:
        positions = {id_: position for position, id_ in enumerate(dataset.ids)}
        for index in progress(images, "images", len(images)) if progress else images:
            if (position := positions.get(runs[0].rows[index]["id"])) is not None:
                _add_thumbnail(images[index], dataset, position)
    return images


def box_steps(image: ImageBoxes, size: tuple[int, int], columns: Sequence[int]) -> list[int]:
    """Return stop, x0, y0, x1, y1, IoU at each stop (of ``columns`` of the thresholds) where an image's box changes.

    >>> boxes = np.array([[0, 0, 20, 10], [0, 0, 20, 10], [5, 0, 10, 10]])
    >>> box_steps(ImageBoxes(boxes, np.array([0.5, 0.5, 0.7996], np.float32)), (20, 10), [0, 1, 2])
    [0, 0, 0, 1000, 1000, 500, 2, 250, 0, 500, 1000, 799]
    """
    iou = image.iou[list(columns)]
    if np.isnan(iou).any():
        return []
    iou = np.floor(np.float64(UNIT) * iou + 1e-4).astype(np.int64)  # truncated: a near miss must not look like a hit
    steps = np.column_stack([np.arange(len(columns)), _to_unit(image.boxes[list(columns)], size), iou])
    changed = np.concatenate([[True], (np.diff(steps[:, 1:], axis=0) != 0).any(axis=1)])
    return [int(value) for value in steps[changed].ravel()]


def _to_unit(boxes: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.int64]:
    return np.clip(np.round(UNIT * boxes / [*size, *size]), 0, UNIT).astype(np.int64).reshape(-1, 4)


def _add_thumbnail(image: ReportImage, dataset: ImageDataset, position: int) -> None:
    try:
        thumbnail = dataset.image(position, min_size=(SIDE, SIDE))
    except (ValueError, OSError):  # the report counts images without a thumbnail
        return
    thumbnail.thumbnail((SIDE, SIDE))
    image.size = image.size or thumbnail.size
    thumbnail.save(file := io.BytesIO(), "JPEG", quality=QUALITY, optimize=True)
    image.thumbnail = base64.b64encode(file.getvalue()).decode("ascii")
