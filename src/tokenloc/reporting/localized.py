"""The results of `tokenloc localize` as a report displays them: images without true boxes or classes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenloc._files import read_text
from tokenloc._plain import load_json, require_types
from tokenloc.boxes import box_faults
from tokenloc.data import ImageDataset, Sample
from tokenloc.data.base import BACKGROUND, file_fingerprint
from tokenloc.metrics.images import ImageRow
from tokenloc.reporting.runs import Run

LOCALIZATIONS = "localizations.json"
CONTENT: dict[str, Any] = {"localizations": list[dict[str, Any]], "unreadable": list[dict[str, str]] | None}
RECORD: dict[str, Any] = {
    **dict.fromkeys(("file", "label", "protocol"), str),
    **dict.fromkeys(("width", "height"), int),
    **dict.fromkeys(("score", "threshold"), float),
    "boxes": list[list[float]],
    "confidence": list[float],
}


@dataclass(frozen=True, eq=False)
class LocalizedRun(Run):
    """Results of `tokenloc localize`; ``records`` has the most probable class of each image, as in the file."""

    records: list[dict[str, Any]]
    root: Path | None  # the folder of the images, if they were moved

    def require_unchanged(self) -> None:
        """Everything was read at once."""

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """A row for each image, with the predicted class in place of the true one."""
        empty = dict.fromkeys(field.name for field in fields(ImageRow))
        return [
            {
                **empty,
                "id": record["file"],
                "label": record["label"],
                "predicted": record["label"],
                "score": record["score"],
                "confidence": record["score"]
                if record["label"] == BACKGROUND
                else max(record["confidence"][:1], default=0.0),
            }
            for record in self.records
        ]

    @cached_property
    def dataset(self) -> ImageDataset:
        """The images, from the files that were localized."""
        classes = sorted({record["label"] for record in self.records})
        files = (Path(each["file"]) for each in self.records)
        paths = [path if self.root is None else self.root / path.name for path in files]
        labelled = zip(self.records, paths, strict=True)
        samples = [Sample(each["file"], path, classes.index(each["label"])) for each, path in labelled]
        return ImageDataset("test", classes, samples)


def read_localized(folder: Path, name: str, root: Path | None = None) -> LocalizedRun:
    """Read the results of `tokenloc localize` in a folder; raises ValueError if they are damaged or empty."""
    path = folder / LOCALIZATIONS
    records: dict[str, dict[str, Any]] = {}
    fingerprint = file_fingerprint(path)
    try:
        content: dict[str, Any] = load_json(read_text(path))
        require_types(content, CONTENT)
        for record in content["localizations"]:
            require_types(record, RECORD)
            faults = box_faults(record["boxes"], (record["width"], record["height"]))
            if len(faults) != len(record["confidence"]) or any(faults):
                raise ValueError(f"{record['file']}: a box is invalid, or not every box has a confidence")
            records.setdefault(record["file"], record)  # others are of less probable classes
        if not records:
            raise ValueError("it has no localizations")
    except ValueError as error:
        raise ValueError(f"{path} is not a result of `tokenloc localize` ({error}); localize again") from error
    found = list(records.values())
    unreadable = [{"id": item.get("file", "")} for item in content.get("unreadable") or []]
    shown = {"protocol": found[0]["protocol"], "images": len(found), "metrics": {}, "threshold": found[0]["threshold"]}
    return LocalizedRun(folder, name, {**shown, "unreadable": unreadable}, fingerprint, found, root)
