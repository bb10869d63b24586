"""Cost of sharper maps: options of prediction and the student, relative to one plain pass; and their accuracy.

    python benchmarks/sharper.py [NAME=FOLDER …] [--backbone vit_tiny_patch16_224] [--out sharper.png] [--device cuda]

Times of images at 224 pixels, with random weights, without decoding and boxes, on one thread of the CPU processor time.
Each NAME=FOLDER adds an evaluation, whose metrics.json states model, options and accuracies; several of one NAME, such
as seeds, are averaged. They are drawn: images per second against the accuracy of boxes at IoU 0.9.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import torch
from _timing import best_time, setting

from tokenloc.data import Preprocessing
from tokenloc.inference import PredictionOptions, Predictor, TestTimeAugmentation
from tokenloc.models import create_model

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OPTIONS = ("plain", "shifts 2", "scales 448", "scales 448, shifts 2", "scales 320 384 448, flip")
LEVELS = ("0.5", "0.7", "0.8", "0.9")
BATCH = 4


def options_of(described: str) -> PredictionOptions:
    """Return the options with this description, the "viewing" of metrics.json; refinement is not supported."""
    words = described.split(", ")
    if unknown := [word for word in words if not re.fullmatch(r"plain|scales [\d ]+|shifts \d+|flip|fast", word)]:
        raise ValueError(f"unsupported options: {', '.join(unknown)}")
    numbers = {word.split()[0]: [int(each) for each in word.split()[1:]] for word in words}
    scales, (shifts,) = tuple(numbers.get("scales", ())), numbers.get("shifts", [1])
    return PredictionOptions(TestTimeAugmentation(scales, "flip" in words, shifts=shifts), fast="fast" in words)


def prediction(model: dict[str, Any], described: str, device: str) -> Callable[[], object]:
    """Return the prediction of a batch, in float32; ``model`` are arguments of ``create_model``."""
    arguments = {"pretrained": False, **model, **model.get("options", {})}
    arguments.pop("options", None)
    network = create_model(**arguments).eval().to(device)
    options = replace(options_of(described), fast=False)
    side = max(options.augmentation.scales or (224,))
    predictor, images = Predictor(network, Preprocessing(), options), torch.randn(BATCH, 3, side, side, device=device)
    return lambda: predictor.class_maps(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluations", nargs="*", metavar="NAME=FOLDER")
    parser.add_argument("--backbone", default="vit_tiny_patch16_224")
    parser.add_argument("--out", type=Path, default=Path("sharper.png"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs: dict[str, list[dict[str, Any]]] = {}
    for argument in arguments.evaluations:
        name, _, folder = argument.rpartition("=")
        runs.setdefault(name, []).append(json.loads((Path(folder) / "metrics.json").read_text()))
    common = {"backbone": arguments.backbone, "num_classes": 10}
    rows = [(f"SAT, {each}", {"method": "sat", **common}, each) for each in OPTIONS]
    rows += [("student, plain", {"method": "student", **common}, "plain")]
    rows = [(name, each[0]["model"], each[0]["viewing"]) for name, each in runs.items()] or rows
    print(f"{setting(arguments.device)}\n")
    headings = ["", "runs", "cost", "images/s", *(LEVELS if runs else ())]
    print(f"| {' | '.join(headings)} |\n{'|---' * len(headings)}|")
    plain = prediction({"method": "sat", **common}, "plain", arguments.device)
    calls = [plain, *(prediction(model, described, arguments.device) for _, model, described in rows)]
    rounds = [[best_time(call, 1, arguments.device) / BATCH for call in calls] for _ in range(arguments.repeats)]
    base, *times = map(min, zip(*rounds, strict=True))  # in turns, so that all meet the same load
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for (name, _, _), time in zip(rows, times, strict=True):
        found = [[run["metrics"]["box_acc"][level] for level in LEVELS] for run in runs.get(name, [])]
        accuracies = [sum(level) / len(level) for level in zip(*found, strict=True)]
        columns = (str(len(found)), f"{time / base:.2f}", f"{1e3 / time:.1f}", *(f"{each:.1f}" for each in accuracies))
        print(f"| {name} | {' | '.join(columns)} |", flush=True)
        if accuracies:
            axes.plot(1e3 / time, accuracies[-1], "o")
            axes.annotate(name, (1e3 / time, accuracies[-1]), xytext=(4, 4), textcoords="offset points", fontsize=8)
    if runs:
        axes.set(xscale="log", xlabel="images per second", ylabel="boxes with IoU above 0.9, percent")
        axes.grid(alpha=0.3)
        figure.savefig(arguments.out, dpi=120)


if __name__ == "__main__":
    main()
