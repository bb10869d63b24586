"""Signals that separate wrong boxes from right ones: the risk-coverage tables of docs/box_confidence.md.

    python benchmarks/box_confidence.py runs/tscam/checkpoints/last.ckpt … --root ../shared/data/cub10 [--split test]
        [--every 1] [--device cuda]

The box is that of the true class's map at the checkpoint's threshold, under the protocol ``standard``; the mirrored
image gives further signals. For every signal: the area under the risk-coverage curve / the error rate of the half of
the images with the highest values; percent, lower is better. The last line is the cost of the confidence: its fraction
of the processor time of a ``Localizer``, from file to boxes.

``--boxes TABLE.csv`` evaluates images outside the classes, in the folder ``images`` beside the table (columns file, x0,
y0, x1, y1, inclusive), for methods with class-agnostic maps: the signals of the class are then meaningless.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from _timing import best_time, setting
from numpy.typing import NDArray
from PIL import Image

from tokenloc.boxes import box_confidence, box_iou, scaled_map, scan_boxes
from tokenloc.boxes.confidence import box_stability, map_separation, nearby_thresholds
from tokenloc.commands.datasets import data_of, open_data
from tokenloc.data import ImageDataset, read_image
from tokenloc.inference import Localizer, Predictor
from tokenloc.metrics.risk_coverage import aurc, error_rate, optimal_aurc
from tokenloc.training.config import DataSource

RISKS = {"IoU below 0.5": 0.5, "IoU below 0.7": 0.7, "class wrong, or IoU below 0.5": 0.5}

Labelled = tuple[Path, Image.Image, NDArray[np.float64], int]
"""File, image, true boxes and class."""


def from_dataset(dataset: ImageDataset, every: int) -> Iterator[Labelled]:
    for index in range(0, len(dataset), every):
        sample = dataset[index]
        yield Path(str(sample.path)), dataset.image(index), sample.boxes, sample.label


def from_table(table: Path, every: int) -> Iterator[Labelled]:
    with table.open(newline="") as file:
        for row in list(csv.DictReader(file))[::every]:
            path = table.parent / "images" / row["file"]
            x0, y0, x1, y1 = (float(row[side]) for side in ("x0", "y0", "x1", "y1"))
            yield path, read_image(path), np.array([[x0, y0, x1 + 1, y1 + 1]]), 0


def signals(localizer: Localizer, image: Image.Image, boxes: NDArray[np.float64], label: int) -> dict[str, float]:
    """Return the signals of one image, the ``iou``, and whether the class is ``right``."""
    protocol, threshold = localizer.protocol, localizer.threshold
    predictor = Predictor(localizer.model, localizer.metadata.preprocessing, protocol=protocol)
    tensor, frame = predictor.transform(image)
    predicted = predictor.class_maps(torch.stack([tensor, tensor.flip(-1)]), torch.full((2, 1), label))
    logits, maps = predicted.logits.cpu(), predicted.maps.cpu()
    plain, mirrored = (
        scaled_map(map_, frame.input_size, protocol) for map_ in (maps[0, 0].numpy(), maps[1, 0].flip(-1).numpy())
    )
    scan = scan_boxes(plain, [threshold, *nearby_thresholds(threshold)], protocol)
    box, mirrored_box = scan.largest()[:1], scan_boxes(mirrored, [threshold], protocol).largest()
    probabilities = logits[0].softmax(0)
    score, stability = float(probabilities.max()), float(box_stability(scan, box)[0])
    foreground, mirrored_foreground = plain > threshold, mirrored > threshold
    separation = map_separation(plain, foreground)
    union = (foreground | mirrored_foreground).sum()
    agreement = float((foreground & mirrored_foreground).sum() / union) if union else 0.0
    best, second = probabilities.topk(min(2, len(probabilities))).values.tolist()[:2]
    return {
        "class score": score,
        "class margin": best - second,
        "stability": stability,
        "separation": separation,
        "stability x separation": stability * separation,
        "class score x stability": score * stability,
        "class score x separation": score * separation,
        "**confidence**": score * stability * separation,
        "mirrored: boxes agree": float(box_iou(box, mirrored_box)[0, 0]),
        "mirrored: foregrounds agree": agreement,
        "mirrored: correlation": float(np.nan_to_num(np.corrcoef(plain.ravel(), mirrored.ravel())[0, 1])),
        "confidence x mirrored foregrounds": score * stability * separation * agreement,
        "iou": float(box_iou(frame.to_original(box), boxes).max()),
        "right": float(int(logits[0].argmax()) == label),
    }


def print_cost(localizer: Localizer, paths: list[Path]) -> None:
    """Print the time of localizing some images, and of their confidence alone."""
    results = localizer([*paths])
    boxes = [result.frame.to_input(result.boxes) for result in results]

    def confidence() -> None:
        for result, drawn in zip(results, boxes, strict=True):
            box_confidence(result.score, result.map, drawn, result.threshold, localizer.protocol)

    alone = best_time(confidence, 5) / len(paths)
    total = best_time(lambda: localizer([*paths]), 5, str(localizer.predictor.device)) / len(paths)
    print(f"confidence takes {alone:.2f} of {total:.1f} ms per image: {100 * alone / total:.1f} %\n", flush=True)


def print_table(title: str, rows: list[dict[str, float]]) -> None:
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    iou, right = columns.pop("iou"), columns.pop("right")
    errors = {name: (iou < level) | (("class" in name) & (right == 0)) for name, level in RISKS.items()}
    print(f"{title}\n\n| | {' | '.join(RISKS)} |\n|---|---|---|---|")
    print(f"| all | {' | '.join(f'{100 * wrong.mean():.1f}' for wrong in errors.values())} |")
    print(f"| best possible | {' | '.join(f'{100 * optimal_aurc(wrong):.1f}' for wrong in errors.values())} |")
    for name, signal in columns.items():
        cells = [
            f"{100 * aurc(signal, wrong):.1f} / {100 * error_rate(signal, wrong):.1f}" for wrong in errors.values()
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="*", help="of trained models")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--boxes", type=Path)
    parser.add_argument("--every", type=int, default=1, help="evaluate one of every so many images")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{arguments.boxes or arguments.split}, every {arguments.every}; {setting(arguments.device)}\n")
    for checkpoint in arguments.checkpoints:
        localizer = Localizer.from_checkpoint(checkpoint, device=arguments.device)
        if arguments.boxes:
            images = from_table(arguments.boxes, arguments.every)
        else:
            source = DataSource(root=arguments.root) if arguments.root else DataSource()
            data = data_of(localizer.metadata, source, arguments.split, "measured")
            images = from_dataset(open_data(data, localizer.metadata.classes), arguments.every)
        paths, rows = [], []
        for path, *labelled in images:
            paths.append(path)
            rows.append(signals(localizer, *labelled))
        print_table(f"{checkpoint}, threshold {localizer.threshold:g}, {len(rows)} images", rows)
        print_cost(localizer, paths[:16])


if __name__ == "__main__":
    main()
