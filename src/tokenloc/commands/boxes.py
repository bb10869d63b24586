"""``tokenloc boxes``: annotation files from heatmaps of any code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenloc._files import refuse_unwritable
from tokenloc._names import counted
from tokenloc.boxes.protocols import checked_threshold
from tokenloc.commands.console import IncompleteError, print_message, progress
from tokenloc.data import expand_wildcards, find_images
from tokenloc.data.base import shorten
from tokenloc.export import Destination, common_folder, write_annotations
from tokenloc.export.base import absolute, check_outputs, find_formats
from tokenloc.inference import Localization
from tokenloc.inference.localization import Objects
from tokenloc.inference.stored_maps import localize_map, match_ids
from tokenloc.methods import Method
from tokenloc.metrics.stored_maps import StoredMaps, open_maps


def boxes(
    inputs: list[Path],
    *,
    maps: Path,
    out: Path,
    format: list[str] | None = None,
    threshold: float | None = None,
    objects: Objects = "largest",
    label: str = "object",
    labels_from_folders: bool = False,
    image_url: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write annotation files from heatmaps of any code, without a model.

    The map of an image covers it completely, has any size and range, and is at MAPS/ID.npy, where ID is the path of
    the image below the common folder of the inputs, without its suffix. If images have no map, or a broken one, the
    exit status is 1.

    Args:
        inputs: images, folders of images, and wildcards.
        maps: a folder with a .npy file [height, width] for each image, or of `tokenloc evaluate --save-maps`.
        out: the output folder; it is created.
        format: annotation files to write: coco yolo voc label-studio csv parquet; by default coco.
        threshold: on the map scaled to [0, 1]; by default that stored with the maps, else 0.2.
        objects: largest draws one box, around the largest component; all draws one per object, merging fragments.
        label: the class of all images.
        labels_from_folders: the class of an image is the name of the folder that it is in, instead of the label.
        image_url: for label-studio, the prefix of image names; by default the address of its local files.
        overwrite: replace existing annotation files.
    """
    inputs = expand_wildcards(inputs)
    files, root = find_images(inputs), common_folder(inputs)
    formats = find_formats(format or ["coco"])
    refuse_unwritable(out)
    check_outputs(formats, out, overwrite)
    stored = open_maps(maps)
    if threshold is None:
        known = stored.about.get("threshold")
        default = Method.default_threshold, "the default"
        threshold, source = default if known is None else (known, "stored with the maps")
        print_message(f"map threshold {threshold:g}, {source}; change it with --threshold")
    threshold = checked_threshold(threshold)
    labels = {file: absolute(file).parent.name if labels_from_folders else label for file in files}
    classes = tuple(sorted(set(labels.values())))
    faults: list[str] = []

    def localized() -> Iterator[Localization]:
        for file, id_ in progress(_matched(stored, files, root), "drawing boxes", len(files)):
            try:
                if id_ is None:
                    raise ValueError(f"{file} has no map in {maps}")
                about = str(file), labels[file], classes.index(labels[file])
                yield localize_map(stored.load(id_), *about, threshold, objects)
            except (ValueError, OSError) as error:
                faults.append(str(error))

    write_annotations(formats, localized(), Destination(out, classes, root, image_url, "heatmaps", overwrite))
    paths = ", ".join(str(out / name) for each in formats for name in each.outputs)
    print_message(f"boxes of {counted(len(files) - len(faults), 'image')} in {paths}")
    if faults:
        lines = "".join(f"\n  {fault}" for fault in faults)
        raise IncompleteError(f"{len(faults)} of {counted(len(files), 'image')} left out:{lines}")
    return out


def _matched(maps: StoredMaps, files: Iterable[Path], root: Path) -> list[tuple[Path, str | None]]:
    """Return the id of the map of each file, or None; report maps of no image."""
    ids = {absolute(file).relative_to(root).as_posix(): file for file in files}
    matched = match_ids(list(ids), maps.ids)
    if matched.surplus:
        print_message(f"{counted(len(matched.surplus), 'map')} without an image: {shorten(matched.surplus)}")
    return [(file, matched.stored.get(id_)) for id_, file in ids.items()]
