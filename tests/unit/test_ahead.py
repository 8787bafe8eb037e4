"""One step ahead in a second thread: the same stream, its errors in their place, and no thread left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.ahead import ahead


@given(st.lists(st.integers(), max_size=20))
def test_the_same_items_in_the_same_order(items: list[int]):
    assert list(ahead(iter(items))) == items


def test_an_error_comes_where_it_belongs():
    def stream() -> Iterator[int]:
        yield 1
        raise OSError("the card was pulled out")

    found = ahead(stream())
    assert next(found) == 1
    with pytest.raises(OSError, match="pulled out"):
        next(found)


def test_no_more_than_one_is_made_ahead():
    made: list[int] = []

    def stream() -> Iterator[int]:
        for number in range(5):
            made.append(number)
            yield number

    found = ahead(stream())
    assert next(found) == 0
    time.sleep(0.05)
    assert made == [0, 1], "the next one, and not the one after it"
    assert list(found) == [1, 2, 3, 4]


def test_closing_ends_the_thread_and_closes_the_stream():
    closed = []

    def stream() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            closed.append(True)

    before = threading.active_count()
    found = ahead(stream())
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert closed == [True]
    assert threading.active_count() == before
