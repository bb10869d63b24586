"""A person's own images: a folder for every class, split by folders or by seeded shares, boxes if there are."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenloc.data.annotations import Annotation, match, read_coco, read_voc
from tokenloc.data.base import NO_BOXES, ImageDataset, Problem, Sample, named, require_root, select_classes
from tokenloc.data.images import IMAGE_SUFFIXES, files_under
from tokenloc.data.label_studio import read_label_studio
from tokenloc.data.registry import DATASETS
from tokenloc.data.stratified import stratified_indices

LAYOUT = "a folder DIR with DIR/CLASS/*.jpg, or DIR/train/CLASS/*.jpg and the like for val and test"
"""What is expected on disk."""

DEFAULT_FRACTION = 0.1
"""Share of val, and of test, where a folder is not split by folders."""

_SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class _Listing:
    """All images below a dataset's own folder, by split folder and class.

    Args:
        folder: the dataset's own folder.
        images: (split folder or "", class, id relative to ``folder``), sorted by id.
        boxes_in: XML files by their path without suffix, relative to ``folder`` or to its Annotations folder.
        classes: class folders of every split folder, empty ones among them.
    """

    folder: Path
    images: tuple[tuple[str, str, str], ...]
    boxes_in: dict[str, Path]
    classes: dict[str, tuple[str, ...]]


@DATASETS.register("folder")
class FolderDataset(ImageDataset):
    """TrainingData in class folders.

    A class's folder may have folders of its own; classes are sorted by name; hidden files are left out. Where the
    folder holds `train`, `val` (or `valid`, `validation`) or `test`, these are the splits, and a val or test share
    can be dealt out of `train`; else the shares are dealt out of everything. Every class is in every share.

    Boxes come from one file of ``annotations``, COCO or Label Studio's export, or from Pascal VOC XML files, beside
    the images or in a folder `Annotations`, of the same name as the image; see ``read_coco``,
    ``read_label_studio``, ``read_voc`` and ``Annotation.boxes_of``.

    Args:
        root: the folder, or the one above it (if it holds nothing else).
        split: "train", "val", "test", or "all" for every image.
        classes: names to select; labels follow the selection, in sorted order.
        annotations: a JSON file, of COCO, or of Label Studio's tasks, of which those count that a person annotated.
        val_fraction: share of val, 0 for none; None is 0.1, or 0 where there are split folders.
        test_fraction: share of test, likewise.
        seed: picks the shares.

    Raises:
        FileNotFoundError: where a folder or file is missing.
        ValueError: for images without a class, classes without an image or in one split alone, a class with too
            few images for all shares, annotations that cannot be read or that fit no image.
    """

    name = "folder"
    splits = ("train", "val", "test", "all")

    def __init__(
        self,
        root: str | Path | None,
        split: str,
        classes: Sequence[str] | None = None,
        *,
        annotations: str | Path | None = None,
        val_fraction: float | None = None,
        test_fraction: float | None = None,
        seed: int = 0,
    ) -> None:
        self.require_split(split)
        listing = _listed(_own_folder(require_root(root, self.name, LAYOUT)))
        places, shares = _plan(split, listing, val_fraction, test_fraction)
        available = _agreed_classes(listing, places, classes)
        chosen = select_classes(available, classes)
        pool = _images_of(listing, places, chosen)
        if shares:
            ids, names = list(pool), list(pool.values())
            parts = stratified_indices(ids, names, list(shares.values()), seed)
            part = dict(zip([*shares, "train"], parts, strict=True))[split]
            pool = {ids[index]: names[index] for index in part}
        self._annotated, self._strays = _annotations(listing, annotations, pool)
        samples = [
            Sample(image, listing.folder / image, chosen.index(name), self._boxes(image, name, available))
            for image, name in pool.items()
        ]
        sizes = {name: annotation.size for name, annotation in self._annotated.items() if annotation.size}
        super().__init__(split, chosen, samples, sizes)

    def check(self) -> list[Problem]:
        """Return what ``ImageDataset.check`` finds, images without a box, and annotations without an image."""
        problems = super().check()
        if self._annotated:
            problems += [
                Problem(sample.id, sample.path, f"has no box of class {self.classes[sample.label]}, while others have")
                for sample in self.samples
                if not len(sample.boxes)
            ]
        return problems + self._strays

    def _boxes(self, image: str, name: str, classes: Sequence[str]) -> NDArray[np.float64]:
        annotation = self._annotated.get(image)
        return annotation.boxes_of(name, classes) if annotation else NO_BOXES


def _visible_folders(folder: Path) -> list[Path]:
    folders = (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return sorted(path for path in folders if path.name.lower() != "annotations")


def _own_folder(root: Path) -> Path:
    """Return root, or the one folder in it where that holds folders but no image of its own."""
    inner = _visible_folders(root)
    if len(inner) != 1 or inner[0].name in _SPLIT_NAMES or not _visible_folders(inner[0]):
        return root
    has_images = any(path.suffix.lower() in IMAGE_SUFFIXES for path in inner[0].iterdir())
    return root if has_images else inner[0]


def _listed(folder: Path) -> _Listing:
    """Walk the folder once."""
    split_folders = [path.name for path in _visible_folders(folder) if path.name in _SPLIT_NAMES]
    depth = 1 if split_folders else 0
    images, strays, boxes_in = [], [], {}
    for path in files_under(folder, {*IMAGE_SUFFIXES, ".xml"}):
        name = path.relative_to(folder).as_posix()
        parts = name.split("/")
        if path.suffix.lower() == ".xml":
            boxes_in[_stem(name.partition("/")[2] if parts[0].lower() == "annotations" else name)] = path
        elif len(parts) <= depth + 1 and (len(parts) == 1 or parts[0] in split_folders):
            strays.append(name)
        elif not split_folders or parts[0] in split_folders:
            images.append(("".join(parts[:depth]), parts[depth], name))
    if strays:
        raise ValueError(
            f"{folder}: images outside of any class's folder ({len(strays)}): {named(strays)}; expected {LAYOUT}"
        )
    places = {name: folder / name for name in split_folders} or {"": folder}
    classes = {place: tuple(path.name for path in _visible_folders(within)) for place, within in places.items()}
    return _Listing(folder, tuple(images), boxes_in, classes)


def _plan(
    split: str, listing: _Listing, val_fraction: float | None, test_fraction: float | None
) -> tuple[tuple[str, ...], dict[str, float]]:
    """Return the split folders that hold the split's images, and the shares to be dealt out of them (none: all)."""
    folders = {_SPLIT_NAMES[place]: place for place in listing.classes if place}
    default = 0.0 if folders else DEFAULT_FRACTION
    given = {"test": test_fraction, "val": val_fraction}
    both = [name for name, share in given.items() if share and name in folders]
    if both:
        raise ValueError(f"{listing.folder} has a folder {folders[both[0]]}; {both[0]}_fraction must not be given too")
    shares = {name: default if share is None else share for name, share in given.items() if name not in folders}
    shares = {name: share for name, share in shares.items() if share}
    if split == "all":
        return tuple(listing.classes), {}
    if split in folders and split != "train":
        return (folders[split],), {}
    if split != "train" and split not in shares:
        raise FileNotFoundError(
            f"{listing.folder} has no {split} split: there is neither a folder {split} nor a {split}_fraction above 0"
        )
    if folders and "train" not in folders:
        raise FileNotFoundError(f"{listing.folder} has no folder train; it has {', '.join(folders.values())}")
    return (folders.get("train", ""),), shares


