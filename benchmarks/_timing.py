"""Timing and a description of the machine, for the benchmarks on one thread."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch


def best_time(call: Callable[[], object], repeats: int, device: str = "cpu") -> float:
    """Return the minimum time of ``repeats`` calls in milliseconds, after one call to warm up.

    On the CPU it is processor time, which other processes hardly affect: set torch to one thread. On a GPU it is
    wall-clock time until all its work is done.
    """
    on_cpu = torch.device(device).type == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    times = []
    for _ in range(repeats + 1):
        start = clock()
        call()
        if not on_cpu:
            torch.cuda.synchronize(device)
        times.append(clock() - start)
    return 1e3 * min(times[1:])


def setting(device: str = "cpu") -> str:
    """Return the GPU (if ``device`` is one), processor, threads, torch version and date in one line."""
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name(device)}; {setting()}"
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    return f"{processor}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, {date.today().isoformat()}"
