"""Accuracy with k images of each class: CUB-10 on seeded draws, a table and a plot.

    python experiments/few_shot.py [METHOD …] [--shots 1 3 5 10] [--draws 5] [--out runs/few_shot]

Trains `recipes/cub10/METHOD.yaml` for each k and draw (a draw of fewer images is a subset of a draw of more) and
evaluates the last epoch as docs/results/cub10.md does: the `sat` protocol with 18 thresholds, the best of them for each
IoU. Every run has about 120 steps of at most 32 images. Finished runs are skipped. Writes table.csv and few_shot.png to
OUT.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

CLASSES, BATCH, STEPS = 10, 32, 120
THRESHOLDS = [f"{step / 20:g}" for step in range(1, 19)]
LEVELS = {"GT-known": "0.5", "IoU 0.7": "0.7", "IoU 0.9": "0.9"}


def tokenloc(*words: object) -> None:
    """Run a command of tokenloc; raise CalledProcessError if it fails."""
    subprocess.run([sys.executable, "-m", "tokenloc.cli", *map(str, words)], check=True)


def measured(method: str, shots: int, draw: int, folder: Path) -> dict[str, float]:
    """Return accuracies in percent by column; train first unless the run is finished."""
    found = folder / "measured" / "metrics.json"
    if not found.is_file():
        steps_in_epoch = -(-shots * CLASSES // BATCH)
        plan = ["--data.per_class", shots, "--data.draw", draw, "--optimisation.epochs", STEPS // steps_in_epoch]
        none = ["--data.calibration_split", "null", "--data.test_split", "null"]
        run = ["--seed", draw, "--precision", "bf16-mixed", "--out", folder]
        tokenloc("train", "--config", f"recipes/cub10/{method}.yaml", *plan, *none, *run)
        checkpoint = folder / "checkpoints" / "last.ckpt"
        protocol = ["--protocol", "sat", "--thresholds", *THRESHOLDS]
        tokenloc("evaluate", checkpoint, *protocol, "--batch_size", 16, "--out", found.parent)
    results = json.loads(found.read_text(encoding="utf-8"))
    accuracies = results["oracle"]["box_acc"]
    return {"Top-1 Cls": results["metrics"]["top1_cls"], **{name: accuracies[level] for name, level in LEVELS.items()}}


def draw_plot(rows: Sequence[dict[str, str | float]], path: Path) -> None:
    """Plot GT-known and IoU 0.7 against k, with a point for each draw and a line through the means."""
    methods, shots = sorted({str(row["method"]) for row in rows}), sorted({int(row["k"]) for row in rows})
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, column in zip(figure.subplots(1, 2), ("GT-known", "IoU 0.7"), strict=True):
        for index, method in enumerate(methods):
            own = [row for row in rows if row["method"] == method]
            means = [statistics.mean(float(row[column]) for row in own if row["k"] == k) for k in shots]
            axes.plot([row["k"] for row in own], [row[column] for row in own], ".", color=f"C{index}", alpha=0.5)
            axes.plot(shots, means, color=f"C{index}", label=method)
        axes.set(title=column, xlabel="images of each class", ylabel="% of 123 images", ylim=(0, 101))
        axes.set_xticks(shots)
    figure.axes[0].legend(loc="lower right")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", default=["sat"], metavar="METHOD")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 3, 5, 10])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/few_shot"))
    given = parser.parse_args()
    rows: list[dict[str, str | float]] = []
    for method in given.methods:
        for shots in given.shots:
            columns = [
                measured(method, shots, draw, given.out / f"{method}-{shots}-{draw}") for draw in range(given.draws)
            ]
            rows += [{"method": method, "k": shots, "draw": draw, **one} for draw, one in enumerate(columns)]
            cells = []
            for name in columns[0]:
                values = [one[name] for one in columns]
                cells.append(f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})")
            print(f"| {method} | {shots} | {' | '.join(cells)} |", flush=True)
    with (given.out / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    draw_plot(rows, given.out / "few_shot.png")


if __name__ == "__main__":
    main()
