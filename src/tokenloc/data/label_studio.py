"""Boxes of Label Studio tasks, annotated or predicted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tokenloc.data.annotations import Annotation, Box

LOCAL_FILES = "/data/local-files/?d="
"""Start of Label Studio's address of a local file."""


def read_label_studio(path: str | Path, predictions: bool = False) -> list[Annotation]:
    """Return the boxes of tasks in Label Studio's JSON export or written by tokenloc.

    If a task was annotated several times, the last annotation that was not cancelled counts.

    Args:
        path: the file.
        predictions: also return tasks without annotations, with the boxes of their last prediction; else they are left
            out, so that a model is not evaluated on its own predictions.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it holds no such tasks, or a box is rotated.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of Label Studio tasks")
    try:
        tasks = json.loads(path.read_text(encoding="utf-8"))
        return [annotation for task in tasks for annotation in _annotations(task, predictions)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}: not Label Studio tasks with boxes ({reason}); export them again as JSON") from error


def _annotations(task: Mapping[str, Any], predictions: bool) -> Iterator[Annotation]:
    """Yield the annotation of a task, if it has one."""
    results = [one for one in task.get("annotations") or [] if not one.get("was_cancelled")]
    if predictions:
        results = results or task.get("predictions") or [{}]
    address, local, path = task["data"]["image"].partition(LOCAL_FILES)
    if not results:
        return
    regions = [region for region in results[-1].get("result", []) if region["type"] == "rectanglelabels"]
    objects = tuple(_object(region) for region in regions)
    scores = tuple(float(region["score"]) for region in regions if region.get("score") is not None)
    sizes = [(int(region["original_width"]), int(region["original_height"])) for region in regions]
    name = unquote(path if local else address)
    yield Annotation(name, objects, sizes[0] if sizes else None, scores if len(scores) == len(objects) else ())


def _object(region: Mapping[str, Any]) -> tuple[str, Box]:
    value, width, height = region["value"], region["original_width"], region["original_height"]
    if value.get("rotation"):
        raise ValueError(f"a box is rotated by {value['rotation']} degrees, but boxes must be upright; rotate it back")
    x0, y0 = value["x"] * width / 100, value["y"] * height / 100
    x1, y1 = x0 + value["width"] * width / 100, y0 + value["height"] * height / 100
    return value["rectanglelabels"][0], (x0, y0, x1, y1)
