"""Photographs without an object: docs/results/choosing.md.

    python experiments/object_free.py crop DIR --root ../shared/data/ilsvrc10 [--name cub] [--by CHECKPOINT] [--every 4]
    python experiments/object_free.py measure DIR CHECKPOINT …

`crop` writes training images to DIR/train/CLASS, the largest rectangle of each outside its boxes to
DIR/train/_background, the test images to DIR/photographs and their rectangles to DIR/crops. The boxes are the true
ones, and serve this only; --by takes those of a checkpoint, enlarged by a quarter, where training images have none;
of these, crops are made of one of --every.
`measure` prints the AUROC of the confidence, a photograph against a crop, and the crops that get a box at the smallest
confidence that leaves 95 % of the photographs theirs.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenloc import Localization, Localizer, PredictionOptions
from tokenloc.data import ImageDataset, create_dataset

SMALLEST = 0.25  # of the shorter side of the image: the shorter side of a rectangle
ENLARGED = 0.25  # of the sides of a predicted box

Box = tuple[int, int, int, int]


def largest_rectangle(boxes: NDArray[np.float64], size: tuple[int, int]) -> Box | None:
    """Return the largest rectangle xyxy of an image (width, height) that touches none of ``boxes`` [N, 4]."""
    corners = np.hstack([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])]).astype(int)
    columns, rows = (
        sorted({0, side, *np.clip(corners[:, axis::2], 0, side).ravel().tolist()}) for axis, side in enumerate(size)
    )
    best, area = None, 0
    for x0, x1 in combinations(columns, 2):
        for y0, y1 in combinations(rows, 2):
            free = (corners[:, 0] >= x1) | (corners[:, 2] <= x0) | (corners[:, 1] >= y1) | (corners[:, 3] <= y0)
            if min(x1 - x0, y1 - y0) >= SMALLEST * min(size) and (x1 - x0) * (y1 - y0) > area and free.all():
                best, area = (x0, y0, x1, y1), (x1 - x0) * (y1 - y0)
    return best


def boxes_of(dataset: ImageDataset, localizer: Localizer | None) -> Iterator[NDArray[np.float64]]:
    """Yield the true boxes of each image, or those of all components of a localizer, enlarged."""
    for index, sample in enumerate(dataset):
        if localizer is None:
            yield sample.boxes
        else:
            found = localizer(dataset.image(index), label=dataset.classes[sample.label], objects="all").boxes
            margin = ENLARGED / 2 * (found[:, 2:] - found[:, :2])
            yield found + np.hstack([-margin, margin])


def write_crops(dataset: ImageDataset, localizer: Localizer | None, folder: Path) -> int:
    """Write the largest rectangle of each image, if it is large enough, to ``folder``; return their number."""
    folder.mkdir(parents=True)
    for index, boxes in enumerate(boxes_of(dataset, localizer)):
        image = dataset.image(index)
        if rectangle := largest_rectangle(boxes, image.size):
            image.crop(rectangle).save(folder / f"{Path(dataset[index].id).stem}.png")
    return len(list(folder.iterdir()))


def crop(given: argparse.Namespace) -> None:
    """Write the folders of `crop`."""
    options = {"annotations": given.root / "annotations.json"} if given.name == "folder" else {}
    train, test = (
        create_dataset(given.name, given.root, split, given.classes, **options) for split in ("train", "test")
    )
    localizer = None if given.by is None else Localizer.from_checkpoint(given.by)
    for dataset, folder in ((train, given.folder / "train"), (test, given.folder / "photographs")):
        for sample in dataset:
            target = folder / dataset.classes[sample.label] if dataset is train else folder
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(sample.path or "", target)
    train = train.subset(range(0, len(train), given.every))
    print(write_crops(train, localizer, given.folder / "train/_background"), "training crops")
    print(write_crops(test, None, given.folder / "crops"), "test crops")


def certainty(result: Localization) -> float:
    """Return the confidence of the first box; 0 without a box."""
    return float(result.confidence[0]) if len(result.boxes) else 0.0


def measure(given: argparse.Namespace) -> None:
    """Print a line for each checkpoint, without and with evidence."""
    print("| | AUROC | AUROC with evidence | crops with a box at 95 % recall | with evidence |\n|---|---|---|---|---|")
    for checkpoint in given.checkpoints:
        cells: list[list[str]] = []
        for evidence in (False, True):
            localizer = Localizer.from_checkpoint(checkpoint, options=PredictionOptions(fast=True, evidence=evidence))
            photographs, crops = (
                np.array([certainty(each) for each in localizer(sorted((given.folder / name).iterdir()))])
                for name in ("photographs", "crops")
            )
            higher, equal = photographs[:, None] > crops, photographs[:, None] == crops
            least = np.quantile(photographs, 0.05, method="lower")
            boxes = (crops >= max(least, 1e-9)).mean()
            recall = (photographs >= max(least, 1e-9)).mean()
            cells.append([f"{(higher + 0.5 * equal).mean():.3f}", f"{100 * boxes:.1f} % (recall {100 * recall:.1f} %)"])
        print(f"| {checkpoint} | " + " | ".join(cell for pair in zip(*cells, strict=True) for cell in pair) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    cropping, measuring = (commands.add_parser(each.__name__) for each in (crop, measure))
    for each, act in ((cropping, crop), (measuring, measure)):
        each.add_argument("folder", type=Path)
        each.set_defaults(act=act)
    cropping.add_argument("--root", type=Path, required=True)
    cropping.add_argument("--name", default="folder")
    cropping.add_argument("--classes", nargs="+")
    cropping.add_argument("--by", type=Path)
    cropping.add_argument("--every", type=int, default=1)
    measuring.add_argument("checkpoints", type=Path, nargs="+")
    given = parser.parse_args()
    given.act(given)


if __name__ == "__main__":
    main()
