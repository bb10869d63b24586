"""``tokenloc export-dataset``: localized images as a data set on which a detector can be trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tokenloc._files import atomic_folder, refuse_unwritable
from tokenloc._names import counted
from tokenloc.commands.console import print_message, progress
from tokenloc.data.base import BACKGROUND, refuse, shorten
from tokenloc.data.stratified import stratified_indices
from tokenloc.export.base import FORMATS, Destination, absolute, common_folder, refuse_existing
from tokenloc.export.yolo import Placement, YoloSplit, write_data
from tokenloc.inference.localization import LocalizationRecord
from tokenloc.reporting.localized import LocalizedRun, read_localized

SPLITS = ("val", "train")


def export_dataset(
    results: Path,
    *,
    out: Path,
    min_confidence: float = 0.0,
    val_fraction: float = 0.2,
    seed: int = 0,
    images: Placement = "hardlink",
    overwrite: bool = False,
) -> Path:
    """Write boxes and images for the training of a detector, in the forms of YOLO and COCO.

    Writes images/SPLIT, labels/SPLIT and data.yaml (YOLO) and SPLIT.json (COCO; its images are those in images/SPLIT);
    SPLIT is train and val. Images without a box are left out, except those of the class `_background`.

    Args:
        results: the output folder of `tokenloc localize` or `tokenloc autolabel`.
        out: the folder to write.
        min_confidence: confidence of a box in [0, 1] below which it is left out.
        val_fraction: fraction of the images of each class that is held out for validation.
        seed: of the split.
        images: how the images get there: hardlink, symlink or copy.
        overwrite: replace the folder of an earlier command, and everything in it.
    """
    _check_output(out, overwrite)
    run = read_localized(results, results.name)
    records = _confident_records(run, min_confidence)
    missing = [record.source for record in records if not Path(record.source).is_file()]
    refuse(
        missing, "there are no such images", "run this in the folder in which they were localized", FileNotFoundError
    )
    root = common_folder([record.source for record in records])
    names = [absolute(record.source).relative_to(root).as_posix() for record in records]
    parts = stratified_indices(names, [record.label for record in records], [val_fraction], seed)
    classes = _sorted_classes(record.label for record in records)
    with atomic_folder(out, replace=overwrite) as folder:
        destination = Destination(folder, tuple(classes))
        write_data(folder, destination.categories)
        for split, part in zip(SPLITS, parts, strict=True):
            writer = YoloSplit(folder, split, images)
            placed = _placed(writer, [records[index] for index in part])
            (coco,) = FORMATS["coco"].write(placed, classes, folder)
            coco.rename(folder / f"{split}.json")
    _report(out, run, records, [len(part) for part in parts], min_confidence)
    return out


def _check_output(out: Path, overwrite: bool) -> None:
    refuse_unwritable(out.parent)
    refuse_existing(out, overwrite)
    foreign = [name for name in ("data.yaml", "train.json") if out.exists() and not (out / name).is_file()]
    if foreign:
        raise ValueError(f"{out} holds no data set to replace: it has no {foreign[0]}; choose another --out")


def _confident_records(run: LocalizedRun, min_confidence: float) -> list[LocalizationRecord]:
    """Return the images of no object, and those with a box of at least this confidence, without their other boxes."""
    highest = max((value for stored in run.records for value in stored["confidence"]), default=-1)
    if highest < max(0, min_confidence):
        reason = f"the highest is {highest:g}" if highest >= 0 else "there is no box"
        raise ValueError(f"no box in {run.folder} has a confidence of {min_confidence:g}; {reason}")
    chosen = [
        stored
        for stored in run.records
        if stored["label"] == BACKGROUND or max(stored["confidence"], default=-1) >= min_confidence
    ]
    labels = _sorted_classes(stored["label"] for stored in chosen)
    records = []
    for stored in chosen:
        boxes, confidence = np.array(stored["boxes"], np.float64), np.array(stored["confidence"], np.float64)
        kept = confidence >= min_confidence
        record = LocalizationRecord(
            source=stored["file"],
            class_index=labels.index(stored["label"]),
            boxes=boxes[kept],
            confidence=confidence[kept],
            size=(stored["width"], stored["height"]),
            **{name: stored[name] for name in ("label", "score", "threshold", "protocol")},
        )
        records.append(record)
    return records


def _sorted_classes(labels: Iterable[str]) -> list[str]:
    return sorted(set(labels), key=lambda label: (label == BACKGROUND, label))


def _placed(writer: YoloSplit, records: Sequence[LocalizationRecord]) -> Iterator[LocalizationRecord]:
    """Write images and labels; yield the records with the names of the images in the split."""
    for record in progress(records, f"writing {writer.images.name}", len(records)):
        yield replace(record, source=writer.write(record.source, [record]).name)


def _report(
    out: Path, run: LocalizedRun, records: Sequence[LocalizationRecord], counts: Sequence[int], min_confidence: float
) -> None:
    val, train = counts
    boxes = sum(len(record.boxes) for record in records)
    print_message(f"{out}: {counted(train, 'image')} in train and {val} in val, {counted(boxes, 'box')}")
    below = sum(len(stored["boxes"]) for stored in run.records) - boxes
    empty, unreadable = len(run.records) - len(records), len(run.content["unreadable"])
    if below or empty or unreadable:
        print_message(
            f"left out: {counted(below, 'box')} below the confidence {min_confidence:g}, "
            f"{counted(empty, 'image')} without a box, {counted(unreadable, 'unreadable image')}"
        )
    if gone := sorted({stored["label"] for stored in run.records} - {record.label for record in records}):
        print_message(f"no image is left of {counted(len(gone), 'class')}: {shorten(gone)}")
