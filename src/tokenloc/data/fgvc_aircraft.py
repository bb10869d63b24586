"""FGVC-Aircraft in the official layout."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from PIL import Image

from tokenloc._names import one_of
from tokenloc.boxes.frame import Size
from tokenloc.data import lists
from tokenloc.data.annotations import half_open
from tokenloc.data.base import AnyPath, Classes, as_boxes, require_unique
from tokenloc.data.images import read_size
from tokenloc.data.listed import ListedDataset
from tokenloc.data.lists import Listing
from tokenloc.data.registry import DATASETS

BANNER = 20
"""Height in pixels of the banner with the photographer's name, at the bottom of every image."""

Level = Literal["variant", "family", "manufacturer"]

_CLASS_FILES = {"variant": "variants.txt", "family": "families.txt", "manufacturer": "manufacturers.txt"}


@DATASETS.register("fgvc_aircraft")
class FgvcAircraftDataset(ListedDataset):
    """FGVC-Aircraft: 3,334 training, 3,333 val and 3,333 test images of aircraft, with a box each.

    Layout: the folder `data` of the archive, with `images/`, images_box.txt, variants.txt and images_variant_SPLIT.txt,
    or the same for families and manufacturers. Boxes count pixels from 1 and include the last, see ``half_open``. The
    banner at the bottom of every image is cut off, as the dataset's authors ask. Most papers train on "trainval".

    Args:
        level: what the classes are: 100 variants ("Boeing 737-700" is "737-700"), 70 families or 30 manufacturers.
        keep_banner: do not cut off the banner.
        missing: "error", or "skip" images that are listed but absent; see ``ListedDataset``.
    """

    name = "fgvc_aircraft"
    splits = ("train", "val", "trainval", "test")
    source = "FGVC-Aircraft (fgvc-aircraft-2013b) from robots.ox.ac.uk/~vgg/data/fgvc-aircraft"
    markers = ("images_box.txt", *_CLASS_FILES.values())
    usual_folders = ("data", "fgvc-aircraft-2013b/data")

    def __init__(
        self,
        root: AnyPath,
        split: str,
        classes: Classes = None,
        *,
        level: str = "variant",
        keep_banner: bool = False,
        missing: str = "error",
    ) -> None:
        one_of("value of option level:", level, Level)
        self._level, self._keep_banner = level, keep_banner
        super().__init__(root, split, classes, missing=missing)

    def image(self, index: int, min_size: Size | None = None) -> Image.Image:
        """Return an image without its banner; see ``ImageDataset.image``."""
        image = super().image(index, min_size)
        path = self.samples[index].path
        if self._keep_banner or path is None:
            return image
        width, height = image.size
        scale = height / read_size(path)[1]  # below 1 if the image was decoded at a smaller size
        return image.crop((0, 0, width, max(1, height - round(BANNER * scale))))

    def _list_images(self, folder: Path, split: str) -> Listing:
        names = (_CLASS_FILES[self._level], f"images_{self._level}_{split}.txt", "images_box.txt")
        classes, images, boxes = (folder / name for name in names)
        lists.require([classes, images, boxes], self.source)
        available = tuple(row[0] for _, row in lists.rows(classes, 1))
        lines = [(f"{row[0]}.jpg", row[1]) for _, row in lists.rows(images, 2)]
        require_unique([name for name, _ in lines], images)
        class_of = dict(lines)
        lists.require_listed(
            sorted(set(class_of.values())), available, f"{images} uses classes that are not in {classes}"
        )
        corners = {
            f"{row[0]}.jpg": as_boxes([half_open([lists.number(cell, location) for cell in row[1:]], counted_from=1)])
            for location, row in lists.rows(boxes, 5)
        }
        lists.require_listed(class_of, corners, f"{boxes} has no line for listed images")
        return Listing(available, class_of, (folder / "images",), corners)
