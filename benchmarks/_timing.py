"""Timing, peak memory and a description of the machine, for benchmarks on one thread or on a GPU."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import platform
import resource
import subprocess
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch

Measure = Callable[..., tuple[float, ...]]


def best_time(call: Callable[[], object], repeats: int, device: str = "cpu") -> float:
    """Return the minimum time of ``repeats`` calls in milliseconds, after one call to warm up.

    On one thread of the CPU it is processor time, which other processes hardly affect; otherwise wall-clock time, on a
    GPU until all its work is done.
    """
    on_cpu = torch.device(device).type == "cpu"
    clock = time.process_time if on_cpu and torch.get_num_threads() == 1 else time.perf_counter
    times = []
    for _ in range(repeats + 1):
        start = clock()
        call()
        if not on_cpu:
            torch.cuda.synchronize(device)
        times.append(clock() - start)
    return 1e3 * min(times[1:])


def peak_memory(device: str = "cpu") -> float:
    """Return the peak memory in GiB: of this process, or on a GPU of PyTorch's tensors since ``isolated`` began."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def isolated(measure: Measure, device: str, *arguments: Any) -> tuple[float, ...] | None:
    """Return ``measure(*arguments)`` so that its ``peak_memory`` is its own; None if there is too little memory.

    For a CPU it runs in a process of its own. On a GPU it runs here, without the tensors of earlier calls.
    """
    if torch.device(device).type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        with contextlib.suppress(torch.OutOfMemoryError):
            return measure(*arguments)
        return None
    context = multiprocessing.get_context("forkserver")  # imports everything only once
    results: multiprocessing.Queue[tuple[float, ...]] = context.Queue()
    process = context.Process(target=_put, args=(results, measure, arguments))
    process.start()
    while process.is_alive() and results.empty():
        process.join(0.1)
    found = None if results.empty() else results.get()
    process.join()
    return found


def _put(results: multiprocessing.Queue[tuple[float, ...]], measure: Measure, arguments: tuple[Any, ...]) -> None:
    results.put(measure(*arguments))


def setting(device: str = "cpu") -> str:
    """Return the GPU and its driver (if ``device`` is one), processor, threads, torch and date in one line."""
    if torch.device(device).type == "cuda":
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
        name = torch.cuda.get_device_name(device)
        return f"{name}, driver {driver}, CUDA {torch.version.cuda}; {setting()}"
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    return f"{processor}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, {date.today().isoformat()}"
