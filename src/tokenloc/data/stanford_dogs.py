"""Stanford Dogs in the official layout."""

from __future__ import annotations

from pathlib import Path

from tokenloc.data import lists
from tokenloc.data.annotations import read_voc
from tokenloc.data.base import AnyPath, Classes, as_boxes, refuse, require_unique
from tokenloc.data.listed import ListedDataset, present_files
from tokenloc.data.lists import Listing
from tokenloc.data.registry import DATASETS


@DATASETS.register("stanford_dogs")
class StanfordDogsDataset(ListedDataset):
    """Stanford Dogs: 12,000 training and 8,580 test images of 120 breeds, with one or more boxes each.

    Layout: `Images/WNID-Breed/*.jpg`, `Annotation/WNID-Breed/*` (XML without a suffix), and train_list.mat and
    test_list.mat beside them or in `lists/`. The annotations are ImageNet's and count pixels from 0: their corners are
    kept unchanged, as for ImageNet itself.

    Args:
        missing: "error", or "skip" images that are listed but absent; see ``ListedDataset``.
    """

    name = "stanford_dogs"
    splits = ("train", "test")
    source = "Stanford Dogs (images.tar, annotation.tar and lists.tar) from vision.stanford.edu/aditya86/ImageNetDogs"
    markers = ("Images", "Annotation", "lists", "train_list.mat", "test_list.mat")
    usual_folders = ("stanford_dogs", "StanfordDogs")

    def __init__(self, root: AnyPath, split: str, classes: Classes = None, *, missing: str = "error") -> None:
        self._wanted = classes
        super().__init__(root, split, classes, missing=missing)
        bare = [image for image in self.ids if image not in self.samples.boxes]
        report = f"annotation files of {self.name} {split} are missing in {self.folder / 'Annotation'}"
        refuse(bare, report, f"unpack all of {self.source}", FileNotFoundError)

    def _list_images(self, folder: Path, split: str) -> Listing:
        """Boxes are read of the wanted classes, from the files that are present."""
        path = folder / "lists" / f"{split}_list.mat"
        path = path if path.is_file() else folder / path.name
        lists.require([folder / "Images", folder / "Annotation", path], self.source)
        ids, annotations, labels = (lists.read_mat(path, name) for name in ("file_list", "annotation_list", "labels"))
        if not len(ids) == len(annotations) == len(labels):
            lengths = [len(ids), len(annotations), len(labels)]
            raise ValueError(f"{path}: its columns have lengths {lengths}; download it again")
        lists.require_kind([*ids, *annotations], "text", path)
        lists.require_kind(labels, "whole numbers", path)
        require_unique(ids, path)
        class_of = {name: name.rpartition("/")[0] for name in ids}
        names = lists.classes_by_label(class_of, dict(zip(ids, labels, strict=True)), path)
        wanted = set(names if self._wanted is None else self._wanted)
        present = present_files(folder / "Annotation", annotations)
        boxes = {
            name: as_boxes([box for _, box in read_voc(folder / "Annotation" / file, counted_from=0).objects])
            for name, file in zip(ids, annotations, strict=True)
            if file in present and class_of[name] in wanted
        }
        return Listing(tuple(names), class_of, (folder / "Images",), boxes)
