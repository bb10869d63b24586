"""Stanford Cars, in either of its official layouts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenloc.data import splits as lists
from tokenloc.data.annotations import half_open
from tokenloc.data.base import as_boxes, named, require_root
from tokenloc.data.listed import ListedDataset, Listing, own_folder
from tokenloc.data.matlab import fields, read_mat
from tokenloc.data.registry import DATASETS

SOURCE = "Stanford Cars (images, devkit and cars_test_annos_withlabels.mat) by Krause et al., ai.stanford.edu"
"""Where a person gets the dataset."""

_CORNERS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


@DATASETS.register("stanford_cars")
class StanfordCarsDataset(ListedDataset):
    """Stanford Cars: 8,144 training and 8,041 test images of 196 makes of cars, a box each.

    Layouts: `cars_train/`, `cars_test/` and `devkit/` with cars_meta.mat and cars_train_annos.mat, and beside them or
    in the devkit cars_test_annos_withlabels.mat; or `car_ims/` and `cars_annos.mat`. The annotations are MATLAB's:
    they count pixels from 1 and include the last, so x1, y1, x2, y2 become x1 - 1, y1 - 1, x2, y2.

    Args:
        root: the folder with these, or the one above it.
        split: "train" or "test".
        classes: names as in cars_meta.mat ("AM General Hummer SUV 2000"); labels follow the selection, in its order.
        missing: "error", or "skip" images that are listed but absent; see ``ListedDataset``.

    Raises:
        FileNotFoundError: where lists or images are missing.
        ValueError: where lists are damaged or contradict one another, or an argument has a value unknown.
    """

    name = "stanford_cars"
    splits = ("train", "test")
    source = SOURCE

    def __init__(
        self,
        root: str | Path | None,
        split: str,
        classes: Sequence[str] | None = None,
        *,
        missing: str = "error",
    ) -> None:
        self.require_split(split)
        markers = ("devkit", "cars_annos.mat", "cars_train", "cars_test", "car_ims")
        folder = own_folder(require_root(root, self.name, SOURCE), markers, ("stanford_cars", "StanfordCars", "cars"))
        one_file = folder / "cars_annos.mat"
        listing = _from_one_file(one_file, split) if one_file.is_file() else _from_devkit(folder, split)
        super().__init__(split, listing, classes, missing)


def _from_devkit(folder: Path, split: str) -> Listing:
    """Return a split of the layout with a devkit."""
    devkit = folder / "devkit"
    annotations = devkit / "cars_train_annos.mat"
    if split == "test":
        annotations = folder / "cars_test_annos_withlabels.mat"  # cars_test_annos.mat has no classes
        if (devkit / annotations.name).is_file():
            annotations = devkit / annotations.name
    meta = devkit / "cars_meta.mat"
    lists.require([meta], SOURCE)
    lists.require([annotations], SOURCE)
    (names,) = read_mat(meta, ["class_names"])
    (table,) = read_mat(annotations, ["annotations"])
    files, *columns = fields(table, ("fname", "class", *_CORNERS), annotations)
    images = f"cars_{split}"
    # Some archives unpack into a folder of their own name.
    folders = (folder, folder / images)
    return _listing([f"{images}/{file}" for file in files], columns, names.tolist(), folders, annotations)


def _from_one_file(path: Path, split: str) -> Listing:
    """Return a split of the layout with all annotations in one file."""
    table, names = read_mat(path, ["annotations", "class_names"])
    (flags,) = fields(table, ["test"], path)
    chosen = table[[bool(flag) == (split == "test") for flag in flags]]
    files, *columns = fields(chosen, ("relative_im_path", "class", *_CORNERS), path)
    return _listing(files, columns, names.tolist(), (path.parent,), path)


def _listing(
    ids: Sequence[str], columns: Sequence[Sequence[Any]], names: Sequence[str], folders: tuple[Path, ...], path: Path
) -> Listing:
    """Return the listing of images with ``columns`` class (from 1) and the four corners."""
    lists.require_unique(ids, path)
    labels, *corners = columns
    strays = [f"{name} with {label}" for name, label in zip(ids, labels, strict=True) if not 1 <= label <= len(names)]
    if strays:
        raise ValueError(
            f"{path}: classes outside 1 to {len(names)} ({len(strays)}): {named(strays)}; download it again"
        )
    class_of = {name: names[label - 1] for name, label in zip(ids, labels, strict=True)}
    boxes = {
        name: as_boxes([half_open(map(float, box), counted_from=1)]) for name, *box in zip(ids, *corners, strict=True)
    }
    return Listing(tuple(names), class_of, folders, boxes)
