"""Datasets with an official layout: finding their folder, reading their lists, reporting missing images."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from posixpath import splitext
from typing import Literal

import numpy as np

from tokenloc._files import require_inside
from tokenloc._names import one_of
from tokenloc.data.base import (
    AnyPath,
    Classes,
    ImageDataset,
    Problem,
    SampleTable,
    require_root,
    select_classes,
    shorten,
)
from tokenloc.data.lists import Listing

Missing = Literal["error", "skip"]

_logger = logging.getLogger(__name__)


class ListedDataset(ImageDataset):
    """Base of the datasets with an official layout, which override ``_list_images``.

    Class attributes: ``source`` describes where to get the files; ``markers`` are files or folders of which the
    dataset's own folder has at least one; ``usual_folders`` are paths below root where that folder usually is. See
    ``create_dataset`` for ``root``, ``split``, ``classes`` and errors.

    Args:
        missing: what to do if images of the selected classes are not on disk: "error", or "skip" them; ``skipped``
            then holds their ids, a warning counts them, and classes and labels stay.
    """

    samples: SampleTable
    source: str
    markers: tuple[str, ...]
    usual_folders: tuple[str, ...] = ()

    def __init__(self, root: AnyPath, split: str, classes: Classes = None, *, missing: str = "error") -> None:
        self.require_split(split)
        one_of("value of option missing:", missing, Missing)
        self.folder = own_folder(require_root(root, self.name, self.source), self.markers, self.usual_folders)
        listing = self._list_images(self.folder, split)
        chosen = select_classes(listing.classes, classes)
        label_of = {name: label for label, name in enumerate(chosen)}
        ids = [image for image, name in listing.class_of.items() if name in label_of]
        folder, self.skipped = self._absent(listing, ids, split, missing)
        if self.skipped:
            absent = set(self.skipped)
            ids = [image for image in ids if image not in absent]
        labels = np.fromiter((label_of[listing.class_of[image]] for image in ids), np.int64, len(ids))
        known = set(ids)
        files = {image: file for image, file in listing.files.items() if image in known}
        boxes = {image: several for image, several in listing.boxes.items() if image in known}
        self.masks = {image: masks for image, masks in listing.masks.items() if image in known}
        super().__init__(split, chosen, SampleTable(ids, labels, folder, files, boxes), listing.sizes)
        empty = [chosen[label] for label in np.setdiff1d(np.arange(len(chosen)), labels)]
        if empty:
            report = f"{len(empty)} of the {len(chosen)} classes of {self.name} {split} have no image"
            _logger.warning("%s: %s", report, shorten(empty))
        self._remarks = [Problem(name, None, "is missing and was skipped (missing='skip')") for name in self.skipped]
        self._remarks += [Problem(name, None, f"is a class without an image in the {split} split") for name in empty]

    @abstractmethod
    def _list_images(self, folder: Path, split: str) -> Listing:
        """Return the listing of a split, given the dataset's own folder."""

    def check(self) -> list[Problem]:
        """Return the problems of ``ImageDataset.check``, images without a file or box, and classes without an image."""
        return super().check() + (self.without_boxes() if self.has_boxes else []) + self._remarks

    def remark(self, subject: str, reason: str) -> None:
        """Log a problem of the whole split as a warning, and add it to ``check``."""
        _logger.warning("%s %s: %s %s", self.name, self.split, subject, reason)
        self._remarks.append(Problem(subject, None, reason))

    def _absent(self, listing: Listing, ids: Sequence[str], split: str, missing: str) -> tuple[Path, tuple[str, ...]]:
        """Return the folder of the images, and the ids of missing ones; raise if these are an error."""
        if listing.from_disk:
            return listing.folders[0], ()
        files = [listing.files.get(image, image) for image in ids]
        folder, present = _image_folder(listing.folders, files)
        absent = {image: file for image, file in zip(ids, files, strict=True) if file not in present}
        if not absent:
            return folder, ()
        report = f"{len(absent)} of the {len(ids)} images of {self.name} {split} are not in {folder}: "
        report += shorten(tuple(absent)) + _renamed(absent.values(), present)
        if missing == "error" or len(absent) == len(ids):
            remedy = "or skip missing images (--data.options.missing skip)"
            select = "select the classes that are present (--data.classes '[…]')"
            raise FileNotFoundError(f"{report}. Unpack all of {self.source}, {select}, {remedy} if any are present")
        _logger.warning("%s; skipped (missing='skip')", report)
        return folder, tuple(absent)


def own_folder(root: Path, markers: Sequence[str], names: Sequence[str] = ()) -> Path:
    """Return the first of root, root/``names`` and root's other folders that holds one of ``markers``, else root."""

    def is_own(folder: Path) -> bool:
        return any((folder / marker).exists() for marker in markers)

    for folder in (root, *(root / name for name in names)):
        if is_own(folder):
            return folder
    found = [path for path in sorted(root.iterdir()) if path.is_dir() and is_own(path)]
    if len(found) > 1:
        raise ValueError(f"{root}: the dataset may be in any of {shorten(found)}; give the folder itself")
    return found[0] if found else root


def present_files(folder: Path, files: Collection[str]) -> set[str]:
    """Return all files beside ``files``: one listing for each of their folders, not one call for each file.

    Raises ValueError if one of ``files``, which lists name, is outside ``folder``.
    """
    require_inside(files, f"a list of the dataset in {folder}")
    return {
        f"{parent}/{path.name}" if parent else path.name
        for parent in {name.rpartition("/")[0] for name in files}
        if (folder / parent).is_dir()
        for path in (folder / parent).iterdir()
    }


def _image_folder(folders: Sequence[Path], files: Sequence[str]) -> tuple[Path, set[str]]:
    """Return the first folder that holds one of the files, else the first that exists; and its files."""
    for folder in folders:
        present = present_files(folder, files)
        if not present.isdisjoint(files):
            return folder, present
    folder = next(filter(Path.is_dir, folders), folders[0])
    return folder, present_files(folder, files)


def _renamed(absent: Iterable[str], present: Iterable[str]) -> str:
    """Return a remark on missing files that exist with another suffix or in another case, else ""."""
    by_stem = {splitext(name.lower())[0]: name for name in present}
    stems = {name: splitext(name.lower())[0] for name in absent}
    pairs = [f"{by_stem[stem]} for {name}" for name, stem in stems.items() if stem in by_stem]
    return f" ({len(pairs)} exist under another name: {shorten(pairs)})" if pairs else ""
