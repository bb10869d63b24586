"""Time and memory of training steps and inference by resolution and batch size, compared with a plain step.

    python benchmarks/cost.py [--methods sat tscam] [--backbone vit_tiny_patch16_224] [--out runs/cost]

Sides 224 to 672 with --batch images, and batches of 1 to 32 at 224: images per second and peak memory above the idle
process, in float32 and under bfloat16 autocast; for training also the plain steps of train_step.py, which store every
attention matrix. Each measurement runs in its own process on one thread and is the minimum of --steps processor times.
Writes OUT/cost.csv and OUT/cost.png, and prints a table.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import multiprocessing
import resource
import time
from pathlib import Path
from typing import Any

import matplotlib
import torch
from _timing import setting
from train_step import plain_implementation, step

from tokenloc.models import create_model
from tokenloc.training.config import Optimisation
from tokenloc.training.optimisation import make_optimiser

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator

KINDS = {"train": ("plain", "float32", "bf16"), "infer": ("float32", "bf16")}
COLUMNS = ("method", "what", "kind", "side", "batch", "images_per_s", "gib")
PLAIN_AT_MOST = 24e6
"""Images times squared tokens; above it the plain step's matrices take over 14 GiB with ViT-Ti, and it is skipped."""

Row = dict[str, Any]


def measure(asked: Row, backbone: str, steps: int, results: multiprocessing.Queue[tuple[float, float]]) -> None:
    """Put images per second, and GiB above the idle process, of one setting into ``results``."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    side, kind = asked["side"], asked["kind"]
    model = create_model(asked["method"], backbone, 10, pretrained=False, image_size=side)
    images = torch.randn(asked["batch"], 3, side, side)
    labels = torch.randint(10, (asked["batch"],))
    if asked["what"] == "train":
        optimiser = make_optimiser(model.train(), Optimisation())
    else:
        model.eval()
    idle, times = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    way = plain_implementation() if kind == "plain" else torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16")
    with way, contextlib.nullcontext() if asked["what"] == "train" else torch.inference_mode():
        for _ in range(steps + 1):
            start = time.process_time()
            if asked["what"] == "train":
                step(model, model.__call__, images, labels, optimiser)
            else:
                model.localize(images)
            times.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results.put((asked["batch"] / min(times[1:]), (peak - idle) / 1024**2))


def alone(asked: Row, backbone: str, steps: int) -> Row:
    """Run ``measure`` in a separate process; the numbers are None if it dies."""
    context = multiprocessing.get_context("forkserver")  # imports everything only once
    results: multiprocessing.Queue[tuple[float, float]] = context.Queue()
    process = context.Process(target=measure, args=(asked, backbone, steps, results))
    process.start()
    while process.is_alive() and results.empty():
        process.join(0.1)
    speed, memory = (None, None) if results.empty() else results.get()
    process.join()
    return {**asked, "images_per_s": speed, "gib": memory}


def wanted(arguments: argparse.Namespace) -> list[Row]:
    """Return the settings to measure, without repetitions."""
    shapes = [(side, arguments.batch) for side in arguments.sides] + [(224, batch) for batch in arguments.batches]
    rows = [
        {"method": method, "what": what, "kind": kind, "side": side, "batch": batch}
        for side, batch in dict.fromkeys(shapes)
        for method in arguments.methods
        for what, kinds in KINDS.items()
        for kind in kinds
    ]
    return [row for row in rows if row["kind"] != "plain" or row["batch"] * (row["side"] / 16) ** 4 <= PLAIN_AT_MOST]


def draw(rows: list[Row], batch: int, path: Path) -> None:
    """Draw images per second (top) and memory (bottom) against resolution (left) and batch size (right)."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 8), sharex="col", sharey="row", layout="constrained")
    values = {"images_per_s": "images per second", "gib": "memory, GiB"}
    panels = {
        "side": (("batch", batch), f"side in pixels, batch {batch}"),
        "batch": (("side", 224), "batch size at 224 pixels"),
    }
    for column, (axis, ((fixed, at), label)) in enumerate(panels.items()):
        for names, line in grouped([row for row in rows if row[fixed] == at]).items():
            line = sorted(line, key=lambda row: row[axis])
            for ax, value in zip(axes[:, column], values, strict=True):
                ax.plot([row[axis] for row in line], [row[value] for row in line], **style(*names))
        ticks = sorted({row[axis] for row in rows if row[fixed] == at})
        axes[1, column].set(xlabel=label, xscale="log", xticks=ticks, xticklabels=ticks)
        axes[1, column].minorticks_off()
    for ax, name in zip(axes[:, 0], values.values(), strict=True):
        ax.set(ylabel=name, yscale="log")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        ax.yaxis.set_minor_formatter("{x:g}")
    axes[0, 1].legend(fontsize=7, ncols=2)
    figure.savefig(path, dpi=120)


def style(method: str, what: str, kind: str) -> Row:
    """Return a line's style: colour by kind, marker by method, dashed for inference."""
    colours = {"plain": "tab:gray", "float32": "tab:blue", "bf16": "tab:orange"}
    marker = {"sat": "o", "tscam": "^"}.get(method, "s")
    line = {"color": colours[kind], "marker": marker, "linestyle": "-" if what == "train" else "--"}
    return {"label": f"{method}, {what}, {kind}", "markersize": 4, **line}


def grouped(rows: list[Row]) -> dict[tuple[str, str, str], list[Row]]:
    lines: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row["images_per_s"] is not None:
            lines.setdefault((row["method"], row["what"], row["kind"]), []).append(row)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["sat", "tscam"])
    parser.add_argument("--backbone", default="vit_tiny_patch16_224")
    parser.add_argument("--sides", nargs="+", type=int, default=[224, 320, 448, 560, 672])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/cost"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    print(f"{arguments.backbone}, 10 classes; {setting()}")
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    rows = []
    for asked in wanted(arguments):
        rows.append(alone(asked, arguments.backbone, arguments.steps))
        print(
            "| " + " | ".join(f"{v:.2f}" if isinstance(v, float) else str(v) for v in rows[-1].values()) + " |",
            flush=True,
        )
    with (arguments.out / "cost.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(rows)
    draw(rows, arguments.batch, arguments.out / "cost.png")
    print(f"wrote {arguments.out / 'cost.csv'} and {arguments.out / 'cost.png'}")


if __name__ == "__main__":
    main()
