"""OpenImages30k: the part of Open Images V5 that `wsol-eval` uses, annotated by masks with regions to ignore."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenloc.boxes.frame import Frame, Size, same_shape
from tokenloc.data import lists
from tokenloc.data.base import AnyPath, Classes, refuse
from tokenloc.data.images import names_under, read_image, read_size
from tokenloc.data.listed import ListedDataset
from tokenloc.data.lists import Listing
from tokenloc.data.registry import DATASETS

IGNORED = 255
"""Value of mask pixels that are left out of all metrics."""


@DATASETS.register("openimages")
class OpenImagesDataset(ListedDataset):
    """OpenImages30k: 29,819 training, 2,500 val and 5,000 test images of 100 classes; masks in val and test.

    Images are `SPLIT/CLASS/ID.jpg`; a class name is its Open Images id (`0bt_c3` for /m/0bt_c3). Beside an image are
    the masks of its objects, `ID_mCLASS_*.png`, and optionally `ID_ignore.png`. As in `wsol-eval`, the objects' masks
    are united, any value above 0 counts, and a pixel is ignored if the ignore mask marks it and no object does. Masks
    of another resolution but the same aspect ratio are resized only once, to the pixels where a protocol compares them.

    Args:
        metadata: the `metadata/OpenImages` of `wsol-eval` (or the folder above it, or the split's own), whose lists
            then give images, labels and masks, instead of the files' names.
        missing: "error", or "skip" images that are listed but absent; see ``ListedDataset``.
    """

    name = "openimages"
    scaled_masks = True
    source = "OpenImages30k (images and masks) as github.com/clovaai/wsolevaluation describes it"
    markers = ("train", "val", "test")
    usual_folders = ("OpenImages", "OpenImages30k")

    def __init__(
        self, root: AnyPath, split: str, classes: Classes = None, *, metadata: AnyPath = None, missing: str = "error"
    ) -> None:
        self._metadata = metadata
        super().__init__(root, split, classes, missing=missing)
        self.has_masks = bool(self.masks)
        present = {f"{split}/{name}" for name in names_under(self.folder / split, {".png"})}
        absent = [name for several in self.masks.values() for name in several if name and name not in present]
        report = f"masks of openimages {split} are missing in {self.folder}"
        refuse(absent, report, f"unpack all of {self.source}", FileNotFoundError)
        if split != "train" and not self.has_masks:
            place = self.folder / split
            self.remark("masks", f"were not found in {place}: only classification is evaluated; get {self.source}")

    def mask(self, index: int) -> NDArray[np.uint8] | None:
        """Return a mask [H, W] uint8 (0, 1, or 255 for ignored); None if the image has none.

        It has the resolution of the mask files, or the image's if these differ among themselves.
        """
        sample = self.samples[index]
        if sample.id not in self.masks or sample.path is None:
            return None
        *objects, ignored = self.masks[sample.id]
        size = read_size(sample.path)
        marked = {name: _marked(self.folder / name, size) for name in (ignored, *objects) if name}
        if len({each.shape for each in marked.values()}) > 1:
            frames = {name: Frame.resized(each.shape[::-1], size) for name, each in marked.items()}
            marked = {name: frames[name].pixels_to_input(each) for name, each in marked.items()}
        mask = np.zeros(next(iter(marked.values())).shape, np.uint8)
        for name, each in marked.items():
            mask[each] = IGNORED if name == ignored else 1
        return mask

    def _list_images(self, folder: Path, split: str) -> Listing:
        lists.require([folder / split], self.source)
        if self._metadata is None:
            return _from_names(folder, split)
        files = lists.find_split_files(self._metadata, "OpenImages", split)
        listing = lists.read_split_files(files, lambda name, _: name.rpartition("/")[0].rpartition("/")[2])
        return replace(listing, folders=(folder,))


def _from_names(folder: Path, split: str) -> Listing:
    """Return what the names of the files in ``folder/split`` state: CLASS/ID.jpg, CLASS/ID_mCLASS_*.png, …"""
    files = names_under(folder / split, {".jpg", ".jpeg", ".png"})
    images = [name for name in files if not name.lower().endswith(".png")]
    strays = [name for name in images if name.count("/") != 1]
    refuse(strays, f"{folder / split}: images not in SPLIT/CLASS/ID.jpg", "move or remove them")
    objects: dict[str, list[str]] = {}
    ignored: dict[str, str] = {}
    for name in files:
        place, _, file = name.rpartition("/")
        if file.endswith("_ignore.png"):
            ignored[f"{place}/{file.removesuffix('_ignore.png')}"] = f"{split}/{name}"
        elif file.endswith(".png") and "_m" in file:
            objects.setdefault(f"{place}/{file.partition('_m')[0]}", []).append(f"{split}/{name}")
    stems = {f"{split}/{name}": name.rpartition(".")[0] for name in images}
    masks = {name: (*objects.get(stem, ()), ignored.get(stem, "")) for name, stem in stems.items()}
    masks = {name: several for name, several in masks.items() if any(several)}
    classes = sorted(path.name for path in (folder / split).iterdir() if path.is_dir() and path.name[0] != ".")
    class_of = {f"{split}/{name}": name.partition("/")[0] for name in images}
    return Listing(tuple(classes), class_of, (folder,), masks=masks, from_disk=True)


def _marked(path: Path, size: Size) -> NDArray[np.bool_]:
    """Return the pixels [H, W] that the mask of an image of ``size`` (width, height) marks."""
    image = read_image(path)
    (width, height), (wide, high) = size, image.size
    if not same_shape(size, image.size):
        raise ValueError(f"{path}: {wide}x{high} is of another shape than its image of {width}x{height}")
    return np.asarray(np.asarray(image).any(axis=-1))
