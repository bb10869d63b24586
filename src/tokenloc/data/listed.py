"""Datasets whose splits are lists of images: what the lists say, which images are absent, samples as columns."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tokenloc._names import one_of
from tokenloc.boxes.frame import Size
from tokenloc.data.base import Boxes, ImageDataset, Problem, SampleTable, named, select_classes

Missing = Literal["error", "skip"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listing:
    """A split as its lists tell it, before classes are chosen; every mapping is by image id.

    Args:
        classes: all class names, in the order of their labels.
        class_of: the class name of every image, in the order of the samples.
        folders: where the images may lie; the first that holds one of them is taken.
        boxes: [G, 4] float64 xyxy of original pixels, half-open.
        sizes: (width, height) in pixels, where the lists state them.
        files: the images' paths below their folder, where these are not the ids.
        from_disk: the list was made from the folder itself, so that nothing can be absent.
    """

    classes: tuple[str, ...]
    class_of: Mapping[str, str]
    folders: tuple[Path, ...]
    boxes: Mapping[str, Boxes] = field(default_factory=dict)
    sizes: Mapping[str, Size] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    from_disk: bool = False

    def file(self, image: str) -> str:
        """Return an image's path below its folder."""
        return self.files.get(image, image)

    def table(self, ids: Sequence[str], labels: NDArray[np.int64], folder: Path) -> SampleTable:
        """Return the images ``ids`` as samples."""
        wanted = set(ids)
        files = {name: file for name, file in self.files.items() if name in wanted}
        boxes = {name: several for name, several in self.boxes.items() if name in wanted}
        return SampleTable(ids, labels, folder, files, boxes)


class ListedDataset(ImageDataset):
    """Base of the datasets whose lists name the images; ``skipped`` holds the ids of those that were left out.

    Args:
        split: the split that this is.
        listing: what the lists say of it.
        classes: names to select; None for all.
        missing: what to do where images of the chosen classes are not on disk: "error", or "skip" them.

    Raises:
        FileNotFoundError: where images are absent; the message counts them, and names files that lie there under
            another suffix.
        ValueError: for an unknown class or value of ``missing``, and as ``ImageDataset``.
    """

    source: str = "the dataset"
    """Where a person gets the dataset, in words."""

    samples: SampleTable

    def __init__(self, split: str, listing: Listing, classes: Sequence[str] | None, missing: str = "error") -> None:
        one_of("value of option missing:", missing, Missing)
        chosen = select_classes(listing.classes, classes)
        label_of = {name: label for label, name in enumerate(chosen)}
        ids = [image for image, name in listing.class_of.items() if name in label_of]
        folder, self.skipped = self._absent(listing, ids, split, missing)
        if self.skipped:
            left_out = set(self.skipped)
            ids = [image for image in ids if image not in left_out]
        labels = np.fromiter((label_of[listing.class_of[image]] for image in ids), np.int64, len(ids))
        super().__init__(split, chosen, listing.table(ids, labels, folder), listing.sizes)
        self._remarks: list[Problem] = []
        self.empty_classes = tuple(chosen[label] for label in np.setdiff1d(np.arange(len(chosen)), labels))
        if self.empty_classes:
            report = f"{len(self.empty_classes)} of the {len(chosen)} classes of {self.name} {split} have no image"
            _logger.warning("%s: %s", report, named(self.empty_classes))

    def check(self) -> list[Problem]:
        """Return what ``ImageDataset.check`` finds, images left out or without a box, classes without an image."""
        problems = super().check()
        if self.has_boxes:
            bare = [sample for sample in self if not len(sample.boxes)]
            problems += [Problem(sample.id, sample.path, "has no box, while others have") for sample in bare]
        problems += [Problem(name, None, "is absent; left out, as missing='skip' asks") for name in self.skipped]
        reason = f"is a class without an image in the {self.split} split"
        return problems + [Problem(name, None, reason) for name in self.empty_classes] + self._remarks

    def remark(self, subject: str, reason: str) -> None:
        """Note something that is wrong with the split as a whole: as a warning now, and for ``check``."""
        _logger.warning("%s %s: %s %s", self.name, self.split, subject, reason)
        self._remarks.append(Problem(subject, None, reason))

    def _absent(self, listing: Listing, ids: Sequence[str], split: str, missing: str) -> tuple[Path, tuple[str, ...]]:
        """Return the folder of the images, and the ids of those that are not there; raise where they should be."""
        if listing.from_disk:
            return listing.folders[0], ()
        folder, present = _image_folder(listing, ids)
        absent = tuple(image for image in ids if listing.file(image) not in present)
        if not absent:
            return folder, ()
        report = f"{len(absent)} of the {len(ids)} images of {self.name} {split} are not in {folder}: {named(absent)}"
        report += _renamed([listing.file(image) for image in absent], present)
        if missing == "error" or len(absent) == len(ids):
            raise FileNotFoundError(
                f"{report}. Unpack all of {self.source}, name the classes that are there (classes=…), or leave out "
                "what is absent with missing='skip', if any is there"
            )
        _logger.warning("%s; left out, as missing='skip' asks", report)
        return folder, absent


def own_folder(root: Path, markers: Sequence[str], names: Sequence[str] = ()) -> Path:
    """Return the dataset's own folder: the first of root and the folders in it that holds one of ``markers``.

    Args:
        root: the dataset's own folder or the one above it.
        markers: files or folders of which the dataset's own folder has at least one.
        names: paths below root under which the dataset is usually found; they go before other folders.

    Raises:
        ValueError: where root has several folders that may be it.

    Returns:
        the folder; root itself where there is none, for the caller to say what is missing.
    """
    for folder in (root, *(root / name for name in names)):
        if _has_any(folder, markers):
            return folder
    found = [path for path in sorted(root.iterdir()) if path.is_dir() and _has_any(path, markers)]
    if len(found) > 1:
        raise ValueError(f"{root}: the dataset may be in any of {named(found)}; give the folder itself")
    return found[0] if found else root


def _has_any(folder: Path, markers: Iterable[str]) -> bool:
    return any((folder / marker).exists() for marker in markers)


def _image_folder(listing: Listing, ids: Sequence[str]) -> tuple[Path, set[str]]:
    """Return the first folder that holds one of the images, else the first that is one; and what is in it."""
    files = [listing.file(image) for image in ids]
    for folder in listing.folders:
        present = present_files(folder, files)
        if not present.isdisjoint(files):
            return folder, present
    folder = next(filter(Path.is_dir, listing.folders), listing.folders[0])
    return folder, present_files(folder, files)


def present_files(folder: Path, files: Collection[str]) -> set[str]:
    """Return what lies beside the files: one listing for each of their folders, not one call for each file."""
    return {
        f"{parent}/{path.name}" if parent else path.name
        for parent in {name.rpartition("/")[0] for name in files}
        if (folder / parent).is_dir()
        for path in (folder / parent).iterdir()
    }


def _renamed(absent: Sequence[str], present: Iterable[str]) -> str:
    """Return a remark on absent files that lie there with another suffix or in other case, "" where none does."""
    by_stem = {_stem(name): name for name in present}
    pairs = [f"{by_stem[_stem(name)]} for {name}" for name in absent if _stem(name) in by_stem]
    return f" ({len(pairs)} lie there under another name: {named(pairs)})" if pairs else ""


def _stem(name: str) -> str:
    """Return a path in lower case and without its file's suffix."""
    folder, slash, file = name.lower().rpartition("/")
    return folder + slash + (file.rpartition(".")[0] or file)
