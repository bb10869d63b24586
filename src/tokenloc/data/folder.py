"""A user's own images: one folder for each class, split by folders or by seeded fractions, optionally with boxes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from posixpath import splitext

import numpy as np

from tokenloc.data.annotations import Annotation, match, read_json, read_voc
from tokenloc.data.base import (
    BACKGROUND,
    AnyPath,
    Classes,
    ImageDataset,
    Problem,
    SampleTable,
    refuse,
    require_root,
    select_classes,
    shorten,
)
from tokenloc.data.images import IMAGE_SUFFIXES, names_under
from tokenloc.data.registry import DATASETS
from tokenloc.data.stratified import stratified_indices

LAYOUT = "a folder DIR with DIR/CLASS/*.jpg, or DIR/train/CLASS/*.jpg and the like for val and test"

_SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class _Listing:
    """All images below a dataset's own folder, by split folder and class."""

    folder: Path
    images: list[tuple[str, str, str]]
    """(split folder or "", class, id relative to ``folder``), sorted by id."""
    boxes_in: dict[str, Path]
    """XML files by their path without suffix, relative to ``folder`` or to its Annotations folder."""
    classes: dict[str, list[str]]
    """Class folders of every split folder, including empty ones."""


@DATASETS.register("folder")
class FolderDataset(ImageDataset):
    """Images in class folders, which may be nested; classes are sorted by name, and hidden files ignored.

    A class folder `_background` holds images without an object: its class is the last one, and never gets a box.

    If the folder holds `train`, `val` (or `valid`, `validation`) or `test`, these are the splits, and val or test can
    be a fraction of `train`; else the fractions are taken from all images. Split "all" is every image. Boxes come from
    one JSON file (``read_json``), or from Pascal VOC XML files (``read_voc``) with the images' names, beside these or
    in a folder `Annotations`; see ``Annotation.boxes_of``. The root may be the folder above, if it holds nothing else.

    Args:
        annotations: a COCO file or Label Studio's JSON export.
        val_fraction: fraction of val, 0 for none; None is 0.1, or 0 with split folders. A folder val replaces it.
        test_fraction: fraction of test, likewise; it cannot be given in addition to a folder test.
        seed: of the random split.

    Raises:
        ValueError: for images without a class, classes without an image or in one split only, a class with too few
            images for all splits, or annotations that cannot be read or match no image.
    """

    name = "folder"
    splits = ("train", "val", "test", "all")

    def __init__(
        self,
        root: AnyPath,
        split: str,
        classes: Classes = None,
        *,
        annotations: AnyPath = None,
        val_fraction: float | None = None,
        test_fraction: float | None = None,
        seed: int = 0,
    ) -> None:
        self.require_split(split)
        listing = _list_images(_inner_folder(require_root(root, self.name, LAYOUT)))
        folders, fractions = _plan(split, listing, val_fraction, test_fraction)
        available = _common_classes(listing, folders, classes)
        chosen = select_classes(available, classes)
        class_of = _images_of(listing, folders, chosen)
        if fractions:
            ids, names = list(class_of), list(class_of.values())
            parts = stratified_indices(ids, names, list(fractions.values()), seed)
            part = dict(zip([*fractions, "train"], parts, strict=True))[split]
            class_of = {ids[index]: names[index] for index in part}
        self._annotated, self._strays = _annotations(listing, annotations, class_of)
        boxes = {name: one.boxes_of(class_of[name], available) for name, one in self._annotated.items()}
        sizes = {name: annotation.size for name, annotation in self._annotated.items() if annotation.size}
        labels = np.array([chosen.index(name) for name in class_of.values()], dtype=np.int64)
        super().__init__(split, chosen, SampleTable(list(class_of), labels, listing.folder, boxes=boxes), sizes)

    def check(self) -> list[Problem]:
        """Return the problems of ``ImageDataset.check``, images without a box, and annotations without an image."""
        return super().check() + (self.without_boxes() if self._annotated else []) + self._strays


