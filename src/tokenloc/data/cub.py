"""Caltech-UCSD Birds-200-2011, in the official layout, any subset of it, with CUBV2 as its val split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenloc.data import splits as lists
from tokenloc.data.base import as_boxes, require_root
from tokenloc.data.images import IMAGE_SUFFIXES, files_under, read_image
from tokenloc.data.listed import ListedDataset, Listing
from tokenloc.data.registry import DATASETS

SOURCE = "CUB_200_2011 from vision.caltech.edu/datasets/cub_200_2011"
"""Where a person gets the dataset."""

_LISTS = ("images.txt", "classes.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt")


@DATASETS.register("cub")
class CubDataset(ListedDataset):
    """CUB-200-2011: 5,994 training and 5,794 test images of 200 birds, a box and a mask each.

    Boxes are `x, y, x + width, y + height` of bounding_boxes.txt as they stand, which is what released code takes:
    they start at 0 and never pass the image's right or lower edge, so they are half-open and count from 0. Masks
    come from `segmentations/`, in the dataset's folder or beside it: an object's pixel is one that most of the five
    annotators marked (value above 127). The val split is CUBV2 of the `wsol-eval` evaluator: a folder `CUBV2`, in the dataset's
    folder or beside it, with class subfolders (`001.Black_footed_Albatross`, `001` or `1`); its boxes are in the
    wsol_eval's split files, which lie in that folder or in ``metadata``.

    Args:
        root: the folder with images.txt, or the one above it.
        split: "train", "val" or "test".
        classes: names as in classes.txt; labels follow the selection, in the order of classes.txt.
        metadata: the `wsol-eval` evaluator's `metadata/CUB` (or the folder above, or the split's own): its lists then give
            images, labels, boxes and sizes instead of the official ones. Where root has a classes.txt, only the
            classes it lists are taken.
        missing: what to do where images of the split's chosen classes are not on disk: "error", or "skip" them
            (for a subset made by deleting files): ``skipped`` holds their ids and their number is logged as a
            warning; classes and labels stay.

    Raises:
        FileNotFoundError: where lists or images are missing.
        ValueError: where lists are damaged or contradict one another, or an argument has a value unknown.
    """

    name = "cub"
    source = SOURCE

    def __init__(
        self,
        root: str | Path | None,
        split: str,
        classes: Sequence[str] | None = None,
        *,
        metadata: str | Path | None = None,
        missing: str = "error",
    ) -> None:
        self.require_split(split)
        folder = _own_folder(require_root(root, self.name, SOURCE))
        super().__init__(split, _listing(folder, split, metadata), classes, missing)
        self._segmentations = next(filter(Path.is_dir, _beside(folder, "segmentations")), None)
        self.has_masks = self._segmentations is not None and split != "val"

    def mask(self, index: int) -> NDArray[np.uint8] | None:
        """Return the bird's mask [H, W] uint8 of original pixels (0 or 1), None without `segmentations/`."""
        if self._segmentations is None or not self.has_masks:
            return None
        votes = read_image((self._segmentations / self.samples[index].id).with_suffix(".png"))
        return (np.asarray(votes)[..., 0] > 127).astype(np.uint8)


def _own_folder(root: Path) -> Path:
    """Return the dataset's own folder: root or the CUB_200_2011 in it."""
    below = root / "CUB_200_2011"
    is_root = any((root / name).exists() for name in ("images", *_LISTS))
    return below if below.is_dir() and not is_root else root


def _beside(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / name, folder.parent / name


def _listing(folder: Path, split: str, metadata: str | Path | None) -> Listing:
    if metadata is not None:
        return _from_split_files(lists.find_split_files(metadata, "CUB", split), folder, split)
    if split != "val":
        return _official(folder, split)
    candidates = _beside(folder, "CUBV2")
    second = next(filter(Path.is_dir, candidates), None)
    if second is None:
        raise FileNotFoundError(
            f"cub has a val split only with CUBV2: looked for {candidates[0]} and {candidates[1]}; its images and "
            f"boxes: {lists.REFEREE}. Or hold out a part of the training images with stratified_split"
        )
    if lists.has_split_files(second):
        return _from_split_files(second, folder, split)
    return _from_class_folders(second, folder)


def _official(folder: Path, split: str) -> Listing:
    """Return train or test of the official lists."""
    images, classes, labels, flags, boxes = (folder / name for name in _LISTS)
    lists.require([images, classes, labels, flags, boxes], SOURCE)
    names = _class_names(classes)
    train = {row[0]: lists.index(row[1], place) == 1 for place, row in lists.rows(flags, 2)}
    class_ids = {row[0]: row[1] for _, row in lists.rows(labels, 2)}
    paths = {row[0]: row[1] for _, row in lists.rows(images, 2)}
    lists.require_unique(list(paths.values()), images)
    for table, path in ((train, flags), (class_ids, labels)):
        lists.require_lines(list(paths), table, path)
    lists.require_classes({class_ids[number] for number in paths}, names, labels, classes)
    wanted = {number: path for number, path in paths.items() if train[number] == (split == "train")}
    corners = {row[0]: _corners(row[1:], place) for place, row in lists.rows(boxes, 5) if row[0] in wanted}
    lists.require_lines(list(wanted), corners, boxes)
    return Listing(
        tuple(names.values()),
        {path: names[class_ids[number]] for number, path in wanted.items()},
        (folder / "images",),
        {path: corners[number] for number, path in wanted.items()},
    )


def _corners(cells: Sequence[str], place: str) -> NDArray[np.float64]:
    x, y, width, height = (lists.number(cell, place) for cell in cells)
    return as_boxes([[x, y, x + width, y + height]])


def _class_names(path: Path) -> dict[str, str]:
    """Return class names by class number, "1" to "200", in the file's order."""
    return {row[0]: row[1] for _, row in lists.rows(path, 2)}


def _from_split_files(files: Path, folder: Path, split: str) -> Listing:
    """Return a split of the `wsol-eval` evaluator's files, whose ids are CLASS/FILE."""
    split_files = lists.read_split_files(files)
    class_of = {name: name.split("/")[0] for name in split_files.image_ids}
    classes = lists.classes_by_label(class_of, split_files.labels, files / "class_labels.txt")
    if (folder / "classes.txt").is_file():
        listed = _class_names(folder / "classes.txt").values()
        classes = [name for name in listed if name in set(classes)]
    # CUBV2's archive unpacks into the folder of the other images, where the `wsol-eval` evaluator expects it.
    first = _beside(folder, "CUBV2") if split == "val" else ()
    return Listing(tuple(classes), class_of, (*first, folder / "images", folder), split_files.boxes, split_files.sizes)


def _from_class_folders(second: Path, folder: Path) -> Listing:
    """Return CUBV2 from its class folders alone; boxes are then unknown."""
    lists.require([folder / "classes.txt"], SOURCE)
    names = _class_names(folder / "classes.txt")
    class_of = {}
    for path in files_under(second, IMAGE_SUFFIXES):
        image = path.relative_to(second).as_posix()
        number = image.split("/")[0].split(".")[0].lstrip("0")
        if number in names:
            class_of[image] = names[number]
    return Listing(tuple(names.values()), class_of, (second,))
