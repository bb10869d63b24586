"""Several objects in a photograph: docs/results/choosing.md.

    python experiments/objects.py CHECKPOINT [--root ../shared/data/cub10] [--split train] [--every 5] [--pairs]

Prints the recall and precision of boxes at the checkpoint's threshold (IoU 0.5, each true box counts for one box),
and MaxBoxAcc V2 of the best box of each photograph, for components and objects of several smallest areas. --pairs puts
every photograph beside the next one of its class, as a photograph of two objects. Protocol standard, the true class.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.optimize import linear_sum_assignment

from tokenloc import Localizer
from tokenloc.boxes import box_iou
from tokenloc.boxes.extraction import find_components, find_objects
from tokenloc.commands.datasets import data_of, open_data
from tokenloc.data import ImageDataset
from tokenloc.training.config import DataSource

Array = NDArray[np.float64]
SETTINGS: dict[str, float | None] = {
    "largest component": None,
    "all components": None,
    **{f"objects of at least {area:g}": area for area in (0.0, 0.01, 0.02, 0.05)},
}
GRID = np.linspace(0.02, 0.7, 35)


class Example(NamedTuple):
    """A map [h, w] in [0, 1], and true boxes [G, 4] in its pixels."""

    map: NDArray[np.float32]
    truth: Array


def examples(localizer: Localizer, dataset: ImageDataset, pairs: bool) -> Iterator[Example]:
    """Yield the map of each image, or of each pair."""
    for index, sample in enumerate(dataset):
        image, boxes = dataset.image(index), sample.boxes
        if pairs:
            other = (index + 1) % len(dataset)
            if dataset[other].label != sample.label:
                continue
            image, boxes = beside(image, boxes, dataset.image(other), dataset[other].boxes)
        result = localizer(image, label=dataset.classes[sample.label])
        yield Example(result.map, result.frame.to_input(boxes))


def beside(left: Image.Image, own: Array, right: Image.Image, others: Array) -> tuple[Image.Image, Array]:
    """Return two images side by side, the second resized to the height of the first, and the boxes of both."""
    scale = left.height / right.height
    resized = right.resize((round(right.width * scale), left.height))
    both = Image.new("RGB", (left.width + resized.width, left.height))
    both.paste(left)
    both.paste(resized, (left.width, 0))
    return both, np.concatenate([own, others * scale + [left.width, 0, left.width, 0]])


def boxes_of(localizer: Localizer, example: Example, threshold: float, setting: str) -> Array:
    """Return the boxes of a map under one of the ``SETTINGS``."""
    smallest, protocol = SETTINGS[setting], localizer.protocol
    if smallest is None:
        count = 1 if setting == "largest component" else None
        return find_components(example.map, threshold, protocol, count).boxes.astype(np.float64)
    return find_objects(example.map, threshold, protocol, smallest).boxes.astype(np.float64)


def scores(localizer: Localizer, maps: list[Example], setting: str) -> tuple[float, float, float, float]:
    """Return recall, precision, boxes for each photograph and MaxBoxAcc V2, in percent but for the third."""
    hits = found = total = 0
    for each in maps:
        boxes = boxes_of(localizer, each, localizer.threshold, setting)
        right = box_iou(boxes, each.truth) >= 0.5
        rows, columns = linear_sum_assignment(right, maximize=True)
        hits += int(right[rows, columns].sum())
        found, total = found + len(boxes), total + len(each.truth)
    best = np.array(
        [[box_iou(boxes_of(localizer, each, t, setting), each.truth).max(initial=0) for t in GRID] for each in maps]
    )
    v2 = np.mean([(best >= level).mean(axis=0).max() for level in (0.3, 0.5, 0.7)])
    return 100 * hits / total, 100 * hits / max(found, 1), found / len(maps), 100 * float(v2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--annotations")
    parser.add_argument("--split", default="train")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--pairs", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    localizer = Localizer.from_checkpoint(given.checkpoint, device="cpu")
    options = {"annotations": given.annotations} if given.annotations else None
    source = DataSource(root=given.root, options=options)
    dataset = open_data(data_of(localizer.metadata, source, given.split, "measured"), localizer.classes)
    maps = list(examples(localizer, dataset.subset(range(0, len(dataset), given.every)), given.pairs))
    print(f"{sum(len(each.truth) for each in maps)} true boxes on {len(maps)} photographs\n")
    print("| | recall | precision | boxes per photograph | MaxBoxAcc V2 |\n|---|---|---|---|---|")
    for name in SETTINGS:
        recall, precision, count, v2 = scores(localizer, maps, name)
        print(f"| {name} | {recall:.1f} | {precision:.1f} | {count:.1f} | {v2:.1f} |")


if __name__ == "__main__":
    main()