def _visible_folders(folder: Path) -> list[Path]:
    folders = (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return sorted(path for path in folders if path.name.lower() != "annotations")


def _inner_folder(root: Path) -> Path:
    """Return root, or its only folder if that holds folders and no image."""
    inner = _visible_folders(root)
    if len(inner) != 1 or inner[0].name in _SPLIT_NAMES or not _visible_folders(inner[0]):
        return root
    has_images = any(path.suffix.lower() in IMAGE_SUFFIXES for path in inner[0].iterdir())
    return root if has_images else inner[0]


def _list_images(folder: Path) -> _Listing:
    split_folders = [path.name for path in _visible_folders(folder) if path.name in _SPLIT_NAMES]
    depth = 1 if split_folders else 0
    images, strays, boxes_in = [], [], {}
    for name in names_under(folder, {*IMAGE_SUFFIXES, ".xml"}):
        parts = name.split("/")
        if name.lower().endswith(".xml"):
            stem = splitext(name.partition("/")[2] if parts[0].lower() == "annotations" else name)[0]
            boxes_in[stem] = folder / name
        elif len(parts) <= depth + 1 and (len(parts) == 1 or parts[0] in split_folders):
            strays.append(name)
        elif not split_folders or parts[0] in split_folders:
            images.append(("".join(parts[:depth]), parts[depth], name))
    refuse(strays, f"{folder}: images outside the class folders", f"expected {LAYOUT}")
    classes = {name: [path.name for path in _visible_folders(folder / name)] for name in split_folders or [""]}
    return _Listing(folder, images, boxes_in, classes)


def _plan(
    split: str, listing: _Listing, val_fraction: float | None, test_fraction: float | None
) -> tuple[tuple[str, ...], dict[str, float]]:
    """Return the folders that hold the split's images, and the fractions to split these by (none: use all)."""
    folders = {_SPLIT_NAMES[place]: place for place in listing.classes if place}
    fractions: dict[str, float] = {}
    for name, given in (("test", test_fraction), ("val", val_fraction)):
        fraction = (0.0 if folders else 0.1) if given is None else given
        if fraction and name == "test" and name in folders:
            raise ValueError(f"{listing.folder} has a folder {folders[name]}; do not also give {name}_fraction")
        if fraction and name not in folders:
            fractions[name] = fraction
    if split == "all":
        return tuple(listing.classes), {}
    if split in folders and split != "train":
        return (folders[split],), {}
    if split != "train" and split not in fractions:
        raise FileNotFoundError(
            f"{listing.folder} has no {split} split: there is neither a folder {split} nor a {split}_fraction above 0"
        )
    if folders and "train" not in folders:
        raise FileNotFoundError(f"{listing.folder} has no folder train; it has {', '.join(folders.values())}")
    return (folders.get("train", ""),), fractions


def _common_classes(listing: _Listing, folders: Sequence[str], wanted: Classes) -> tuple[str, ...]:
    """Return the class folders, sorted, ``BACKGROUND`` last.

    Raises ValueError if there is none, or if split folders differ in a wanted one.
    """
    found = {name for folder in folders for name in listing.classes[folder]}
    available = sorted(found, key=lambda name: (name == BACKGROUND, name))
    if not available:
        paths = shorten([listing.folder / folder for folder in folders])
        raise ValueError(f"no class folders in {paths}; expected {LAYOUT}")
    for folder, names in listing.classes.items():
        differing = sorted(name for name in {*available} ^ {*names} if wanted is None or name in wanted)
        if differing:
            raise ValueError(
                f"{listing.folder}: {shorten(folders)} and {folder} differ in the classes {shorten(differing)}; "
                "a class needs a folder in every split. Add it, or select classes (--data.classes '[…]')"
            )
    return tuple(available)


def _images_of(listing: _Listing, folders: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    """Return class names by image id; raise if a class has no image."""
    wanted = set(classes)
    class_of = {name: label for folder, label, name in listing.images if folder in folders and label in wanted}
    empty = sorted(wanted - set(class_of.values()))
    report = f"{shorten([listing.folder / folder for folder in folders])}: class folders without an image"
    refuse(empty, report, "add some, remove the folders, or select classes (--data.classes '[…]')")
    return class_of


def _annotations(
    listing: _Listing, file: AnyPath, wanted: Collection[str]
) -> tuple[dict[str, Annotation], list[Problem]]:
    """Return annotations of the ``wanted`` images by id, and those that match no image of any split."""
    ids = [name for _, _, name in listing.images]
    if file is None:
        files = match(listing.boxes_in, {name: splitext(name)[0] for name in ids}, listing.folder)
        matched = {name: read_voc(listing.boxes_in[stem]) for name, stem in files.items() if name in wanted}
        sources = listing.boxes_in
    else:
        entries = {entry.file_name: entry for entry in read_json(file)}
        files = match(entries, {name: name for name in ids}, Path(file))
        if not files:
            known = f"the {len(ids)} of {listing.folder} ({shorten(ids, 2)}); the ends of file names must agree"
            raise ValueError(f"{file}: none of its {len(entries)} images ({shorten([*entries], 2)}) is among {known}")
        matched = {name: entries[file_name] for name, file_name in files.items() if name in wanted}
        sources = dict.fromkeys(entries, Path(file))
    used, reason = set(files.values()), f"which has no image in {listing.folder}"
    return matched, [
        Problem(name, path, f"annotates {name}, {reason}") for name, path in sources.items() if name not in used
    ]
