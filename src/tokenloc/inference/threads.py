"""Threads that work ahead of their consumer."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

THREADS = min(8, os.cpu_count() or 1)


def map_ahead(
    function: Callable[[T], R], items: Iterable[T], ahead: int, threads: int = THREADS
) -> Generator[R, None, None]:
    """Yield ``function(item)`` for each item, in order, while threads compute the next results.

    Items are taken in the caller's thread, at most ``ahead`` items (at least 1) before their result is yielded. An
    exception is raised at the position of its item. It cancels the calls that have not started, as closing does.

    >>> list(map_ahead(str.upper, ["a", "b", "c"], ahead=2))
    ['A', 'B', 'C']
    """
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="tokenloc")
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            del item  # keep no reference to an item that was yielded
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
