"""An evaluation on disk, as reports and comparisons read it: metrics.json, images.csv, boxes.npz and a curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenloc._files import read_csv, read_text
from tokenloc._names import counted
from tokenloc._plain import load_json, require_types
from tokenloc.data.base import file_fingerprint, shorten
from tokenloc.metrics.images import read_table
from tokenloc.metrics.stored_boxes import StoredBoxes, open_boxes

METRICS, IMAGES, BOXES = "metrics.json", "images.csv", "boxes.npz"
CURVE = "figures/threshold.csv"
AGAIN = "evaluate again with `tokenloc evaluate`"
CONTENT: dict[str, Any] = {  # the types in metrics.json of what is read
    "protocol": str,
    "images": int,
    "metrics": dict[str, float | dict[str, float] | None],
    "threshold": float | None,
    **dict.fromkeys(("data", "model"), dict[str, Any] | None),
    "threshold_source": str | None,
    "confidence": dict[str, list[float] | None] | None,
    "constant_boxes": dict[str, dict[str, float]] | None,
    "missing": dict[str, list[str]] | None,
    "unreadable": list[dict[str, str]] | None,
}
PARTS: dict[str, dict[str, Any]] = {  # and of what is read in those of these that are not empty
    "data": {"name": str, "split": str},
    "model": {"method": str, "backbone": str},
}
MISSING = {
    "boxes": "images have no true box, although others have, and are in no box metric",
    "masks": "images have no mask, although others have, and are in no pixel metric",
    "images": "images are listed but absent, and were left out",
    "classes": "classes have no evaluated image",
}


@dataclass(frozen=True, eq=False)
class Run:
    """An evaluation on disk: its folder, a name for people, and metrics.json; other files are read when needed."""

    folder: Path
    name: str
    content: Mapping[str, Any]
    fingerprint: str  # of metrics.json

    def require_unchanged(self) -> None:
        """Raise ValueError if the folder was evaluated again since ``read_run``: files read later are of that run."""
        path = self.folder / METRICS  # removed first and written last
        if not path.is_file() or file_fingerprint(path) != self.fingerprint:
            raise ValueError(f"{self.folder} was evaluated again while its files were read; repeat this command")

    @property
    def protocol(self) -> str:
        """The name of the protocol."""
        return str(self.content["protocol"])

    @property
    def threshold(self) -> float | None:
        """The map threshold of the metrics; None without boxes."""
        threshold: float | None = self.content["threshold"]
        return threshold

    @property
    def oracle(self) -> bool:
        """Whether the threshold was chosen on the evaluated images, so that the metrics are no fair result."""
        return "oracle" in (self.content.get("threshold_source") or "")

    @cached_property
    def metrics(self) -> dict[str, float | None]:
        """Metrics in percent by name; the accuracy at IoU 0.7 is ``box_acc_0.7``. None without the truth they need."""
        metrics = self.content["metrics"]
        levels = {f"box_acc_{level}": value for level, value in (metrics.get("box_acc") or {}).items()}
        return {**{name: value for name, value in metrics.items() if not isinstance(value, dict)}, **levels}

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of images.csv; raises as ``read_table``, and ValueError if metrics.json is of other images."""
        rows = read_table(self.folder / IMAGES)
        if not rows or self.content["images"] != len(rows):
            counts = f"{self.folder / IMAGES} has {len(rows)} images, {METRICS} has {self.content['images']}"
            raise ValueError(f"{counts}: they are not from one evaluation; {AGAIN}")
        self.require_unchanged()
        return rows

    @property
    def boxed(self) -> tuple[list[float], list[float]]:
        """IoU and object fraction of the images with a true box."""
        boxed = [row for row in self.rows if row["largest"] is not None]
        return [row["largest"] for row in boxed], [row["object_fraction"] for row in boxed]

    @property
    def masked(self) -> tuple[list[float], list[float]]:
        """IoU of the mask and object fraction by pixels of the images with a mask; empty without a threshold."""
        masked = [row for row in self.rows if row["mask_iou"] is not None]
        return [row["mask_iou"] for row in masked], [row["mask_fraction"] for row in masked]

    @cached_property
    def curve(self) -> dict[str, list[float]] | None:
        """Accuracy in percent by threshold, see ``Evaluation.curve``; None without boxes."""
        path = self.folder / CURVE
        if not path.is_file():
            return None
        try:
            _, lines = read_csv(path)
            columns = ("threshold", "0.5", "0.7", "0.9")
            return {key: [float(line[key]) for line in lines] for key in columns} if lines else None
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is damaged ({error}); {AGAIN}") from error

    @property
    def boxes(self) -> StoredBoxes | None:
        """The boxes of all images at all thresholds; None if they are missing, see ``notes``."""
        return self._boxes[0]

    @cached_property
    def _boxes(self) -> tuple[StoredBoxes | None, list[str]]:
        """The boxes, and why there are none; checked by ids, and by the IoU of the first image with a true box."""
        index = next((index for index, row in enumerate(self.rows) if row["largest"] is not None), None)
        if index is None:
            return None, []
        try:
            boxes = open_boxes(self.folder / BOXES)
            thresholds, ids = boxes.thresholds.tolist(), [row["id"] for row in self.rows]
            same = (boxes.protocol, list(boxes.ids)) == (self.protocol, ids) and self.threshold in thresholds
            if same:
                ((_, image),) = boxes.images({index})
                same = abs(image.iou[thresholds.index(self.threshold)] - self.rows[index]["largest"]) < 1e-4
            if not same:
                raise ValueError(f"{boxes.path} is from another evaluation than {IMAGES} beside it; {AGAIN}")
        except (FileNotFoundError, ValueError) as error:
            return None, [f"there is no threshold slider: {error}"]
        return boxes, []

    @property
    def notes(self) -> list[str]:
        """What a reader should know: why boxes are missing, and what no metric covers."""
        notes = [*self._boxes[1], *missing_notes(self.content.get("missing") or {})]
        unreadable = [item["id"] for item in self.content.get("unreadable") or []]
        images = f"{counted(len(unreadable), 'image')} could not be read: {shorten(unreadable)}"
        return [*notes, *([images] if unreadable else [])]


