"""Work that threads do ahead of who needs it."""

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
    """Yield ``function`` of each item in their order, as ``map`` does, while threads work on the next ones.

    Args:
        function: is called in other threads; what it raises is raised in its item's place.
        items: are taken in the thread of the caller, at most ``ahead`` more of them than were yielded.
        ahead: the most results and items that wait in memory, at least 1.
        threads: how many work at once.

    Closing the iterator, or an error, ends the work: what has not begun is not done.

    >>> list(map_ahead(str.upper, ["a", "b", "c"], ahead=2))
    ['A', 'B', 'C']
    """
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="tokenloc")
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            del item  # what has been yielded must not live on here
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
