"""``tokenloc localize``: boxes on a person's own photographs."""

from __future__ import annotations

from pathlib import Path

from tokenloc._files import FreeNames, write_json
from tokenloc.commands.console import IncompleteError, console, progress
from tokenloc.commands.looking import viewing_note, viewing_of
from tokenloc.data import Unreadable, find_images, read_image
from tokenloc.export import Destination, common_folder, writing
from tokenloc.inference import Localization, Localizer
from tokenloc.inference.localizer import Objects
from tokenloc.reporting import draw_localization, save_picture

RESULTS = "localizations.json"


def localize(
    checkpoint: Path,
    inputs: list[Path],
    *,
    out: Path,
    threshold: float | None = None,
    objects: Objects = "largest",
    scales: list[int] | None = None,
    flip: bool = False,
    refine: list[str] | None = None,
    pictures: bool = True,
    format: list[str] | None = None,
    image_url: str | None = None,
    overwrite: bool = False,
    batch_size: int = 16,
    device: str = "auto",
) -> Path:
    """Draw boxes on photographs: files, or folders with all that is below them.

    Writes localizations.json and, for each photograph, its boxes and heatmap beside one another. Photographs that
    cannot be read are named at the end, and the exit status is then 1.

    Args:
        checkpoint: a checkpoint of `tokenloc train`, such as RUN/checkpoints/best.ckpt.
        inputs: photographs, and folders of them.
        out: the folder to write to; it is created.
        threshold: on the map scaled to [0, 1]; by default the calibrated one stored in the checkpoint.
        objects: largest draws one box, around the largest component; all one for each component.
        scales: sides of the network's input in pixels, such as 224 320 448, over which maps and scores are averaged; by
            default the side that the model was trained with.
        flip: look at each picture mirrored, too.
        refine: steps that refine the maps, such as affinity,reprediction, or none; by default those of the method.
        pictures: also write the pictures, not only localizations.json.
        format: annotation files to write, too: coco yolo voc label-studio csv parquet.
        image_url: for label-studio, what stands before a picture's name; by default the address of its local files.
        overwrite: replace annotation files that exist already.
        batch_size: photographs that pass the network together.
        device: auto, cpu, cuda or mps.

    Returns:
        the path of localizations.json.
    """
    files = find_images(inputs)
    viewing = viewing_of(scales, flip, refine)
    localizer = Localizer.from_checkpoint(checkpoint, device, threshold, objects, viewing)
    if threshold is None and (note := viewing_note(localizer.card, localizer.viewing)):
        console.print(f"map threshold {localizer.threshold:g}{note}", highlight=False, markup=False)
    localized: list[Localization] = []
    unreadable: list[Unreadable] = []
    names = picture_names(files, out / "pictures")
    results = localizer.stream(files, batch_size)
    version = f"tokenloc {localizer.card.model.method}"
    destination = Destination(out, localizer.card.classes, common_folder(inputs), image_url, version, overwrite)
    with writing(format or [], destination) as annotate:
        for file, result in zip(files, progress(results, "localizing", len(files)), strict=True):
            if isinstance(result, Unreadable):
                unreadable.append(result)
                continue
            localized.append(result)
            annotate(result)
            if pictures:
                save_picture(draw_localization(read_image(file), result), names[file])
    return _finish(out, localized, unreadable)


def _finish(out: Path, localized: list[Localization], unreadable: list[Unreadable]) -> Path:
    """Write the results; raise IncompleteError where some photographs could not be read."""
    results = out / RESULTS
    content = {
        "localizations": [result.to_dict() for result in localized],
        "unreadable": [{"file": item.id, "reason": item.reason} for item in unreadable],
    }
    write_json(results, content)
    console.print(f"{len(localized)} photographs localized; results in {results}", highlight=False, markup=False)
    if unreadable:
        lines = "\n".join(f"  {item.reason}" for item in unreadable)
        raise IncompleteError(
            f"{len(unreadable)} of {len(localized) + len(unreadable)} files could not be read:\n{lines}"
        )
    return results


def picture_names(files: list[Path], folder: Path) -> dict[Path, Path]:
    """Return a name of its own in ``folder`` for the picture of each file, even where two files are called the same.

    >>> names = picture_names([Path("a/x.jpg"), Path("b/x.png"), Path("b/y.png")], Path("out"))
    >>> [name.name for name in names.values()]
    ['x.jpg', 'x-2.jpg', 'y.jpg']
    """
    names = FreeNames(".jpg")
    return {file: folder / names.take(file.stem) for file in files}
