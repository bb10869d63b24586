"""Memory and time of `tokenloc localize` over many images: memory stays flat in their number.

    python benchmarks/many_images.py [--images 10000] [--size 640 480] [--backbone vit_tiny_patch16_224]

Writes as many JPEGs (hard links of a hundred made ones), runs the command in a process of its own, with drawings and
COCO and CSV files, and prints that process's resident memory after each tenth, read from /proc.
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

MADE = 100


def write_links(folder: Path, count: int, size: tuple[int, int]) -> None:
    made = write_images(folder / "made", min(MADE, count), size)
    (folder / "images").mkdir()
    for index in range(count):
        os.link(made[index % len(made)], folder / "images" / f"{index:06}.jpg")


def resident(process: int) -> float:
    """Return what a process has in memory now, in MiB."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024


def finished(journal: Path) -> int:
    """Return the number of images that the command has noted down."""
    return max(0, journal.read_bytes().count(b"\n") - 1) if journal.is_file() else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10000)
    parser.add_argument("--size", type=int, nargs=2, default=(640, 480))
    parser.add_argument("--backbone", default="vit_tiny_patch16_224")
    given = parser.parse_args()
    print(f"{given.images} JPEGs of {given.size[0]}x{given.size[1]}, TS-CAM on {given.backbone}; {setting()}\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = write_checkpoint(folder / "model.ckpt", "tscam", given.backbone)
        write_links(folder, given.images, tuple(given.size))
        command = [sys.executable, "-m", "tokenloc.cli", "localize", checkpoint, folder / "images", "--out"]
        words = [str(word) for word in [*command, folder / "found", "--fast", "--format", "coco", "csv"]]
        start, next_line = time.perf_counter(), given.images // 10
        print("| images | resident memory (MiB) | seconds |\n|---|---|---|")
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None:
                done = finished(folder / "found" / JOURNAL)
                if done >= next_line:
                    memory = resident(process.pid)
                    print(f"| {done} | {memory:.0f} | {time.perf_counter() - start:.0f} |", flush=True)
                    next_line += given.images // 10
                time.sleep(0.1)
        print(f"\nexit status {process.returncode}")


if __name__ == "__main__":
    main()
