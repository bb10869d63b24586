"""Localizations to write, and independent readers of the files."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pyarrow import parquet

from tokenloc.boxes import Frame
from tokenloc.data import read_size
from tokenloc.data.annotations import Annotation, read_json, read_voc
from tokenloc.inference import Localization

CLASSES = ("bird", 'cat, "big" <b>&amp;</b>', "=1+1\nnaïve 🐦", "null")
HOSTILE = (*CLASSES, "yes", "a: b #c", "'@x", "-3", "]]>", "{x}%s", "\ttab\r\n\rend", "bell\x07", "1.0", "~", "", "[")


def localization(
    source: str,
    boxes: Sequence[Sequence[float]] = ((10.25, 5.5, 60.0, 30.125),),
    index: int = 0,
    *,
    classes: Sequence[str] = CLASSES,
    score: float = 0.75,
    size: tuple[int, int] = (80, 40),
) -> Localization:
    corners = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    return Localization(
        source=source,
        label=classes[index],
        class_index=index,
        score=score,
        boxes=corners,
        confidence=score / np.arange(2.0, 2 + len(corners)),
        map=np.ones((2, 2), np.float32),
        mask=np.ones((2, 2), bool),
        threshold=0.2,
        protocol="standard",
        frame=Frame.resized(size, (2, 2)),
    )


def golden_results(root: str | Path) -> list[Localization]:
    """The same file name in two folders; two boxes, and none; names with special characters."""
    return [
        localization(f"{root}/a/bird.jpg", [[10.25, 5.5, 60.0, 30.125], [0, 0, 3, 2.5]]),
        localization(f"{root}/b/bird.png", [], 1, score=0.5),
        localization(f"{root}/c d,e & 🐦.jpg", [[0.0, 0.0, 1234.0, 567.0]], 2, score=1 / 3, size=(1234, 567)),
    ]


@dataclass(frozen=True)
class Scored(Annotation):
    """An annotation with the score of each object; none if the format has no scores."""

    scores: tuple[float, ...] = ()


def read_annotations(name: str, folder: Path) -> list[Scored]:
    """Read the files of a format: those that tokenloc reads by its own readers, the others by the format's library."""
    if name == "coco":
        path = folder / "coco.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        boxes = content["annotations"]
        scores = [[box["score"] for box in boxes if box["image_id"] == image["id"]] for image in content["images"]]
        return _scored(read_json(path), scores)
    if name == "voc":
        files = sorted((folder / "voc").rglob("*.xml"))
        return _scored([read_voc(path) for path in files], [[]] * len(files))
    if name == "label-studio":
        tasks = json.loads((folder / "label-studio.json").read_text(encoding="utf-8"))
        predicted = [task["predictions"] for task in tasks]
        path = folder / "accepted.json"
        path.write_text(json.dumps([{**task, "annotations": task["predictions"]} for task in tasks]), "utf-8")
        return _scored(read_json(path), [[region["score"] for region in last["result"]] for *_, last in predicted])
    if name == "yolo":
        return _read_yolo(folder / "yolo")
    rows = _read_csv(folder) if name == "csv" else parquet.read_table(folder / "boxes.parquet").to_pylist()
    return [_annotation(file, list(of_file)) for file, of_file in groupby(rows, itemgetter("file"))]


def _scored(annotations: Sequence[Annotation], scores: Sequence[Sequence[float]]) -> list[Scored]:
    return [Scored(**vars(one), scores=tuple(own)) for one, own in zip(annotations, scores, strict=True)]


def _read_csv(folder: Path) -> list[dict[str, Any]]:
    with (folder / "boxes.csv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, strict=True)
        return [{**row, "file": unescaped(row["file"]), "label": unescaped(row["label"])} for row in rows]


FORMULA_STARTS = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")  # the last are full-width


def unescaped(text: str) -> str:
    """Remove the apostrophe in front of a formula."""
    return text[1:] if text.startswith("'") and text.lstrip("'")[:1] in FORMULA_STARTS else text


def _annotation(name: str, rows: list[dict[str, Any]]) -> Scored:
    boxes = [row for row in rows if row["x0"] not in (None, "")]
    objects = tuple((row["label"], tuple(float(row[key]) for key in ("x0", "y0", "x1", "y1"))) for row in boxes)
    size = int(rows[0]["width"]), int(rows[0]["height"])
    return Scored(name, objects, size, tuple(float(row["score"]) for row in boxes))


def _read_yolo(folder: Path) -> list[Scored]:
    """As Ultralytics documents it; sizes come from the images, which have the stem of the label file."""
    names = yaml.safe_load((folder / "data.yaml").read_text(encoding="utf-8"))["names"]
    images = {path.stem: path for path in (folder / "images/train").iterdir()}
    annotations = []
    for path in sorted((folder / "labels/train").iterdir()):
        width, height = read_size(images[path.stem])
        objects = []
        for line in path.read_text(encoding="utf-8").splitlines():
            index, *numbers = line.split()
            x, y, w, h = (float(number) * side for number, side in zip(numbers, [width, height] * 2, strict=True))
            objects.append((names[int(index)], (x - w / 2, y - h / 2, x + w / 2, y + h / 2)))
        annotations.append(Scored(images[path.stem].name, tuple(objects), (width, height)))
    return annotations
