"""Work ahead in threads: the order of ``map``, bounded, and ended with the one who wanted it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tokenloc._threads import map_ahead


def test_order_is_that_of_map_though_later_work_ends_first() -> None:
    second_done = threading.Event()

    def slow_first(number: int) -> int:
        if number == 0:
            second_done.wait(10)
        if number == 1:
            second_done.set()
        return number * number

    assert list(map_ahead(slow_first, range(20), ahead=4, threads=2)) == [number * number for number in range(20)]
    assert list(map_ahead(slow_first, [], ahead=4)) == []


def test_no_more_items_are_taken_than_may_wait() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(100):
            taken += 1
            yield number

    for yielded, _ in enumerate(map_ahead(str, items(), ahead=3), start=1):
        assert taken <= yielded + 3
    assert taken == 100


def test_an_error_is_raised_in_its_place_and_ends_the_work() -> None:
    results = map_ahead(lambda number: 6 // number, [3, 2, 0, 1], ahead=2)
    assert [next(results), next(results)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []


def test_closing_leaves_no_thread_and_begins_nothing_more() -> None:
    begun: list[int] = []
    before = threading.active_count()
    results = map_ahead(begun.append, range(1000), ahead=10, threads=2)
    next(results)
    results.close()
    assert threading.active_count() == before
    assert len(begun) <= 11
