"""One evaluation by several processes: who takes which batch, and how what they find comes together in order."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


@contextmanager
def joined() -> Iterator[bool]:
    """Join the processes that ``torchrun`` started, where it did, and part at the end.

    Yields:
        Whether this is the first process, the one that prints and writes; True where there is no other.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield share()[0] == 0
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("gloo")
    try:
        yield share()[0] == 0
    finally:
        dist.destroy_process_group()


def share() -> tuple[int, int]:
    """Return this process's number and how many there are; (0, 1) for one alone."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def in_order(found: Iterable[T], total: int) -> Iterator[T]:
    """Yield to every process what all of them found, in the order of the batches.

    Args:
        found: what this process found in each of its batches: of ``total`` batches, process r of w takes the batches
            r, r + w, r + 2 w …; plain values that can be sent. Batches are the same however many processes there are,
            and no image is taken twice, so that a result is the same to the last bit.
        total: how many batches there are in all.
    """
    rank, world = share()
    if world == 1:
        yield from found
        return
    own = iter(found)
    for first in range(0, total, world):
        everyone: list[T | None] = [None] * world
        dist.all_gather_object(everyone, next(own) if first + rank < total else None)
        yield from (one for one in everyone[: total - first] if one is not None)
