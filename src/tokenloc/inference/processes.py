"""Rank and number of processes, and evaluation by several processes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


@contextmanager
def process_group() -> Iterator[bool]:
    """Join the processes of ``torchrun``, if any; yield whether this is the first one, which prints and writes."""
    joins = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized()
    if joins:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        dist.init_process_group("gloo")
    try:
        yield rank_and_world()[0] == 0
    finally:
        if joins:
            dist.destroy_process_group()


def rank_and_world() -> tuple[int, int]:
    """Return the rank of this process and the number of processes; (0, 1) for a single one."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def first_process() -> bool:
    """Return whether this process prints and writes files; also before the processes are connected."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank() == 0
    names = ("RANK",) if "RANK" in os.environ else ("NODE_RANK", "LOCAL_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in names)


def gather_in_order(results: Iterable[T], total: int) -> Iterator[T]:
    """Yield the picklable results of all processes to each of them, in the order of the ``total`` batches.

    ``results`` are those of this process, one per batch: rank r of w processes takes the batches r, r + w, r + 2 w …
    """
    rank, world = rank_and_world()
    if world == 1:
        yield from results
        return
    own = iter(results)
    for first in range(0, total, world):
        everyone: list[T | None] = [None] * world
        dist.all_gather_object(everyone, next(own) if first + rank < total else None)
        yield from (result for result in everyone[: total - first] if result is not None)
