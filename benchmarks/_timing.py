"""What the benchmarks on one thread share: the time of a call, and which machine it was."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch


def best_time(call: Callable[[], object], repeats: int) -> float:
    """Return the least of ``repeats`` times of ``call``, in milliseconds, after one call that is not counted.

    It is processor time, so that what else runs on the machine disturbs it little. Set torch to one thread.
    """
    call()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return 1e3 * min(times)


def setting() -> str:
    """Return processor, threads, torch and date in one line."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    return f"{processor}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, {date.today().isoformat()}"
