"""Choosing the map threshold without boxes: docs/results/own_photographs.md.

    python experiments/evidence.py CHECKPOINT … [--root ../shared/data/cub10] [--split train] [--every 7]

Prints, for each criterion and checkpoint, the GT-known that is lost against the best of THRESHOLDS, and the threshold
that the criterion chooses. The true boxes serve this comparison only. Protocol standard.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from tokenloc.boxes import box_iou, largest_boxes, prepare_map
from tokenloc.commands.datasets import data_of, open_data
from tokenloc.data import evaluation_loader
from tokenloc.inference import Localizer, PredictionOptions
from tokenloc.inference.evidence import box_mask
from tokenloc.training.config import DataSource

Array = NDArray[np.float64]
THRESHOLDS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)


class Measured(NamedTuple):
    """Of N images at T thresholds, the last one that of the checkpoint."""

    iou: Array  # [N, T]
    area: Array  # [N, T], of the box, as a fraction of the image
    inside: Array  # [N, T], the probability of the true class with all but the box blurred
    outside: Array  # [N, T], with the box blurred


def measure(checkpoint: Path, root: Path | None, split: str, every: int) -> Measured:
    """Return what the criteria need for one of ``every`` images."""
    localizer = Localizer.from_checkpoint(checkpoint, device="cpu", options=PredictionOptions(fast=True))
    predictor, protocol = localizer.predictor, localizer.protocol
    thresholds = [*THRESHOLDS, localizer.threshold]
    dataset = open_data(data_of(localizer.metadata, DataSource(root=root), split, "measured"), localizer.classes)
    dataset = dataset.subset(range(0, len(dataset), every))
    rows: list[Measured] = []
    for batch in evaluation_loader(dataset, predictor.transform, 16):
        predicted = predictor.class_maps(batch.images, batch.labels[:, None])
        for index, (image, frame) in enumerate(zip(batch.images, batch.frames, strict=True)):
            label = batch.labels[index]
            prepared = prepare_map(predicted.maps[index, 0].numpy(), frame.input_size, protocol)
            boxes = largest_boxes(prepared, thresholds, protocol)
            masks = torch.stack([box_mask(box[None], frame.input_size) for box in boxes])
            images, labels = image.expand(len(masks), -1, -1, -1), label.expand(len(masks))
            inside, outside = (predictor.recognised(images, shown, labels).numpy() for shown in (masks, ~masks))
            iou = box_iou(frame.to_original(boxes), dataset[batch.indices[index]].boxes).max(axis=1)
            area = masks.float().mean(dim=(1, 2, 3)).numpy()
            values = (iou, area, inside, outside)
            rows.append(Measured(*(np.asarray(each, dtype=np.float64) for each in values)))
    return Measured(*map(np.stack, zip(*rows, strict=True)))


def criteria(evidence: Array, area: Array) -> dict[str, Array]:
    """Return criteria by name, [T]: of E = p(inside) - p(outside) and the area a, both means over the images."""
    return {
        "E / a": evidence / area,
        "E": evidence,
        "E² / a": np.clip(evidence, 0, None) ** 2 / area,
        "E / √a": evidence / np.sqrt(area),
        "E (1 - a)": evidence * (1 - area),
        "E - a": evidence - area,
    }


def print_thresholds(measured: dict[str, Measured]) -> None:
    """Print the GT-known of the best threshold, and what each criterion loses."""
    print("| | " + " | ".join(measured) + " |\n|" + "---|" * (len(measured) + 1))
    known = {name: 100 * (each.iou[:, :-1] >= 0.5).mean(axis=0) for name, each in measured.items()}
    best = (f"{values.max():.1f} at {THRESHOLDS[values.argmax()]:g}" for values in known.values())
    print("| best GT-known | " + " | ".join(best) + " |")
    lost: dict[str, list[str]] = {}
    for name, each in measured.items():
        evidence, area = (each.inside - each.outside)[:, :-1].mean(axis=0), each.area[:, :-1].mean(axis=0)
        for criterion, values in criteria(evidence, area).items():
            chosen = int(np.argmax(values))
            cell = f"{known[name][chosen] - known[name].max():.1f} at {THRESHOLDS[chosen]:g}"
            lost.setdefault(criterion, []).append(cell)
    for criterion, cells in lost.items():
        print(f"| {criterion} | " + " | ".join(cells) + " |")


def auroc(confidence: Array, wrong: NDArray[np.bool_]) -> float:
    """Return the probability that a right box has a higher confidence than a wrong one; NaN without one of them."""
    right, mistaken = confidence[~wrong, None], confidence[None, wrong]
    return float(((right > mistaken) + 0.5 * (right == mistaken)).mean()) if right.size and mistaken.size else np.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--every", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    measured = {str(path): measure(path, given.root, given.split, given.every) for path in given.checkpoints}
    print_thresholds(measured)


if __name__ == "__main__":
    main()
