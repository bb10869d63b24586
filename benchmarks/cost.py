"""Time and memory of training steps and inference by resolution and batch size, compared with a plain step.

    python benchmarks/cost.py [--methods sat tscam] [--backbone vit_tiny_patch16_224] [--out runs/cost] [--device cuda]

Sides 224 to 672 with --batch images, and batches of 1 to 32 at 224: images per second and peak memory above the idle
process, in float32 and under bfloat16 autocast; for training also the plain steps of train_step.py, which store every
attention matrix. Each measurement runs in its own process on one thread and is the minimum of --steps processor times.
On a GPU it is the minimum of wall-clock times, in this process, and the peak is that of all of PyTorch's tensors.
Writes OUT/cost.csv and OUT/cost.png, and prints a table.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import torch
from _timing import best_time, isolated, peak_memory, setting
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


def measure(asked: Row, backbone: str, steps: int, device: str) -> tuple[float, float]:
    """Return images per second, and peak memory in GiB, of one setting."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    side, kind, training = asked["side"], asked["kind"], asked["what"] == "train"
    model = create_model(asked["method"], backbone, 10, pretrained=False, image_size=side).train(training)
    images = torch.randn(asked["batch"], 3, side, side)
    labels = torch.randint(10, (asked["batch"],))
    idle = peak_memory(device)
    model, images, labels = model.to(device), images.to(device), labels.to(device)
    optimiser = make_optimiser(model, Optimisation())
    call = (
        partial(step, model, model.__call__, images, labels, optimiser) if training else lambda: model.localize(images)
    )
    autocast = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=kind == "bf16")
    with (
        plain_implementation() if kind == "plain" else autocast,
        contextlib.nullcontext() if training else torch.inference_mode(),
    ):
        milliseconds = best_time(call, steps, device)
    return 1e3 * asked["batch"] / milliseconds, peak_memory(device) - idle


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
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    print(f"{arguments.backbone}, 10 classes; {setting(arguments.device)}")
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    rows = []
    for asked in wanted(arguments):
        found = isolated(measure, arguments.device, asked, arguments.backbone, arguments.steps, arguments.device)
        rows.append({**asked, **dict(zip(COLUMNS[-2:], found or (None, None), strict=True))})
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
