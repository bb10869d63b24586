"""Memory and time of `tokenloc localize` on many images: memory must not grow with their number.

    python benchmarks/many_images.py [--images 10000] [--size 640 480] [--backbone vit_tiny_patch16_224]
        [--device auto]

Writes JPEG files (hard links to a hundred generated ones), runs the command in a separate process, with drawings and
COCO and CSV files, and prints the resident memory of that process after each tenth, read from /proc.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _timing import setting
from localize import write_checkpoint, write_images

from tokenloc.commands.localize import JOURNAL
from tokenloc.inference import choose_device

GENERATED = 100


def write_links(folder: Path, count: int, size: tuple[int, int]) -> None:
    generated = write_images(folder / "generated", min(GENERATED, count), size)
    (folder / "images").mkdir()
    for index in range(count):
        os.link(generated[index % len(generated)], folder / "images" / f"{index:06}.jpg")


def resident_memory(process: int) -> float:
    """Return the resident memory of a process in MiB."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024


def finished(journal: Path) -> int:
    """Return the number of images in the journal."""
    return max(0, journal.read_bytes().count(b"\n") - 1) if journal.is_file() else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10000)
    parser.add_argument("--size", type=int, nargs=2, default=(640, 480))
    parser.add_argument("--backbone", default="vit_tiny_patch16_224")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    width, height = arguments.size
    where = setting(str(choose_device(arguments.device)))
    print(f"{arguments.images} JPEGs of {width}x{height}, TS-CAM on {arguments.backbone}; {where}\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = write_checkpoint(folder / "model.ckpt", "tscam", arguments.backbone)
        write_links(folder, arguments.images, (width, height))
        command = [sys.executable, "-m", "tokenloc.cli", "localize", checkpoint, folder / "images", "--out"]
        words = [
            str(word)
            for word in [*command, folder / "found", "--fast", "--format", "coco", "csv", "--device", arguments.device]
        ]
        start, next_line = time.perf_counter(), arguments.images // 10
        print("| images | resident memory (MiB) | seconds |\n|---|---|---|")
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None:
                done = finished(folder / "found" / JOURNAL)
                if done >= next_line:
                    memory = resident_memory(process.pid)
                    print(f"| {done} | {memory:.0f} | {time.perf_counter() - start:.0f} |", flush=True)
                    next_line += arguments.images // 10
                time.sleep(0.1)
        print(f"\nexit status {process.returncode}")


if __name__ == "__main__":
    main()
