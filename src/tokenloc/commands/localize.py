"""``tokenloc localize``: boxes on a user's own images."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

import tokenloc
from tokenloc._files import UniqueNames, atomic_files, atomic_text, free_folder, refuse_unwritable
from tokenloc._names import counted
from tokenloc.backbones.weights import weights_digest
from tokenloc.boxes.extraction import SMALLEST
from tokenloc.commands.console import IncompleteError, print_message, progress
from tokenloc.commands.journal import FinishedImage, Journal, open_journal, version_of
from tokenloc.commands.results import doubtful_classes_warning, whole_image_warning
from tokenloc.commands.review import SHEET, TABLE, write_review
from tokenloc.commands.thresholds import calibration_note
from tokenloc.data import Unreadable, expand_wildcards, find_images
from tokenloc.data.base import shorten
from tokenloc.export import Destination, common_folder, write_annotations
from tokenloc.export.base import JsonArray, check_outputs, find_formats, folder_labels, valid_text
from tokenloc.inference import Localizer, Prediction, PredictionOptions
from tokenloc.inference.inputs import ORIGINALS, THREADS, map_ahead
from tokenloc.inference.localization import Objects
from tokenloc.inference.options import DEFAULT_OPTIONS
from tokenloc.models.checkpoint import OptionValue
from tokenloc.models.hub import run_folder
from tokenloc.reporting.drawing import draw_localization, reduced, save_image, stack
from tokenloc.reporting.localized import LOCALIZATIONS

_Item = tuple[str | None, str, Prediction | Unreadable]  # stem of the output files, version of the image

RESULTS, JOURNAL = LOCALIZATIONS, "localizations.journal.jsonl"
LARGEST_JPEG = (65500, 65500)
DRAWN_SIDE = 3200  # pixels of the longer side of an image, divided by the root of the number of drawings of it


def localize(
    checkpoint: Path,
    inputs: list[Path],
    *,
    out: Path | None = None,
    threshold: float | None = None,
    objects: Objects = "largest",
    top_k: int = 1,
    min_score: float = 0.0,
    min_confidence: float = 0.0,
    min_area: float = SMALLEST,
    labels_from_folders: bool = False,
    options: PredictionOptions = DEFAULT_OPTIONS,
    method_options: dict[str, OptionValue] | None = None,
    images: bool = True,
    heatmaps: bool = True,
    masks: bool = False,
    format: list[str] | None = None,
    image_url: str | None = None,
    overwrite: bool = False,
    batch_size: int = 16,
    device: str = "auto",
) -> Path:
    """Draw boxes on images: files, or folders with everything below them.

    Writes localizations.json, a drawing of each image, and review.csv, the least confident images first. The same
    command resumes an interrupted run. If files cannot be read, the exit status is 1.

    Args:
        checkpoint: the folder of a run, a file such as RUN/checkpoints/best.ckpt, a folder that was saved for sharing,
            or hf-hub:USER/NAME.
        inputs: images, folders of images, and wildcards.
        out: the output folder; by default localized, localized-2 … in the run's folder (hub: runs/NAME).
        threshold: on the map scaled to [0, 1]; by default the calibrated one in the checkpoint.
        objects: largest draws one box, around the largest component; all draws one per object, merging fragments.
        top_k: number of classes per image, the most probable ones; each has its own result.
        min_score: probability below which a class gets no box, for images that show none of the classes.
        min_confidence: confidence below which a box is left out; review.csv lists all images.
        min_area: of all objects but the largest, the smallest area of the map, as a fraction of the image.
        labels_from_folders: localize the class that the folder of an image names, instead of the most probable one.
        options: how the model predicts.
        method_options: values of the method's test-time options, such as map, instead of those of the training.
        images: write a drawing of each image.
        heatmaps: draw the map, too, beside the boxes.
        masks: write a mask for each result in original pixels, white where its map exceeds the threshold.
        format: annotation files to write: coco yolo voc label-studio csv parquet, also separated by commas.
        image_url: for label-studio, the prefix of image names; by default the address of its local files.
        overwrite: replace existing annotation files, and start over if an interrupted run had other settings.
        batch_size: images per forward pass.
        device: auto, cpu, cuda or mps.
    """
    inputs = expand_wildcards(inputs)
    out = out or free_folder(run_folder(checkpoint) / "localized", lambda folder: (folder / JOURNAL).is_file())
    files, results = _without_outputs(find_images(inputs), out), out / RESULTS
    formats = find_formats(format or [])
    refuse_unwritable(out / "images")
    refuse_unwritable(out / "masks")
    stopped = (out / JOURNAL).is_file() and not results.is_file()  # perhaps while the files moved into place
    overwrite_files = overwrite or stopped
    check_outputs(formats, out, overwrite_files)
    chosen = (threshold, objects, options, min_score, method_options, min_confidence, min_area)
    localizer = Localizer.from_checkpoint(checkpoint, device, *chosen)
    if threshold is None and (note := calibration_note(localizer.metadata, options, localizer.model.refinement)):
        print_message(f"map threshold {localizer.threshold:g}{note}")
    outputs = {"images": images, "heatmaps": heatmaps, "masks": masks}
    settings = {**_settings(localizer, top_k), "labels_from_folders": labels_from_folders, **outputs}
    version = f"tokenloc {localizer.metadata.model.method}"
    about = localizer.classes, common_folder(inputs), image_url, version
    labels = folder_labels(files, common_folder(inputs), localizer.classes) if labels_from_folders else {}
    replaced = [TABLE, SHEET, *(name for chosen in formats for name in chosen.outputs)]
    with open_journal(out / JOURNAL, settings, overwrite) as journal:
        predict = partial(localizer.predict, batch_size=batch_size, top_k=top_k, keep_images=images)
        _remove_outdated(out, files, journal)
        write = partial(_write_outputs, out, masks, heatmaps)
        unreadable = _localize_remaining(files, labels, journal, batch_size, predict, write)
        with atomic_files(out, RESULTS, replaced) as folder:
            write_annotations(formats, (image.records for image in journal.read(files)), Destination(folder, *about))
            whole, without = _write_results(folder / RESULTS, journal.read(files), unreadable)
            write_review(folder, out, files, journal)
            doubtful = doubtful_classes_warning(image.records[0] for image in journal.read(files))
            check_outputs(formats, out, overwrite_files)
    if warning := whole_image_warning(whole, len(files) - len(unreadable)):
        print_message(warning)
    if doubtful:
        print_message(doubtful)
    if without:
        print_message(f"no box on {counted(without, 'image')}")
    _report(results, len(files), unreadable)
    return results


def _without_outputs(files: list[Path], out: Path) -> list[Path]:
    """Leave out the drawings and masks of an earlier run in ``out``; raise ValueError if they would replace images."""
    drawn = {os.path.realpath(out / name) for name in ("images", "masks")}
    folders = {folder for folder in {file.parent for file in files} if os.path.realpath(folder) in drawn}
    outputs = {file for file in files if file.parent in folders}
    outputs |= {file for file in files if file.name == SHEET and os.path.realpath(file.parent) == os.path.realpath(out)}
    if outputs and not any((out / name).is_file() for name in (RESULTS, JOURNAL)):
        raise ValueError(
            f"{shorten(sorted(outputs))}: drawings would be written among these images; give another --out"
        )
    if outputs == set(files):
        raise FileNotFoundError(f"the inputs hold no images but the drawings and masks of an earlier run in {out}")
    return [file for file in files if file not in outputs]


def _settings(localizer: Localizer, top_k: int) -> dict[str, Any]:
    metadata = localizer.metadata
    model = repr((metadata.model, metadata.classes, metadata.preprocessing, weights_digest(localizer.model)))
    return {
        "tokenloc": tokenloc.__version__,
        "model": f"sha256 {hashlib.sha256(model.encode()).hexdigest()[:16]}",  # also the same from another path
        "threshold": localizer.threshold,
        "objects": localizer.objects,
        "options": str(localizer.options),
        "top_k": top_k,
        "min_score": localizer.min_score,
        "min_confidence": localizer.min_confidence,
        "min_area": localizer.min_area,
    }


def _remove_outdated(out: Path, files: Sequence[Path], journal: Journal) -> None:
    """Remove the results of images that were replaced since an interrupted run."""
    outdated = journal.take_changed(files)
    for name in {name for image in outdated for output in image.outputs for name in output.values()}:
        (out / name).unlink(missing_ok=True)
    if outdated:
        print_message(f"{len(outdated)} images have changed since the interrupted run and are localized again")


def _localize_remaining(
    files: Sequence[Path],
    labels: Mapping[Path, str],
    journal: Journal,
    batch_size: int,
    predict: Callable[..., Generator[Prediction | Unreadable, None, None]],
    write: Callable[[_Item], FinishedImage | Unreadable | None],
) -> list[Unreadable]:
    """Add the files that the journal lacks to it, and return the unreadable ones.

    They are localized in the batches of an uninterrupted run, as the last bits depend on the other images of a batch.
    """
    batches = [files[start : start + batch_size] for start in range(0, len(files), max(batch_size, 1))]
    remaining = [file for batch in batches if any(file not in journal for file in batch) for file in batch]
    if len(journal):
        done = sum(file in journal for file in files)
        print_message(f"{done} of {len(files)} images were finished by an interrupted run")
    names = UniqueNames("", longest=240)  # leaves room for suffixes
    for stem in journal.stems:
        names.take(stem)
    stems = (None if file in journal else names.take(valid_text(file.stem)) for file in remaining)
    versions: deque[str] = deque()  # of the images that are being read, from before that
    unreadable: list[Unreadable] = []

    def noted() -> Iterator[Path]:
        for file in remaining:
            versions.append(version_of(file))
            yield file

    def named(predictions: Iterable[Prediction | Unreadable]) -> Iterator[_Item]:
        for prediction, stem in zip(predictions, stems, strict=True):
            yield stem, versions.popleft(), prediction

    with (
        closing(predict(noted(), labels=[labels[file] for file in remaining] if labels else None)) as predictions,
        closing(map_ahead(write, named(predictions), THREADS)) as finished,
    ):
        for item in progress(finished, "localizing", len(remaining)):
            if isinstance(item, Unreadable):
                unreadable.append(item)
            elif item is not None:
                journal.append(item)
    return unreadable


def _write_outputs(out: Path, masks: bool, heatmaps: bool, item: _Item) -> FinishedImage | Unreadable | None:
    """Write the drawing and the masks of one image, given the stem of their names; nothing if it is unreadable.

    The stem of an image that is finished is None, and so is the result.
    """
    stem, version, prediction = item
    if isinstance(prediction, Unreadable):
        return prediction
    if stem is None:
        return None
    results = prediction.results
    outputs: list[dict[str, str]] = [{} for _ in results]
    if prediction.image is not None:
        image = reduced(prediction.image, round(DRAWN_SIDE / len(results) ** 0.5))  # drawings of many classes are small
        drawing = stack([draw_localization(image, result, (), heatmaps) for result in results], vertical=True)
        drawing.thumbnail(LARGEST_JPEG)
        save_image(drawing, out / "images" / f"{stem}.jpg")
        outputs = [{"image": f"images/{stem}.jpg"} for _ in results]
    if masks:
        for rank, (output, result) in enumerate(zip(outputs, results, strict=True), start=1):
            output["mask"] = f"masks/{stem}.png" if rank == 1 else f"masks/{stem}.top{rank}.png"
            with ORIGINALS.hold(result.size):
                mask = Image.fromarray(result.mask_on_image()).convert("L")
                save_image(mask, out / output["mask"])
    return FinishedImage(results[0].source, version, stem, [result.record() for result in results], outputs)


def _write_results(path: Path, images: Iterable[FinishedImage], unreadable: Sequence[Unreadable]) -> tuple[int, int]:
    """Write localizations.json; return the number of images that their first box covers, and of those without a box."""
    whole = without = 0
    with atomic_text(path) as file:
        file.write('{"localizations": [')
        localizations = JsonArray(file)
        for image in images:
            whole += image.records[0].covers_image
            without += not any(len(record.boxes) for record in image.records)
            for record, outputs in zip(image.records, image.outputs, strict=True):
                texts = {"file": valid_text(record.source), "label": valid_text(record.label)}
                localizations.append({**record.to_dict(), **outputs, **texts})
        file.write('],\n"unreadable": [')
        errors = JsonArray(file)
        for item in unreadable:
            errors.append({"file": valid_text(item.id), "reason": valid_text(item.reason)})
        file.write("]}\n")
    return whole, without


def _report(results: Path, total: int, unreadable: Sequence[Unreadable]) -> None:
    images = counted(total - len(unreadable), "image")
    print_message(f"{images} localized; results in {results}, review order in {TABLE}")
    if unreadable:
        lines = "".join(f"\n  {valid_text(item.reason)}" for item in unreadable)
        raise IncompleteError(f"{len(unreadable)} of {total} files could not be read:{lines}")
