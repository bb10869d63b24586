"""Images a second from file to written annotation: `tokenloc localize` against a plain loop over the model.

    python benchmarks/localize.py [--images 64] [--size 1600 1200] [--methods tscam sat] [--threads 2] [--drawings]

All read the same made JPEGs, load the same checkpoint of random weights, and write the box of each image. They take
turns, the best of each counts, on the clock, since threads are what is measured; the ratio is of the same run. "Cold"
is the command in a process of its own, with Python's start and the import of torch.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _timing import setting
from PIL import Image

from tokenloc.boxes import get_protocol, largest_boxes, prepare_map
from tokenloc.commands.localize import localize
from tokenloc.data import Preprocessing, evaluation_transform
from tokenloc.inference import Localizer, choose_device
from tokenloc.methods import list_methods
from tokenloc.models import create_model
from tokenloc.models.checkpoint import MODEL_PREFIX, load_checkpoint
from tokenloc.models.metadata import METADATA_KEY, ModelMetadata
from tokenloc.refinement import refine

CLASSES = 200
THRESHOLD = 0.2


def write_images(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    folder.mkdir()
    generator = np.random.default_rng(0)
    paths = [folder / f"{index:04d}.jpg" for index in range(count)]
    for path in paths:
        coarse = generator.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, quality=90)
    return paths


def write_checkpoint(path: Path, method: str, backbone: str) -> Path:
    model = create_model(method, backbone, CLASSES, pretrained=False)
    weights = {MODEL_PREFIX + name: value for name, value in model.state_dict().items()}
    metadata = ModelMetadata(model.config, tuple(f"class {index}" for index in range(CLASSES)), Preprocessing())
    torch.save({"state_dict": weights, METADATA_KEY: metadata.to_dict()}, path)
    return path


def plain_loop(checkpoint: Path, images: list[Path], out: Path, device: str) -> None:
    """What a person would write: one image after the other."""
    model, metadata = load_checkpoint(checkpoint)
    model = model.to(choose_device(device))
    transform, protocol = evaluation_transform(metadata.preprocessing, "resize"), get_protocol("standard")
    mean, std = torch.tensor(metadata.preprocessing.mean), torch.tensor(metadata.preprocessing.std)
    found = []
    for path in images:
        tensor, frame = transform(Image.open(path).convert("RGB"))
        with torch.inference_mode():
            logits, maps = model.localize(tensor[None].to(choose_device(device)))
        if model.refinement:  # LCAR's; by tokenloc's code, one image at a time
            seen = (tensor * std[:, None, None] + mean[:, None, None]).clamp(0, 1)
            maps = refine(maps, seen[None].to(maps.device), model.refinement)
        prepared = prepare_map(maps[0, 0].float().cpu().numpy(), frame.input_size, protocol)
        boxes = frame.to_original(largest_boxes(prepared, [THRESHOLD], protocol))
        found.append({"file": str(path), "class": int(logits.argmax()), "boxes": boxes.tolist()})
    out.write_text(json.dumps(found))


def first_result(checkpoint: Path, images: list[Path], device: str) -> None:
    """Load the model and localize until the first result is there."""
    localizer = Localizer.from_checkpoint(checkpoint, device, THRESHOLD)
    with closing(localizer.predict(images)) as found:
        next(found)


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def cold_seconds(checkpoint: Path, images: list[Path], out: Path, options: list[str]) -> float:
    """Return the time of the command in a process of its own: Python's start and torch's import, too."""
    command = [sys.executable, "-m", "tokenloc.cli", "localize", checkpoint, images[0].parent, "--out", out, *options]
    return seconds(lambda: subprocess.run([str(word) for word in command], check=True, capture_output=True))


def measured(method: str, given: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Return seconds by what was timed, the best of all turns."""
    checkpoint = write_checkpoint(folder / f"{method}.ckpt", method, given.backbone)
    images = write_images(folder / "images", given.images, tuple(given.size))
    options: dict[str, Any] = {"images": given.drawings, "batch_size": given.batch_size, "device": given.device}
    options["threshold"] = THRESHOLD
    times: dict[str, float] = {}
    for turn in range(given.repeats):
        out = folder / f"{method}-{turn}"
        calls: dict[str, Callable[[], float]] = {
            "loop": lambda: seconds(lambda: plain_loop(checkpoint, images, folder / "plain.json", given.device)),
            "localize": lambda out=out: seconds(lambda: localize(checkpoint, images, out=out, **options)),
            "fast": lambda out=out: seconds(
                lambda: localize(checkpoint, images, out=out / "fast", fast=True, **options)
            ),
            "first": lambda: seconds(lambda: first_result(checkpoint, images, given.device)),
        }
        for what, call in calls.items():
            times[what] = min(call(), times.get(what, math.inf))
    words = ["--images", str(given.drawings).lower(), "--device", given.device]
    times["cold"] = cold_seconds(checkpoint, images, folder / f"{method}-cold", words)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--size", type=int, nargs=2, default=(1600, 1200))
    parser.add_argument("--methods", nargs="+", default=list_methods())
    parser.add_argument("--backbone", default="deit_small_patch16_224")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the network")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--drawings", action="store_true", help="localize draws the images, too; the loop does not")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"{given.images} JPEGs of {given.size[0]}x{given.size[1]}, {given.backbone}; {setting()}\n")
    print("| | loop, images/s | localize | ratio | localize --fast | ratio | cold | first result, s |")
    print("|---|---|---|---|---|---|---|---|")
    for method in given.methods:
        with tempfile.TemporaryDirectory() as name:
            times = measured(method, given, Path(name))
        speed = {what: given.images / taken for what, taken in times.items()}
        ratio = {what: times["loop"] / taken for what, taken in times.items()}
        print(
            f"| {method} | {speed['loop']:.1f} | {speed['localize']:.1f} | {ratio['localize']:.2f} "
            f"| {speed['fast']:.1f} | {ratio['fast']:.2f} | {speed['cold']:.1f} | {times['first']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
