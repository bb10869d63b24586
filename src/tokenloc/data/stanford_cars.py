"""Stanford Cars in either of its official layouts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenloc.data import lists
from tokenloc.data.annotations import half_open
from tokenloc.data.base import as_boxes, refuse, require_unique
from tokenloc.data.listed import ListedDataset
from tokenloc.data.lists import Listing
from tokenloc.data.registry import DATASETS

_COLUMNS = ("class", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


@DATASETS.register("stanford_cars")
class StanfordCarsDataset(ListedDataset):
    """Stanford Cars: 8,144 training and 8,041 test images of 196 makes of cars, with a box each.

    Layouts: `cars_train/`, `cars_test/` and `devkit/` with cars_meta.mat and cars_train_annos.mat, and beside them or
    in the devkit cars_test_annos_withlabels.mat; or `car_ims/` and `cars_annos.mat`. The annotations are MATLAB's:
    they count pixels from 1 and include the last, see ``half_open``.

    Args:
        missing: "error", or "skip" images that are listed but absent; see ``ListedDataset``.
    """

    name = "stanford_cars"
    splits = ("train", "test")
    source = "Stanford Cars (images, devkit and cars_test_annos_withlabels.mat) by Krause et al., ai.stanford.edu"
    markers = ("devkit", "cars_annos.mat", "cars_train", "cars_test", "car_ims")
    usual_folders = ("stanford_cars", "StanfordCars", "cars")

    def _list_images(self, folder: Path, split: str) -> Listing:
        path = folder / "cars_annos.mat"
        if path.is_file():
            names = lists.read_mat(path, "class_names")
            columns = lists.read_mat(path, "annotations", ("relative_im_path", *_COLUMNS, "test"))
            lines = [row for *row, test in zip(*columns, strict=True) if bool(test) == (split == "test")]
            return _from_lines(lines, names, (folder,), path)
        meta, path = folder / "devkit/cars_meta.mat", folder / "devkit/cars_train_annos.mat"
        if split == "test":
            path = folder / "devkit/cars_test_annos_withlabels.mat"  # cars_test_annos.mat has no classes
            path = path if path.is_file() else folder / path.name
        lists.require([meta], self.source)
        lists.require([path], self.source)
        names = lists.read_mat(meta, "class_names")
        columns = lists.read_mat(path, "annotations", ("fname", *_COLUMNS))
        images = f"cars_{split}"
        lines = [[f"{images}/{file}", *row] for file, *row in zip(*columns, strict=True)]
        # Some archives unpack into a folder of the same name.
        return _from_lines(lines, names, (folder, folder / images), path)


def _from_lines(lines: Sequence[Sequence[Any]], names: Sequence[str], folders: tuple[Path, ...], path: Path) -> Listing:
    """Return the listing of lines of image id, class (from 1) and the four corners."""
    ids = [line[0] for line in lines]
    lists.require_kind([*ids, *names], "text", path)
    lists.require_kind((line[1] for line in lines), "whole numbers", path)
    lists.require_kind((number for line in lines for number in line[2:]), "numbers", path)
    labels = [int(line[1]) for line in lines]
    require_unique(ids, path)
    strays = [f"{name} with {label}" for name, label in zip(ids, labels, strict=True) if not 1 <= label <= len(names)]
    refuse(strays, f"{path}: classes outside 1 to {len(names)}", "download it again")
    class_of = {name: names[label - 1] for name, label in zip(ids, labels, strict=True)}
    boxes = {name: as_boxes([half_open(map(float, corners), counted_from=1)]) for name, _, *corners in lines}
    return Listing(tuple(names), class_of, folders, boxes)