def missing_notes(missing: Mapping[str, Sequence[str]]) -> list[str]:
    """Describe the lists of ``EvaluationResult.missing``."""
    return [f"{len(missing[key])} {text}: {shorten(missing[key])}" for key, text in MISSING.items() if missing.get(key)]


def oracle_note(runs: Sequence[Run]) -> str | None:
    """Return a warning if some of several runs, but not all, have a threshold chosen on the evaluated images."""
    names = [run.name for run in runs if run.oracle]
    if len(names) in (0, len(runs)):
        return None
    chosen = f"the threshold of {shorten(names)} was chosen on the evaluated images (oracle), that of others was not"
    return f"the runs cannot be compared fairly: {chosen}; calibrate, or give one --threshold, and evaluate again"


def read_run(folder: Path, name: str | None = None) -> Run:
    """Read an evaluation, named by its path by default; FileNotFoundError, or ValueError for a damaged metrics.json."""
    path = folder / METRICS
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: expected the folder of a run or of an evaluation")
    fingerprint = file_fingerprint(path)
    try:
        content: dict[str, Any] = load_json(read_text(path))
        require_types(content, CONTENT)
        for part in filter(content.get, PARTS):
            require_types(content[part], PARTS[part])
        for accuracy in (content.get("constant_boxes") or {}).values():
            require_types(accuracy, {"0.5": float})
        for item in content.get("unreadable") or []:
            require_types(item, {"id": str})
        if "threshold" not in content:
            raise ValueError("it lacks threshold")
    except ValueError as error:
        raise ValueError(f"{path} is not the result of an evaluation ({error}); {AGAIN}") from error
    return Run(folder, str(folder) if name is None else name, content, fingerprint)
