"""Pictures a second from file to written annotation: `tokenloc localize` against a plain loop over the model.

    python benchmarks/localize.py [--pictures 64] [--size 1600 1200] [--method tscam] [--repeats 3] [--drawings]

Both read the same made JPEGs, load the same checkpoint of random weights, and write the box of each picture. They take
turns, the best of each counts, on the clock, since threads are what is measured; the ratio is of the same run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _timing import setting
from PIL import Image

from tokenloc.boxes import get_protocol, largest_boxes, prepare_map
from tokenloc.commands.localize import localize
from tokenloc.data import Preprocessing, evaluation_transform
from tokenloc.inference import choose_device
from tokenloc.methods import create_model
from tokenloc.training.checkpoint import ENTRY, MODEL_PREFIX, Card, load_checkpoint

CLASSES = 200
THRESHOLD = 0.2


def write_pictures(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    generator = np.random.default_rng(0)
    paths = [folder / f"{index:04d}.jpg" for index in range(count)]
    for path in paths:
        coarse = generator.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, quality=90)
    return paths


def write_checkpoint(path: Path, method: str, backbone: str) -> Path:
    model = create_model(method, backbone, CLASSES, pretrained=False)
    weights = {MODEL_PREFIX + name: value for name, value in model.state_dict().items()}
    card = Card(model.config, tuple(f"class {index}" for index in range(CLASSES)), Preprocessing())
    torch.save({"state_dict": weights, ENTRY: card.entry()}, path)
    return path


def plain_loop(checkpoint: Path, pictures: list[Path], out: Path, device: str) -> None:
    """What a person would write: one picture after the other."""
    model, card = load_checkpoint(checkpoint)
    model = model.to(choose_device(device))
    transform, protocol = evaluation_transform(card.preprocessing, "resize"), get_protocol("standard")
    found = []
    for path in pictures:
        tensor, frame = transform(Image.open(path).convert("RGB"))
        with torch.inference_mode():
            logits, maps = model.localize(tensor[None].to(choose_device(device)))
        prepared = prepare_map(maps[0, 0].float().cpu().numpy(), frame.network_size, protocol)
        boxes = frame.to_original(largest_boxes(prepared, [THRESHOLD], protocol))
        found.append({"file": str(path), "class": int(logits.argmax()), "boxes": boxes.tolist()})
    out.write_text(json.dumps(found))


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--size", type=int, nargs=2, default=(1600, 1200))
    parser.add_argument("--method", default="tscam")
    parser.add_argument("--backbone", default="deit_small_patch16_224")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--drawings", action="store_true", help="localize draws the pictures, too; the loop does not")
    given = parser.parse_args()
    times: dict[str, list[float]] = {"plain loop": [], "tokenloc localize": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = write_checkpoint(folder / "model.ckpt", given.method, given.backbone)
        pictures = write_pictures(folder, given.pictures, tuple(given.size))
        options = {"pictures": given.drawings, "batch_size": given.batch_size, "device": given.device}
        for turn in range(given.repeats):
            out = folder / f"found-{turn}"
            times["plain loop"].append(
                seconds(lambda: plain_loop(checkpoint, pictures, folder / "plain.json", given.device))
            )
            times["tokenloc localize"].append(
                seconds(lambda out=out: localize(checkpoint, pictures, out=out, threshold=THRESHOLD, **options))
            )
    print(f"{given.method}, {given.pictures} JPEGs of {given.size[0]}x{given.size[1]}; {setting()}\n")
    print("| | pictures a second | of the plain loop |\n|---|---|---|")
    for what, taken in times.items():
        speed = given.pictures / min(taken)
        print(f"| {what} | {speed:.1f} | {min(times['plain loop']) / min(taken):.2f} |")


if __name__ == "__main__":
    main()
