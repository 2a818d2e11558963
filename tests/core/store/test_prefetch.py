"""prefetch: the same items, the same exceptions, and no thread left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from armillary.core.store.prefetch import prefetch


def alive() -> int:
    return sum(thread.name == "armillary-prefetch" for thread in threading.enumerate())


def test_items_come_in_order() -> None:
    assert list(prefetch(iter(range(1000)), depth=3)) == list(range(1000))
    assert list(prefetch(iter([]))) == [] and alive() == 0


def test_an_exception_comes_at_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("three")

    seen = []
    with pytest.raises(KeyError, match="three"):
        for item in prefetch(items()):
            seen.append(item)
    assert seen == [1, 2] and alive() == 0


def test_items_are_made_ahead_but_not_far() -> None:
    made = []

    def items() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            yield i

    reader = prefetch(items(), depth=2)
    next(reader)
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert len(made) == 4, "one in use, two waiting, one in the making"
    reader.close()


def test_the_thread_ends_when_the_reader_does() -> None:
    reader = prefetch(iter(range(1000)))
    next(reader)
    assert alive() == 1
    reader.close()
    assert alive() == 0


def test_nothing_is_made_before_the_first_item_is_asked_for() -> None:
    prefetch(iter([1]))
    assert alive() == 0


def test_the_maker_is_closed_when_the_reader_stops() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            closed.set()

    reader = prefetch(items())
    next(reader)
    reader.close()
    assert closed.wait(1)
