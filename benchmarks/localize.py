"""Images per second from file to written annotation: `tokenloc localize` against a plain loop over the model.

    python benchmarks/localize.py [--images 64] [--size 1600 1200] [--methods tscam sat] [--threads 2] [--drawings]
        [--device auto]

All variants read the same generated JPEG files, load the same checkpoint of random weights, and write the box of each
image. They take turns, and the best wall time of each counts. "Cold" is the command in a new process, including the
start of Python and the import of PyTorch.
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
from tokenloc.inference import Localizer, PredictionOptions, choose_device
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
    """The straightforward code: one image after the other."""
    model, metadata = load_checkpoint(checkpoint)
    model = model.to(choose_device(device))
    transform, protocol = evaluation_transform(metadata.preprocessing, "resize"), get_protocol("standard")
    mean, std = torch.tensor(metadata.preprocessing.mean), torch.tensor(metadata.preprocessing.std)
    results = []
    for path in images:
        tensor, frame = transform(Image.open(path).convert("RGB"))
        with torch.inference_mode():
            logits, maps = model.localize(tensor[None].to(choose_device(device)))
        if model.refinement:  # of LCAR
            rgb = (tensor * std[:, None, None] + mean[:, None, None]).clamp(0, 1)
            maps = refine(maps, rgb[None].to(maps.device), model.refinement)
        prepared = prepare_map(maps[0, 0].float().cpu().numpy(), frame.input_size, protocol)
        boxes = frame.to_original(largest_boxes(prepared, [THRESHOLD], protocol))
        results.append({"file": str(path), "class": int(logits.argmax()), "boxes": boxes.tolist()})
    out.write_text(json.dumps(results))


def first_result(checkpoint: Path, images: list[Path], device: str) -> None:
    """Load the model and wait for the first result."""
    localizer = Localizer.from_checkpoint(checkpoint, device, THRESHOLD)
    with closing(localizer.predict(images)) as predictions:
        next(predictions)


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def cold_seconds(checkpoint: Path, images: list[Path], out: Path, flags: list[str]) -> float:
    """Return the time of the command in a new process."""
    command = [sys.executable, "-m", "tokenloc.cli", "localize", checkpoint, images[0].parent, "--out", out, *flags]
    return seconds(lambda: subprocess.run([str(word) for word in command], check=True, capture_output=True))


def measure(method: str, arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Return the best time of each variant in seconds."""
    checkpoint = write_checkpoint(folder / f"{method}.ckpt", method, arguments.backbone)
    images = write_images(folder / "images", arguments.images, tuple(arguments.size))
    common: dict[str, Any] = {"images": arguments.drawings, "batch_size": arguments.batch_size}
    common |= {"device": arguments.device, "threshold": THRESHOLD}
    fast = PredictionOptions(fast=True)
    times: dict[str, float] = {}
    for turn in range(arguments.repeats):
        out = folder / f"{method}-{turn}"
        calls: dict[str, Callable[[], object]] = {
            "loop": lambda: plain_loop(checkpoint, images, folder / "plain.json", arguments.device),
            "localize": lambda out=out: localize(checkpoint, images, out=out, **common),
            "fast": lambda out=out: localize(checkpoint, images, out=out / "fast", options=fast, **common),
            "first": lambda: first_result(checkpoint, images, arguments.device),
        }
        for name, call in calls.items():
            times[name] = min(seconds(call), times.get(name, math.inf))
    flags = ["--images", str(arguments.drawings).lower(), "--device", arguments.device]
    times["cold"] = cold_seconds(checkpoint, images, folder / f"{method}-cold", flags)
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
    parser.add_argument("--drawings", action="store_true", help="localize also draws the images; the loop does not")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    width, height = arguments.size
    where = setting(str(choose_device(arguments.device)))
    print(f"{arguments.images} JPEGs of {width}x{height}, {arguments.backbone}; {where}\n")
    print("| | loop, images/s | localize | ratio | localize --fast | ratio | cold | first result, s |")
    print("|---|---|---|---|---|---|---|---|")
    for method in arguments.methods:
        with tempfile.TemporaryDirectory() as name:
            times = measure(method, arguments, Path(name))
        speed = {name: arguments.images / time for name, time in times.items()}
        ratio = {name: times["loop"] / time for name, time in times.items()}
        print(
            f"| {method} | {speed['loop']:.1f} | {speed['localize']:.1f} | {ratio['localize']:.2f} "
            f"| {speed['fast']:.1f} | {ratio['fast']:.2f} | {speed['cold']:.1f} | {times['first']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
