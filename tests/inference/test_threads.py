"""``map_ahead``: order, bounded memory, errors and cleanup."""

from __future__ import annotations

import threading

import pytest

from tokenloc.inference.inputs import map_ahead


def test_results_are_in_order_even_if_later_work_ends_first() -> None:
    second_done = threading.Event()

    def slow_first(index: int) -> int:
        if index == 0:
            second_done.wait(10)
        if index == 1:
            second_done.set()
        return index

    assert list(map_ahead(slow_first, range(20), ahead=4, threads=2)) == list(range(20))
    assert list(map_ahead(slow_first, [], ahead=4)) == []


def test_at_most_ahead_items_are_taken_early() -> None:
    taken: list[int] = []
    items = (taken.append(index) or index for index in range(100))
    for yielded, _ in enumerate(map_ahead(str, items, ahead=3), start=1):
        assert len(taken) <= yielded + 3
    assert len(taken) == 100


def test_an_error_is_raised_at_its_position_and_ends_the_work() -> None:
    results = map_ahead(lambda number: 6 // number, [3, 2, 0, 1], ahead=2)
    assert [next(results), next(results)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []


def test_closing_ends_all_threads() -> None:
    begun: list[int] = []
    before = threading.active_count()
    results = map_ahead(begun.append, range(1000), ahead=10, threads=2)
    next(results)
    results.close()
    assert threading.active_count() == before
    assert len(begun) <= 11
