"""All benchmarks on a GPU, in at most 20 minutes: `make bench-gpu`.

    python benchmarks/_gpu.py [--out docs/results/gpu.md] [--minutes 19]

Runs ``COMMANDS`` one after the other, the most important first, and writes their output to a page. Each is stopped
after its own limit, and all of them after --minutes; the page lists what was stopped or not started.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from _timing import setting

from tokenloc._files import write_text

BACKBONES = ("vit_tiny_patch16_224", "deit_small_patch16_224", "deit_base_patch16_224")
SIZES = [f"--backbone {backbone} --batch {batch}" for backbone, batch in product(BACKBONES, (32, 256))]
COMMANDS = {  # the limit of each in seconds
    **{f"train_step.py {size} --steps 10": 180 for size in SIZES},
    **{f"profile_step.py --method tscam {size}": 45 for size in SIZES},
    "cost.py --batch 32 --batches 1 8 32 128 256 --steps 10 --out runs/cost-gpu": 120,
    "scm_block.py --sides 14 28 56": 60,
    "reprediction.py --images 16": 90,
    "localize.py --images 256 --methods tscam sat --repeats 2": 120,
    "train_step.py tscam scm --backbone deit_small_patch16_224 --batch 256 --steps 10 --compile": 180,
    "normalized_cut.py --images 64": 45,
    "sharper.py --repeats 10": 30,
    "lctr_head.py --images 32 --repeats 10": 30,
    "loading.py --images 32 --repeats 2 --sizes 500x375 --listed 1000": 60,
    "many_images.py --images 2000": 60,
}


class Outcome(NamedTuple):
    """What a command printed, and why it is not complete; "" if it is."""

    command: str
    printed: str
    problem: str


def run(commands: dict[str, int], seconds: float, device: str) -> Iterator[Outcome]:
    """Run benchmarks with ``--device`` for at most ``seconds`` in all; yield the outcome of each."""
    end, folder = time.monotonic() + seconds, Path(__file__).parent
    for command, limit in commands.items():
        left = min(limit, end - time.monotonic())
        script, *words = shlex.split(command)
        yield _run([sys.executable, str(folder / script), *words, "--device", device], command, left)


def _run(words: list[str], command: str, limit: float) -> Outcome:
    if limit < 1:
        return Outcome(command, "", "not started: no time was left")
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        printed, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # also the processes that it started
        return Outcome(command, process.communicate()[0], f"stopped after {limit:.0f} s")
    return Outcome(command, printed, f"failed with status {process.returncode}" if process.returncode else "")


def page(outcomes: Iterable[Outcome], where: str) -> str:
    """Return a page in Markdown."""
    parts = [f"# On a GPU\n\nWritten by `make bench-gpu` on {where}. See [benchmarks](../benchmarks.md).\n"]
    for command, printed, problem in outcomes:
        parts.append(f"## `{command}`\n\n```text\n{printed.strip()}\n```\n" + f"\n**{problem}**\n" * bool(problem))
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/results/gpu.md"))
    parser.add_argument("--minutes", type=float, default=19)
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no NVIDIA GPU: PyTorch finds no CUDA device")
    outcomes, where = [], setting(arguments.device)
    for outcome in run(COMMANDS, 60 * arguments.minutes, arguments.device):
        print(f"{outcome.command} {outcome.problem}\n{outcome.printed}", flush=True)
        outcomes.append(outcome)
        write_text(arguments.out, page(outcomes, where))
    sys.exit(any(outcome.problem for outcome in outcomes))


if __name__ == "__main__":
    main()
