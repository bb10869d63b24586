"""OpenImages30k: the `wsol-eval` evaluator's part of Open Images V5, whose truth is masks with regions to ignore."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tokenloc.boxes.frame import Size
from tokenloc.data import splits as lists
from tokenloc.data.base import named, require_root
from tokenloc.data.images import names_under, read_image, read_size
from tokenloc.data.listed import ListedDataset, Listing, own_folder
from tokenloc.data.registry import DATASETS

SOURCE = "OpenImages30k (images and masks) as github.com/clovaai/wsolevaluation describes it"
"""Where a person gets the dataset."""

IGNORED = 255
"""Value of mask pixels that say nothing, of whatever class they may be."""

_Masks = dict[str, tuple[str, ...]]


@DATASETS.register("openimages")
class OpenImagesDataset(ListedDataset):
    """OpenImages30k: 29,819 training, 2,500 val and 5,000 test images of 100 classes; masks in val and test.

    Images lie in `SPLIT/CLASS/ID.jpg`; a class is called by its Open Images id (`0bt_c3` for /m/0bt_c3). Beside a
    image lie the masks of its objects, `ID_mCLASS_*.png`, and maybe `ID_ignore.png`. As in the `wsol-eval` evaluator, objects
    are united, any value above 0 counts, and an ignored pixel is one of the ignore mask that no object has. Masks
    may be smaller or larger than their image, of the same shape: they are brought to its size by nearest
    neighbour.

    Args:
        root: the folder with `train`, `val` or `test`, or the one above it.
        split: "train", "val" or "test".
        classes: names of class folders; labels follow the selection, sorted by name as the `wsol-eval` evaluator's labels are.
        metadata: the `wsol-eval` evaluator's `metadata/OpenImages` (or the folder above, or the split's own): its lists then give
            images, labels and masks, in place of the files' names.
        missing: "error", or "skip" images that are listed but absent; see ``ListedDataset``.

    Raises:
        FileNotFoundError: where folders, images or listed masks are missing.
        ValueError: where lists are damaged or contradict one another, or an argument has a value unknown.
    """

    name = "openimages"
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
        folder = own_folder(require_root(root, self.name, SOURCE), self.splits, ("OpenImages", "OpenImages30k"))
        lists.require([folder / split], SOURCE)
        files = names_under(folder / split, {".jpg", ".jpeg", ".png"})
        if metadata is None:
            listing, masks = _from_names(folder, split, files)
        else:
            listing, masks = _from_split_files(lists.find_split_files(metadata, "OpenImages", split), folder)
        super().__init__(split, listing, classes, missing)
        self._folder = folder
        self._masks = {name: masks[name] for name in self.ids if name in masks}
        self.has_masks = bool(self._masks)
        _require_masks(self._masks, {f"{split}/{name}" for name in files}, folder, split)
        if split != "train" and not self.has_masks:
            self.remark("masks", f"were not found in {folder / split}: only classification is measured; get {SOURCE}")

    def mask(self, index: int) -> NDArray[np.uint8] | None:
        """Return an image's mask [H, W] uint8 of its own pixels (0, 1, or 255 for ignored); None where it has none.

        Raises:
            FileNotFoundError: where a mask is missing.
            ValueError: where one cannot be read, or is of another shape than its image.
        """
        sample = self.samples[index]
        if sample.id not in self._masks or sample.path is None:
            return None
        *objects, ignored = self._masks[sample.id]
        size = read_size(sample.path)
        mask = np.zeros((size[1], size[0]), np.uint8)
        if ignored:
            mask[_marked(self._folder / ignored, size)] = IGNORED
        for name in objects:
            mask[_marked(self._folder / name, size)] = 1
        return mask


def _from_names(folder: Path, split: str, files: Sequence[str]) -> tuple[Listing, _Masks]:
    """Return what the names of the files in ``folder/split`` tell: CLASS/ID.jpg, CLASS/ID_mCLASS_*.png, …"""
    images = [name for name in files if not name.lower().endswith(".png")]
    strays = [name for name in images if name.count("/") != 1]
    if strays:
        raise ValueError(f"{folder / split}: images not in SPLIT/CLASS/ID.jpg ({len(strays)}): {named(strays)}")
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
    return Listing(tuple(classes), class_of, (folder,), from_disk=True), masks


def _from_split_files(files: Path, folder: Path) -> tuple[Listing, _Masks]:
    """Return a split of the `wsol-eval` evaluator's files, whose ids are SPLIT/CLASS/ID.jpg."""
    found = lists.read_split_files(files)
    class_of = {name: name.rpartition("/")[0].rpartition("/")[2] for name in found.image_ids}
    classes = lists.classes_by_label(class_of, found.labels, files / "class_labels.txt")
    return Listing(tuple(classes), class_of, (folder,), sizes=found.sizes), found.masks


def _require_masks(masks: _Masks, present: Iterable[str], folder: Path, split: str) -> None:
    """Raise FileNotFoundError where masks are listed that do not lie with the images."""
    listed = [name for several in masks.values() for name in several if name]
    there = set(present)
    absent = [name for name in listed if name not in there]
    if absent:
        raise FileNotFoundError(
            f"{len(absent)} of the {len(listed)} masks of openimages {split} are not in {folder}: {named(absent)}; "
            f"unpack all of {SOURCE}"
        )


def _marked(path: Path, size: Size) -> NDArray[np.bool_]:
    """Return which pixels [H, W] a mask marks, in an image of ``size`` (width, height)."""
    image = read_image(path)
    (width, height), (wide, high) = size, image.size
    if abs(wide * height - high * width) > max(*size, *image.size):  # more than the rounding of sides
        raise ValueError(f"{path}: {wide}x{high} is of another shape than its image of {width}x{height}")
    marked = Image.fromarray(np.asarray(np.asarray(image).any(axis=-1)))
    return np.asarray(marked if image.size == size else marked.resize(size, Image.Resampling.NEAREST), dtype=bool)
