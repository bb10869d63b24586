"""``tokenloc localize``: boxes on a person's own images."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import tokenloc
from tokenloc._files import UniqueNames, atomic_write, refuse_unwritable
from tokenloc.backbones.weights import weights_digest
from tokenloc.commands.console import IncompleteError, print_message, progress
from tokenloc.commands.journal import Finished, Journal, open_journal
from tokenloc.commands.looking import options_note
from tokenloc.commands.review import TABLE, write_review
from tokenloc.data import Unreadable, find_images
from tokenloc.export import Destination, check_writing, common_folder, writing
from tokenloc.export._json_list import JsonList
from tokenloc.export.base import valid_text
from tokenloc.inference import Localization, Localizer, Prediction, PredictionOptions
from tokenloc.inference.localization import Objects
from tokenloc.inference.options import DEFAULT_OPTIONS
from tokenloc.inference.threads import THREADS, map_ahead
from tokenloc.reporting import draw_localization, one_above_another, save_image

RESULTS = "localizations.json"
JOURNAL = "localizations.journal.jsonl"
LARGEST_JPEG = (65500, 65500)


def localize(
    checkpoint: Path,
    inputs: list[Path],
    *,
    out: Path,
    threshold: float | None = None,
    objects: Objects = "largest",
    top_k: int = 1,
    min_score: float = 0.0,
    options: PredictionOptions = DEFAULT_OPTIONS,
    images: bool = True,
    masks: bool = False,
    format: list[str] | None = None,
    image_url: str | None = None,
    overwrite: bool = False,
    batch_size: int = 16,
    device: str = "auto",
) -> Path:
    """Draw boxes on images: files, or folders with all that is below them.

    Writes localizations.json and, for each image, its boxes and heatmap beside one another; review.csv lists
    the images by how far their boxes can be confident, those to check first at the top. TrainingData that cannot be
    read are named at the end, and the exit status is then 1. A run that was interrupted goes on where it was when the
    same command is given again.

    Args:
        checkpoint: a checkpoint of `tokenloc train`, such as RUN/checkpoints/best.ckpt; a folder that was saved for
            sharing; or hf-hub:USER/NAME.
        inputs: images, and folders of them.
        out: the folder to write to; it is created.
        threshold: on the map scaled to [0, 1]; by default the calibrated one stored in the checkpoint.
        objects: largest draws one box, around the largest component; all one for each component.
        top_k: how many classes to localize in each image, the most probable ones; each is a result of its own.
        min_score: probability below which a class gets no box, so that an image of none of the classes has none.
        options: test-time augmentation, refinement and precision.
        images: also write the images, not only localizations.json.
        masks: also write a mask for each result, white where its map exceeds the threshold, on the image's pixels.
        format: annotation files to write, too: coco yolo voc label-studio csv parquet.
        image_url: for label-studio, what stands before an image's name; by default the address of its local files.
        overwrite: replace annotation files that exist already, and begin anew where a run with other settings was
            interrupted.
        batch_size: images that pass the network together.
        device: auto, cpu, cuda or mps.

    Returns:
        the path of localizations.json.
    """
    files = find_images(inputs)
    for folder in ("images", "masks"):
        refuse_unwritable(out / folder)
    check_writing(format or [], out, overwrite)
    localizer = Localizer.from_checkpoint(checkpoint, device, threshold, objects, options, min_score)
    if threshold is None and (note := options_note(localizer.metadata, localizer.options)):
        print_message(f"map threshold {localizer.threshold:g}{note}")
    settings = {**_settings(localizer, top_k), "images": images, "masks": masks}
    version = f"tokenloc {localizer.metadata.model.method}"
    destination = Destination(out, localizer.metadata.classes, common_folder(inputs), image_url, version, overwrite)
    with open_journal(out / JOURNAL, settings, overwrite) as journal:
        todo = [file for file in files if file not in journal]
        if len(todo) < len(files):
            print_message(f"{len(files) - len(todo)} of {len(files)} images were finished by an interrupted run")
        seen = localizer.predict(todo, batch_size, top_k, keep_images=images)
        unreadable = _run(todo, seen, _Display(out, images, masks), journal)
        with writing(format or [], destination) as annotate:
            for finished in journal.finished(files):
                annotate(finished.findings)
        _write_results(out / RESULTS, journal.finished(files), unreadable)
        write_review(out, files, journal)
    return _report(out / RESULTS, len(files), unreadable)


@dataclass(frozen=True)
class _Display:
    """Writes the files that show a result, below ``out``."""

    out: Path
    images: bool
    masks: bool

    def save(self, named: tuple[str, Prediction | Unreadable]) -> Finished | Unreadable:
        """Write what was found in an image, with names that begin with its stem; nothing where it was unreadable."""
        stem, found = named
        if isinstance(found, Unreadable):
            return found
        shown: list[dict[str, str]] = [{} for _ in found.results]
        if found.image is not None and self.images:
            drawn = one_above_another([draw_localization(found.image, result) for result in found.results])
            drawn.thumbnail(LARGEST_JPEG)
            save_image(drawn, self.out / "images" / f"{stem}.jpg")
            for one in shown:
                one["image"] = f"images/{stem}.jpg"
        if self.masks:
            for rank, (one, result) in enumerate(zip(shown, found.results, strict=True), start=1):
                one["mask"] = self._save_mask(result, stem if rank == 1 else f"{stem}.top{rank}")
        return Finished(found.results[0].source, stem, [result.record() for result in found.results], shown)

    def _save_mask(self, result: Localization, stem: str) -> str:
        name = f"masks/{stem}.png"
        save_image(Image.fromarray(255 * result.mask_on_image().astype(np.uint8)), self.out / name)
        return name


def _settings(localizer: Localizer, top_k: int) -> dict[str, Any]:
    """Return all that results depend on, so that a run goes on only with results like its own."""
    return {
        "tokenloc": tokenloc.__version__,
        "model": f"sha256 {_digest(localizer)[:16]}",
        "threshold": localizer.threshold,
        "objects": localizer.objects,
        "viewing": str(localizer.options),
        "top_k": top_k,
        "min_score": localizer.min_score,
    }


def _digest(localizer: Localizer) -> str:
    """Return a digest of the model, which is the same wherever it was loaded from."""
    metadata = localizer.metadata
    described = repr((metadata.model, metadata.classes, metadata.preprocessing, weights_digest(localizer.model)))
    return hashlib.sha256(described.encode()).hexdigest()


def _run(
    todo: Sequence[Path], seen: Generator[Prediction | Unreadable, None, None], display: _Display, journal: Journal
) -> list[Unreadable]:
    """Localize, show and note down what is to do; return what could not be read."""
    unreadable: list[Unreadable] = []
    stems = free_stems(todo, journal.stems)
    with closing(seen), closing(map_ahead(display.save, zip(stems, seen, strict=True), THREADS)) as saved:
        for item in progress(saved, "localizing", len(todo)):
            if isinstance(item, Unreadable):
                unreadable.append(item)
            else:
                journal.add(item)
    return unreadable


def _write_results(path: Path, finished: Iterable[Finished], unreadable: Sequence[Unreadable]) -> None:
    """Write localizations.json: an entry for each result, in the order of the images."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write('{"localizations": [')
        localizations = JsonList(file)
        for one in finished:
            for finding, shown in zip(one.findings, one.shown, strict=True):
                entry = {**finding.to_dict(), **shown}
                localizations.add({**entry, "file": valid_text(entry["file"]), "label": valid_text(entry["label"])})
        file.write('],\n"unreadable": [')
        broken = JsonList(file)
        for item in unreadable:
            broken.add({"file": valid_text(item.id), "reason": valid_text(item.reason)})
        file.write("]}\n")


def _report(results: Path, total: int, unreadable: Sequence[Unreadable]) -> Path:
    """Say what was done; raise IncompleteError where some images could not be read."""
    print_message(f"{total - len(unreadable)} images localized; results in {results}, what to check first in {TABLE}")
    if unreadable:
        lines = "\n".join(f"  {valid_text(item.reason)}" for item in unreadable)
        raise IncompleteError(f"{len(unreadable)} of {total} files could not be read:\n{lines}")
    return results


def free_stems(files: Iterable[Path], taken: Iterable[str] = ()) -> Iterator[str]:
    """Yield for each file a name of its own, without a suffix, for what shows it: another than those ``taken``.

    >>> list(free_stems([Path("a/x.jpg"), Path("b/x.png"), Path("b/y.png")]))
    ['x', 'x-2', 'y']
    """
    names = UniqueNames("", longest=240)  # leaves room for suffixes
    for stem in taken:
        names.take(stem)
    return (names.take(valid_text(file.stem)) for file in files)
