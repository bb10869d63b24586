"""Stanford Dogs, in the official layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenloc.data import splits as lists
from tokenloc.data.annotations import read_voc
from tokenloc.data.base import as_boxes, named, require_root
from tokenloc.data.listed import ListedDataset, Listing, own_folder, present_files
from tokenloc.data.matlab import read_mat
from tokenloc.data.registry import DATASETS

SOURCE = "Stanford Dogs (images.tar, annotation.tar and lists.tar) from vision.stanford.edu/aditya86/ImageNetDogs"
"""Where a person gets the dataset."""


@DATASETS.register("stanford_dogs")
class StanfordDogsDataset(ListedDataset):
    """Stanford Dogs: 12,000 training and 8,580 test images of 120 breeds, one or more boxes each.

    Layout: `Images/WNID-Breed/*.jpg`, `Annotation/WNID-Breed/*` (XML without a suffix), and train_list.mat and
    test_list.mat beside them or in `lists/`. The annotations are ImageNet's and count pixels from 0: their corners are
    kept as they stand, as for ImageNet itself.

    Args:
        root: the folder with these, or the one above it.
        split: "train" or "test".
        classes: names of class folders ("n02085620-Chihuahua"); labels follow the selection, in the lists' order.
        missing: "error", or "skip" images that are listed but absent; see ``ListedDataset``.

    Raises:
        FileNotFoundError: where lists, images or annotations are missing.
        ValueError: where lists are damaged or contradict one another, or an argument has a value unknown.
    """

    name = "stanford_dogs"
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
        markers = ("Images", "Annotation", "lists", "train_list.mat", "test_list.mat")
        folder = own_folder(require_root(root, self.name, SOURCE), markers, ("stanford_dogs", "StanfordDogs"))
        path = folder / f"{split}_list.mat"
        if (folder / "lists" / path.name).is_file():
            path = folder / "lists" / path.name
        lists.require([folder / "Images", folder / "Annotation", path], SOURCE)
        super().__init__(split, _listing(path, folder, classes), classes, missing)
        bare = [image for image in self.ids if image not in self.samples.boxes]
        if bare:
            raise FileNotFoundError(
                f"{len(bare)} of the {len(self)} annotation files of {self.name} {split} are not in "
                f"{folder / 'Annotation'}: {named(bare)}; unpack all of {SOURCE}"
            )


def _listing(path: Path, folder: Path, classes: Sequence[str] | None) -> Listing:
    """Return a split of a MATLAB list; boxes are read of the ``classes`` that are wanted and of annotations there."""
    columns = [column.tolist() for column in read_mat(path, ["file_list", "annotation_list", "labels"])]
    if len({len(column) for column in columns}) > 1:
        raise ValueError(f"{path}: its columns have lengths {[len(column) for column in columns]}; download it again")
    ids, annotations, labels = columns
    lists.require_unique(ids, path)
    class_of = {name: name.rpartition("/")[0] for name in ids}
    names = lists.classes_by_label(class_of, dict(zip(ids, labels, strict=True)), path)
    wanted = set(names if classes is None else classes)
    there = present_files(folder / "Annotation", annotations)
    boxes = {
        name: as_boxes([box for _, box in read_voc(folder / "Annotation" / file, counted_from=0).objects])
        for name, file in zip(ids, annotations, strict=True)
        if file in there and class_of[name] in wanted
    }
    return Listing(tuple(names), class_of, (folder / "Images",), boxes)
