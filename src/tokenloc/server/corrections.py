"""Boxes that people draw or accept in Label Studio, and the map threshold that they calibrate."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any, get_type_hints

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tokenloc._files import read_text, write_text
from tokenloc._plain import load_json, require_types
from tokenloc.backbones.weights import weights_digest
from tokenloc.boxes import box_iou, largest_boxes
from tokenloc.inference import Localizer
from tokenloc.inference.evaluation import CLEARLY

MOST = 1000  # corrections, the newest ones
MOST_BOXES = 100  # of a correction
MOST_CHARACTERS = 2000  # of an image's address
HIT = 50  # percent of IoU


@dataclass(frozen=True)
class Correction:
    """The boxes of one class in the image of a task.

    Attributes:
        project: the id of the project.
        task: the id of the task, which has one correction: the last one.
        annotation: the id of the annotation.
        image: the image's address in the task.
        label: the class.
        boxes: xyxy in percent of the image.
        iou: the IoU of the model's box with them at each threshold, in whole percent; None until it is computed.
    """

    project: int
    task: int
    annotation: int
    image: str
    label: str
    boxes: list[list[float]]
    iou: list[int] | None = None


class Corrections:
    """The corrections of a model, in a file that outlives the server, and the threshold that fits them best.

    Threads may share it. The file of other weights is read, but its IoUs are computed anew.

    Raises:
        ValueError, OSError: if the file is not one of corrections, or cannot be read.
    """

    def __init__(self, path: Path, localizer: Localizer) -> None:
        self.path = path
        self.localizer = localizer
        self.threshold = localizer.threshold
        self._model = f"{weights_digest(localizer.model)} {localizer.options} {localizer.protocol.name}"
        self._grid = np.array(localizer.protocol.thresholds)
        self._lock = Lock()
        self._by_task: dict[tuple[int, int], Correction] = {}
        if path.exists():
            self._load()

    def __len__(self) -> int:
        return len(self._by_task)

    def add(self, correction: Correction) -> None:
        """Store a correction in place of an earlier one of its task; without boxes, remove that."""
        key = (correction.project, correction.task)
        with self._lock:
            self._by_task.pop(key, None)
            if correction.boxes:
                self._by_task[key] = correction
            self._store()

    def remove(self, project: int, annotations: Collection[int]) -> None:
        """Remove the corrections of deleted annotations."""
        with self._lock:
            kept = self._by_task.items()
            self._by_task = {key: one for key, one in kept if key[0] != project or one.annotation not in annotations}
            self._store()

    def pending(self) -> list[Correction]:
        """Return the corrections whose IoU is not yet computed."""
        with self._lock:
            return [one for one in self._by_task.values() if one.iou is None]

    def measure(self, correction: Correction, image: Image.Image) -> None:
        """Compute the IoU of a correction from its image, and choose the threshold anew."""
        result = self.localizer(image, label=correction.label)
        found = result.frame.to_original(largest_boxes(result.map, self._grid, self.localizer.protocol))
        truth = np.array(correction.boxes) * np.tile(result.size, 2) / 100
        iou = np.floor(100 * box_iou(found, truth).max(axis=1)).astype(int).tolist()
        with self._lock:
            key = (correction.project, correction.task)
            if self._by_task.get(key) == correction:  # not replaced meanwhile
                self._by_task[key] = replace(correction, iou=iou)
                self._store()

    def _load(self) -> None:
        types = {name: kind for name, kind in get_type_hints(Correction).items() if name != "return"}
        try:
            content = load_json(read_text(self.path))
            require_types(content, {"model": str, "corrections": list[dict[str, Any]]})
            for values in content["corrections"]:
                require_types(values, types)
                one = Correction(**values)
                boxes, levels = np.array(one.boxes).reshape(-1, 4), one.iou or []
                if content["model"] != self._model or len(levels) != len(self._grid):
                    one = replace(one, iou=None)
                if len(boxes) and one.label in self.localizer.classes:
                    self._by_task[one.project, one.task] = one
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self.path} is not a file of corrections ({error}); move it elsewhere") from error
        self._calibrate()

    def _store(self) -> None:
        while len(self._by_task) > MOST:
            self._by_task.pop(next(iter(self._by_task)))
        content = {"model": self._model, "corrections": [asdict(one) for one in self._by_task.values()]}
        write_text(self.path, json.dumps(content, allow_nan=False) + "\n")
        self._calibrate()

    def _calibrate(self) -> None:
        measured = [one.iou for one in self._by_task.values() if one.iou is not None]
        self.threshold = best_threshold(np.array(measured), self._grid, self.localizer.threshold)


def best_threshold(iou: NDArray[np.int64], grid: NDArray[np.float64], default: float) -> float:
    """Return the threshold with the most hits, or the ``default`` unless at least ``CLEARLY`` more images are right.

    Of equal ones, it is the one with the highest mean IoU: of few images, many are equal, and the lowest of them, which
    ``calibrate`` takes, was worse on others.

    Args:
        iou: [N, T] in percent, of N images at the thresholds of the ``grid`` [T].
        grid: ascending, in [0, 1].
        default: in [0, 1]; its hits are those of the nearest threshold of the grid.
    """
    if not len(iou):
        return default
    hits = (iou >= HIT).sum(axis=0)
    best = int(np.lexsort((iou.mean(axis=0), hits))[-1])
    kept = int(np.abs(grid - default).argmin())
    return float(grid[best]) if hits[best] - hits[kept] >= CLEARLY else default
