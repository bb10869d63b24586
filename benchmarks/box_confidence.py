"""Which signs tell wrong boxes from right ones: the risk-coverage table of docs/confidence.md.

    python benchmarks/confidence.py runs/tscam/checkpoints/last.ckpt … --root ../shared/data/cub10 [--split test] [--every 1]

Each image is seen plain and mirrored; the box is that of the true class's map at the checkpoint's threshold, under
the protocol ``standard``. For every sign: the area under the risk-coverage curve and, after the stroke, the error rate
among the half of the images where the sign is highest; percent, less is better. Last, what the confidence costs: its
share of the processor time of a ``Localizer``, from files to boxes.

``--boxes TABLE.csv`` measures images of none of the classes, in the folder ``images`` beside the table (columns
file, x0, y0, x1, y1, inclusive), for methods whose maps are not of a class: the signs of the class then say nothing.
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
from tokenloc.commands.evaluate import open_dataset
from tokenloc.data import ImageDataset, read_image
from tokenloc.inference import Localizer
from tokenloc.inference.predictor import Predictor
from tokenloc.metrics.risk_coverage import aurc, error_rate, optimal_aurc
from tokenloc.training.config import DataSource

RISKS = {"IoU below 0.5": 0.5, "IoU below 0.7": 0.7, "class wrong, or IoU below 0.5": 0.5}


Image = tuple[Path, Image.Image, NDArray[np.float64], int]
"""Its file, itself, its true boxes and its class."""


def of_dataset(dataset: ImageDataset, every: int) -> Iterator[Image]:
    for index in range(0, len(dataset), every):
        sample = dataset[index]
        yield Path(str(sample.path)), dataset.image(index), sample.boxes, sample.label


def of_table(table: Path, every: int) -> Iterator[Image]:
    with table.open(newline="") as file:
        for row in list(csv.DictReader(file))[::every]:
            path = table.parent / "images" / row["file"]
            x0, y0, x1, y1 = (float(row[side]) for side in ("x0", "y0", "x1", "y1"))
            yield path, read_image(path), np.array([[x0, y0, x1 + 1, y1 + 1]]), 0


@torch.inference_mode()
def seen(localizer: Localizer, image: Image.Image, boxes: NDArray[np.float64], label: int) -> dict[str, float]:
    """What one image's maps show, ``iou`` and whether the class is ``right``."""
    protocol, threshold = localizer.protocol, localizer.threshold
    predictor = Predictor(localizer.model, localizer.metadata.preprocessing, protocol=protocol)
    tensor, frame = predictor.transform(image)
    views = torch.stack([tensor, tensor.flip(-1)])
    logits, _, _, maps = predictor.class_maps(views, torch.full((2, 1), label))
    plain, mirrored = (
        scaled_map(map_, frame.input_size, protocol) for map_ in (maps[0, 0].numpy(), maps[1, 0].flip(-1).numpy())
    )
    scan = scan_boxes(plain, [threshold, *nearby_thresholds(threshold)], protocol)
    other = scan_boxes(mirrored, [threshold], protocol)
    box, other_box = scan.largest()[:1], other.largest()
    probabilities = logits[0].softmax(0)
    score, stability = float(probabilities.max()), float(box_stability(scan, box)[0])
    foreground, other_foreground = plain > threshold, mirrored > threshold
    separation = map_separation(plain, foreground)
    union = (foreground | other_foreground).sum()
    masks = float((foreground & other_foreground).sum() / union) if union else 0.0
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
        "mirrored: boxes agree": float(box_iou(box, other_box)[0, 0]),
        "mirrored: foregrounds agree": masks,
        "mirrored: correlation": float(np.nan_to_num(np.corrcoef(plain.ravel(), mirrored.ravel())[0, 1])),
        "confidence x mirrored foregrounds": score * stability * separation * masks,
        "iou": float(box_iou(frame.to_original(box), boxes).max()),
        "right": float(int(logits[0].argmax()) == label),
    }


def report_cost(localizer: Localizer, paths: list[Path]) -> None:
    """Print the time of localizing some images, and of their confidence alone."""
    results = localizer([*paths])
    boxes = [result.frame.to_input(result.boxes) for result in results]

    def confidence() -> None:
        for result, drawn in zip(results, boxes, strict=True):
            box_confidence(result.score, result.map, drawn, result.threshold, localizer.protocol)

    alone, whole = best_time(confidence, 5) / len(paths), best_time(lambda: localizer([*paths]), 5) / len(paths)
    print(f"confidence takes {alone:.2f} of {whole:.1f} ms an image: {100 * alone / whole:.1f} %\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="*", help="of trained models; without one nothing is measured")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--boxes", type=Path)
    parser.add_argument("--every", type=int, default=1, help="of the images, every so many")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{given.boxes or given.split}, every {given.every}; {setting()}\n")
    for checkpoint in given.checkpoints:
        localizer = Localizer.from_checkpoint(checkpoint, device="cpu")
        localizer.model.eval()
        if given.boxes:
            images = of_table(given.boxes, given.every)
        else:
            source = DataSource(root=given.root) if given.root else DataSource()
            images = of_dataset(open_dataset(localizer.metadata, source, given.split), given.every)
        paths, rows = [], []
        for path, *image in images:
            paths.append(path)
            rows.append(seen(localizer, *image))
        report(f"{checkpoint}, threshold {localizer.threshold:g}, {len(rows)} images", rows)
        report_cost(localizer, paths[:16])


def report(title: str, rows: list[dict[str, float]]) -> None:
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    iou, right = columns.pop("iou"), columns.pop("right")
    errors = {name: (iou < level) | (("class" in name) & (right == 0)) for name, level in RISKS.items()}
    print(f"{title}\n\n| | {' | '.join(RISKS)} |\n|---|---|---|---|")
    print(f"| all | {' | '.join(f'{100 * wrong.mean():.1f}' for wrong in errors.values())} |")
    print(f"| best possible | {' | '.join(f'{100 * optimal_aurc(wrong):.1f}' for wrong in errors.values())} |")
    for name, sign in columns.items():
        cells = [f"{100 * aurc(sign, wrong):.1f} / {100 * error_rate(sign, wrong):.1f}" for wrong in errors.values()]
        print(f"| {name} | {' | '.join(cells)} |")
    print(flush=True)


if __name__ == "__main__":
    main()
