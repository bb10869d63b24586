"""Caltech-UCSD Birds-200-2011 in the official layout, or any subset of it, with CUBV2 as its val split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenloc.data import lists
from tokenloc.data.base import AnyPath, Boxes, Classes, as_boxes, require_unique
from tokenloc.data.images import IMAGE_SUFFIXES, names_under, read_image
from tokenloc.data.listed import ListedDataset
from tokenloc.data.lists import Listing
from tokenloc.data.registry import DATASETS

_LISTS = ("images.txt", "classes.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt")


@DATASETS.register("cub")
class CubDataset(ListedDataset):
    """CUB-200-2011: 5,994 training and 5,794 test images of 200 birds, with a box and a mask each.

    Boxes are `x, y, x + width, y + height` of bounding_boxes.txt, as in released code: half-open and counted from 0.
    Masks come from `segmentations/` in the dataset's folder or beside it: pixels that most of the five annotators
    marked (above 127). The val split is CUBV2 of `wsol-eval`: a folder `CUBV2` in the dataset's folder or beside it,
    with class folders (`001.Black_footed_Albatross`, `001` or `1`), and boxes if it or ``metadata`` holds the split's
    lists.

    Args:
        metadata: the `metadata/CUB` of `wsol-eval` (or the folder above it, or the split's own), whose lists then
            replace the official ones. If root has a classes.txt, only its classes are used.
        missing: "error", or "skip" images that are listed but absent; see ``ListedDataset``.
    """

    name = "cub"
    source = "CUB_200_2011 from vision.caltech.edu/datasets/cub_200_2011"
    markers = ("images", *_LISTS)
    usual_folders = ("CUB_200_2011",)

    def __init__(
        self, root: AnyPath, split: str, classes: Classes = None, *, metadata: AnyPath = None, missing: str = "error"
    ) -> None:
        self._metadata = metadata
        super().__init__(root, split, classes, missing=missing)
        self._segmentations = next(filter(Path.is_dir, _beside(self.folder, "segmentations")), None)
        self.has_masks = self._segmentations is not None and split != "val"

    def mask(self, index: int) -> NDArray[np.uint8] | None:
        """Return the bird's mask [H, W] uint8 of original pixels (0 or 1); None without `segmentations/`."""
        if self._segmentations is None or not self.has_masks:
            return None
        votes = read_image((self._segmentations / self.samples[index].id).with_suffix(".png"))
        return (np.asarray(votes)[..., 0] > 127).astype(np.uint8)

    def _list_images(self, folder: Path, split: str) -> Listing:
        if self._metadata is not None:
            return _from_split_files(lists.find_split_files(self._metadata, "CUB", split), folder, split)
        if split != "val":
            return _official(folder, split, self.source)
        candidates = _beside(folder, "CUBV2")
        second = next(filter(Path.is_dir, candidates), None)
        if second is None:
            raise FileNotFoundError(
                f"cub has a val split only with CUBV2: looked for {candidates[0]} and {candidates[1]}; its images and "
                f"boxes: {lists.WSOL_EVAL}. Without it, choose thresholds on train"
            )
        if lists.has_split_files(second):
            return _from_split_files(second, folder, split)
        return _from_class_folders(second, folder, self.source)


def _beside(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / name, folder.parent / name


def _official(folder: Path, split: str, source: str) -> Listing:
    images, classes, labels, flags, boxes = (folder / name for name in _LISTS)
    lists.require([images, classes, labels, flags, boxes], source)
    names = _class_names(classes)
    train = {row[0]: lists.integer(row[1], location) == 1 for location, row in lists.rows(flags, 2)}
    class_ids = {row[0]: row[1] for _, row in lists.rows(labels, 2)}
    paths = {row[0]: row[1] for _, row in lists.rows(images, 2)}
    require_unique(list(paths.values()), images)
    for table, path in ((train, flags), (class_ids, labels)):
        lists.require_listed(paths, table, f"{path} has no line for listed images")
    used = sorted({class_ids[number] for number in paths})
    lists.require_listed(used, names, f"{labels} uses classes that are not in {classes}")
    wanted = {number: path for number, path in paths.items() if train[number] == (split == "train")}
    corners = {row[0]: _corners(row[1:], location) for location, row in lists.rows(boxes, 5) if row[0] in wanted}
    lists.require_listed(wanted, corners, f"{boxes} has no line for listed images")
    return Listing(
        tuple(names.values()),
        {path: names[class_ids[number]] for number, path in wanted.items()},
        (folder / "images",),
        {path: corners[number] for number, path in wanted.items()},
    )


def _corners(cells: Sequence[str], location: str) -> Boxes:
    x, y, width, height = (lists.number(cell, location) for cell in cells)
    return as_boxes([[x, y, x + width, y + height]])


def _class_names(path: Path) -> dict[str, str]:
    """Return class names by class number, "1" to "200", in the file's order."""
    return {row[0]: row[1] for _, row in lists.rows(path, 2)}


def _from_split_files(files: Path, folder: Path, split: str) -> Listing:
    """Return a split of the `wsol-eval` files, whose ids are CLASS/FILE."""
    listing = lists.read_split_files(files, lambda name, _: name.split("/")[0])
    classes = listing.classes
    if (folder / "classes.txt").is_file():
        listed = _class_names(folder / "classes.txt").values()
        classes = tuple(name for name in listed if name in set(classes))
    # CUBV2's archive unpacks into the folder of the other images, where `wsol-eval` expects it.
    first = _beside(folder, "CUBV2") if split == "val" else ()
    return replace(listing, classes=classes, folders=(*first, folder / "images", folder))


def _from_class_folders(second: Path, folder: Path, source: str) -> Listing:
    """Return CUBV2 from its class folders alone, without boxes."""
    lists.require([folder / "classes.txt"], source)
    names = _class_names(folder / "classes.txt")
    numbers = {image: image.split("/")[0].split(".")[0].lstrip("0") for image in names_under(second, IMAGE_SUFFIXES)}
    class_of = {image: names[number] for image, number in numbers.items() if number in names}
    return Listing(tuple(names.values()), class_of, (second,))
