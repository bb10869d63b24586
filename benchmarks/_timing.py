"""What the benchmarks on one thread share: the time of a call, and which machine it was."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch


def best_time(call: Callable[[], object], repeats: int, device: str = "cpu") -> float:
    """Return the least of ``repeats`` times of ``call``, in milliseconds, after one call that is not counted.

    On the CPU it is processor time, so that what else runs on the machine disturbs it little: set torch to one thread.
    On a GPU it is time on the clock until all its work is done.
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
    """Return processor, threads, torch and date in one line, before them the GPU where ``device`` is one."""
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name(device)}; {setting()}"
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    return f"{processor}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, {date.today().isoformat()}"