def _agreed_classes(listing: _Listing, places: Sequence[str], wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Return the class folders, sorted; raise where there is none, or where split folders differ in a wanted one."""
    available = sorted({name for place in places for name in listing.classes[place]})
    if not available:
        raise ValueError(f"no class folders in {', '.join(str(listing.folder / p) for p in places)}; expected {LAYOUT}")
    for place, names in listing.classes.items():
        differing = sorted(set(available) ^ set(names))
        differing = [name for name in differing if wanted is None or name in wanted]
        if differing:
            raise ValueError(
                f"{listing.folder}: {named(places)} and {place} differ in the classes {named(differing)}; a class "
                "needs a folder in every split. Add it, or name the classes to use (classes=…)"
            )
    return tuple(available)


def _images_of(listing: _Listing, places: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    """Return class names by image id; raise where a class has none."""
    wanted = set(classes)
    pool = {name: label for place, label, name in listing.images if place in places and label in wanted}
    empty = sorted(wanted - set(pool.values()))
    if empty:
        raise ValueError(
            f"{', '.join(str(listing.folder / place) for place in places)}: no image in the class folders "
            f"{named(empty)}; add some, remove the folders, or name the classes to use (classes=…)"
        )
    return pool


def _annotations(
    listing: _Listing, file: str | Path | None, pool: Collection[str]
) -> tuple[dict[str, Annotation], list[Problem]]:
    """Return annotations of the images in ``pool`` by id, and those that fit no image of any split."""
    ids = [name for _, _, name in listing.images]
    if file is None:
        files = match(listing.boxes_in, {name: _stem(name) for name in ids}, listing.folder)
        strays = {stem: path for stem, path in listing.boxes_in.items() if stem not in files.values()}
        matched = {name: read_voc(listing.boxes_in[stem]) for name, stem in files.items() if name in pool}
    else:
        entries = {entry.file_name: entry for entry in _read_boxes(Path(file))}
        files = match(entries, {name: name for name in ids}, Path(file))
        if not files:
            raise ValueError(
                f"{file}: none of its {len(entries)} images ({named(list(entries), 2)}) is among the {len(ids)} of "
                f"{listing.folder} ({named(ids, 2)}); file names must end alike"
            )
        strays = {name: Path(file) for name in entries if name not in files.values()}
        matched = {name: entries[file_name] for name, file_name in files.items() if name in pool}
    reason = f"has no image in {listing.folder}"
    return matched, [Problem(name, path, f"annotates {name}, which {reason}") for name, path in strays.items()]


def _read_boxes(file: Path) -> list[Annotation]:
    """Return the annotations of a JSON file: Label Studio's is a list of tasks, COCO's an object."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such annotation file; check option annotations")
    with file.open("rb") as opened:
        is_list = opened.read(64).lstrip().startswith(b"[")
    return read_label_studio(file) if is_list else read_coco(file)


def _stem(name: str) -> str:
    """Return an image's or XML file's name without its suffix.

    >>> _stem("cat/a.b.jpg")
    'cat/a.b'
    """
    head, dot, suffix = name.rpartition(".")
    return head if dot and "/" not in suffix else name
