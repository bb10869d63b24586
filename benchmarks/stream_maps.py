"""Memory and time of evaluating many stored maps: memory does not grow with their number.

    python benchmarks/stream_maps.py [--maps 50000] [--workers 2] [--protocol wsol-eval]

Writes generated maps of 14x14 cells as `tokenloc evaluate --save-maps` does, evaluates them as `tokenloc evaluate
--maps` does, and prints the peak memory of this process after each tenth and at the end.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _timing import setting

from tokenloc.boxes import Frame, get_protocol
from tokenloc.data.base import ImageDataset, Sample
from tokenloc.inference.stored_maps import BATCH, evaluate_maps
from tokenloc.metrics import Scorer
from tokenloc.metrics.stored_maps import open_maps, writing_maps

FRAME = Frame.resized((500, 375), (224, 224))


def make_dataset(count: int) -> ImageDataset:
    corners = np.random.default_rng(0).uniform([0, 0, 250, 190], [200, 150, 500, 375], (count, 4))
    samples = [Sample(f"{index:06d}.jpg", None, index % 1000, corners[[index]]) for index in range(count)]
    return ImageDataset("test", [str(label) for label in range(1000)], samples)


def write_maps(folder: Path, dataset: ImageDataset) -> None:
    generator = np.random.default_rng(1)
    y, x = np.mgrid[:14, :14]
    with writing_maps(folder, {"input_frame": "resize"}) as writer:
        for sample in dataset:
            row, column = generator.uniform(4, 10, 2)
            cells = np.exp(-((y - row) ** 2 + (x - column) ** 2) / 18) + 0.15 * generator.random((14, 14))
            writer.add(sample.id, cells, generator.permutation(1000)[:5], FRAME)


def peak_memory() -> float:
    """Return the peak memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def report_progress(batches: Iterable[Any], label: str, total: int) -> Iterator[Any]:
    print(f"| maps, {label} | peak memory (MiB) | seconds |\n|---|---|---|")
    start = time.perf_counter()
    for count, batch in enumerate(batches, start=1):
        yield batch
        if count % max(1, total // 10) == 0:
            print(f"| {BATCH * count} | {peak_memory():.0f} | {time.perf_counter() - start:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=50000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--protocol", default="wsol-eval")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dataset, scorer = make_dataset(arguments.maps), Scorer(get_protocol(arguments.protocol))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_maps(folder / "maps", dataset)
        size = sum(path.stat().st_size for path in (folder / "maps").iterdir()) / 2**20
        how = f"{arguments.protocol}, {arguments.workers} processes; {setting()}"
        print(f"{arguments.maps} maps, {size:.0f} MiB on disk; {how}\n")
        start = time.perf_counter()
        options: dict[str, Any] = {"workers": arguments.workers, "progress": report_progress}
        result, _ = evaluate_maps(open_maps(folder / "maps"), dataset, scorer, boxes=folder / "boxes.npz", **options)
        print(f"\nin all {time.perf_counter() - start:.0f} s, peak memory {peak_memory():.0f} MiB")
    print(f"GT-known {result.evaluation.gt_known:.2f} of {result.evaluation.images} images")


if __name__ == "__main__":
    main()
