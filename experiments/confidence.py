"""The regression behind the confidence of boxes, and its evaluation: docs/box_confidence.md.

    python experiments/confidence.py lay-out ../shared/data/tiny_imagenet FOLDER
    python experiments/confidence.py measure CHECKPOINT TABLE.npz [--root …] [--split train] [--every 4]
    python experiments/confidence.py fit TRAIN.npz …
    python experiments/confidence.py report TEST.npz … [--figure reliability.png]

``lay-out`` copies 40 classes of Tiny ImageNet to FOLDER/A and FOLDER/B, half of their images each in train and test.
``measure`` stores the signals of the boxes of the true class at several thresholds, and their IoU with the truth.
``fit`` prints the coefficients of ``tokenloc.boxes.confidence``, fitted to all tables, each with the same weight.
``report`` prints AUROC and AURC of boxes with an IoU below 0.5, in percent, and draws how many boxes are right at each
confidence. Protocol standard.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from evidence import auroc
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from tokenloc.boxes import box_iou, largest_boxes, prepare_map
from tokenloc.boxes.confidence import INTERCEPT, WEIGHTS, box_signals
from tokenloc.commands.datasets import data_of, open_data
from tokenloc.data import evaluation_loader
from tokenloc.inference import Localizer, PredictionOptions
from tokenloc.inference.evidence import box_mask
from tokenloc.metrics.risk_coverage import aurc
from tokenloc.training.config import DataSource

Array = NDArray[np.float64]
Table = dict[str, Array]
"""The signals of ``box_signals`` and ``OTHERS`` by name, [N, T] of N images at T thresholds."""
OTHERS = ("probability", "inside", "iou")
PENALTY = 1.0  # of the squared weights of standardised signals; a table has the weight of IMAGES boxes
IMAGES = 300


def lay_out(source: Path, folder: Path) -> None:
    """Write two datasets of 20 classes with 10 images each and an annotations.json."""
    rows = defaultdict(list)
    for row in csv.DictReader((source / "annotations.csv").open()):
        rows[row["wnid"]].append(row)
    for name, classes in (("A", sorted(rows)[0:200:10]), ("B", sorted(rows)[5:200:10])):
        content: dict[str, list[dict[str, object]]] = {"images": [], "annotations": [], "categories": []}
        for label, wnid in enumerate(classes, start=1):
            content["categories"].append({"id": label, "name": wnid})
            for index, row in enumerate(rows[wnid]):
                file, id_ = f"{('train', 'test')[index % 2]}/{wnid}/{row['file']}", len(content["images"]) + 1
                (folder / name / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source / "images" / row["file"], folder / name / file)
                x0, y0, x1, y1 = (int(row[side]) for side in ("x0", "y0", "x1", "y1"))
                box = {"bbox": [x0, y0, x1 + 1 - x0, y1 + 1 - y0], "id": id_, "image_id": id_, "category_id": label}
                content["images"].append({"id": id_, "file_name": file, "width": 64, "height": 64})
                content["annotations"].append(box)
        (folder / name / "annotations.json").write_text(json.dumps(content))


def measure(given: argparse.Namespace) -> None:
    """Write the table of a checkpoint on one of ``every`` images."""
    chosen = {"map": given.map} if given.map else None
    fast = PredictionOptions(fast=True)
    localizer = Localizer.from_checkpoint(given.checkpoint, device="cpu", options=fast, method_options=chosen)
    predictor, protocol = localizer.predictor, localizer.protocol
    options = {"annotations": str(given.annotations)} if given.annotations else None
    source = DataSource(root=given.root, options=options)
    dataset = open_data(data_of(localizer.metadata, source, given.split, "measured"), localizer.classes)
    dataset = dataset.subset(range(0, len(dataset), given.every))
    rows: list[Table] = []
    for batch in evaluation_loader(dataset, predictor.transform, 16):
        predicted = predictor.class_maps(batch.images, batch.labels[:, None])
        for index, (image, frame) in enumerate(zip(batch.images, batch.frames, strict=True)):
            prepared = prepare_map(predicted.maps[index, 0].numpy(), frame.input_size, protocol)
            boxes = largest_boxes(prepared, given.thresholds, protocol)
            masks = torch.stack([box_mask(box[None], frame.input_size) for box in boxes])
            images, labels = image.expand(len(masks), -1, -1, -1), batch.labels[index].expand(len(masks))
            signals = [
                box_signals(prepared, [box], t, protocol) for t, box in zip(given.thresholds, boxes, strict=True)
            ]
            rows.append({name: np.concatenate([each[name] for each in signals]) for name in signals[0]})
            rows[-1]["iou"] = box_iou(frame.to_original(boxes), dataset[batch.indices[index]].boxes).max(axis=1)
            rows[-1]["inside"] = predictor.recognised(images, masks, labels).numpy().astype(np.float64)
            rows[-1]["probability"] = np.full(len(boxes), float(predicted.scores[index, 0]))
    np.savez(given.table, **{name: np.stack([row[name] for row in rows]) for name in rows[0]})


def read(path: Path) -> Table:
    """Return the values of a table as [N * T], with the largest finite negative value of log_area for empty boxes."""
    with np.load(path) as file:
        return {name: file[name].reshape(-1).clip(min=-20) for name in file.files}


def fit(given: argparse.Namespace) -> None:
    """Print the coefficients."""
    tables = [read(path) for path in given.tables]
    signals = np.concatenate([np.stack([table[name] for name in WEIGHTS], axis=1) for table in tables])
    right = np.concatenate([table["iou"] >= 0.5 for table in tables]).astype(np.float64)
    weight = np.concatenate([np.full(len(table["iou"]), IMAGES / len(table["iou"])) for table in tables])
    mean, spread = signals.mean(axis=0), signals.std(axis=0)
    scaled = (signals - mean) / spread

    def loss(values: Array) -> tuple[float, Array]:
        odds = values[0] + scaled @ values[1:]
        slope = weight * (expit(odds) - right)
        penalty = PENALTY / 2 * (values[1:] ** 2).sum()
        total = (weight * (np.logaddexp(0, odds) - right * odds)).sum() + penalty
        return float(total), np.concatenate([[slope.sum()], scaled.T @ slope + PENALTY * values[1:]])

    found = minimize(loss, np.zeros(len(WEIGHTS) + 1), jac=True, method="L-BFGS-B").x
    weights = found[1:] / spread
    print("INTERCEPT =", round(float(found[0] - weights @ mean), 2))
    print("WEIGHTS =", {name: round(float(value), 2) for name, value in zip(WEIGHTS, weights, strict=True)})


def confidences(table: Table) -> dict[str, Array]:
    """Return the confidence that was in use before, and that in use, without and with evidence."""
    probability, inside = table["probability"], table["inside"]
    right = expit(INTERCEPT + sum(weight * table[name] for name, weight in WEIGHTS.items()))
    product = table["stability"] * table["separation"]
    return {
        "product, until 2026-11": probability * product,
        "product with evidence, until 2026-11": probability * inside * product,
        "confidence": probability * right,
        "confidence with evidence": np.minimum(probability, inside) * right,
    }


def report(given: argparse.Namespace) -> None:
    """Print a line for each table, and for all; draw the reliability diagram."""
    tables = {path.stem: read(path) for path in given.tables}
    tables["all"] = {name: np.concatenate([each[name] for each in tables.values()]) for name in (*WEIGHTS, *OTHERS)}
    print("| | boxes | right | " + " | ".join(names := list(confidences(tables["all"]))) + " | mean |")
    print("|" + "---|" * (len(names) + 4))
    for title, table in tables.items():
        found, wrong = confidences(table), table["iou"] < 0.5
        cells = [f"{auroc(each, wrong):.3f} / {100 * aurc(each, wrong):.1f}" for each in found.values()]
        means = " / ".join(f"{100 * found[name].mean():.0f}" for name in names[2:])
        print(f"| {title} | {len(wrong)} | {100 * (~wrong).mean():.1f} | {' | '.join(cells)} | {means} |")
    if given.figure:
        draw(tables, given.figure)


def draw(tables: dict[str, Table], path: Path) -> None:
    """Draw the fraction of right boxes against the mean confidence with evidence, in six groups for each dataset."""
    figure, axes = plt.subplots(figsize=(5, 5), layout="constrained")
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, label="calibrated")
    groups = defaultdict(list)
    for title, table in tables.items():
        groups[title.split("-")[0]].append(table)
    for title, members in groups.items():
        found = np.concatenate([confidences(table)["confidence with evidence"] for table in members])
        right = np.concatenate([table["iou"] >= 0.5 for table in members])
        bins = np.array_split(np.argsort(found, kind="stable"), 6)
        x, y = ([values[each].mean() for each in bins] for values in (found, right))
        axes.plot(x, y, "o-", label=f"{title} ({len(found)} boxes)")
    axes.set(xlabel="mean confidence", ylabel="fraction of boxes with an IoU of at least 0.5")
    axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("lay-out")
    one.add_argument("source", type=Path)
    one.add_argument("folder", type=Path)
    one.set_defaults(run=lambda given: lay_out(given.source, given.folder))
    one = commands.add_parser("measure")
    one.add_argument("checkpoint", type=Path)
    one.add_argument("table", type=Path)
    one.add_argument("--root", type=Path)
    one.add_argument("--annotations", type=Path)
    one.add_argument("--split", default="train")
    one.add_argument("--every", type=int, default=1)
    one.add_argument("--map")
    one.add_argument("--thresholds", type=float, nargs="+", default=[0.1, 0.2, 0.3, 0.45])
    one.set_defaults(run=measure)
    for name, run in (("fit", fit), ("report", report)):
        one = commands.add_parser(name)
        one.add_argument("tables", type=Path, nargs="+")
        one.set_defaults(run=run)
    one.add_argument("--figure", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.run(given)


if __name__ == "__main__":
    main()
