"""prefetch: run an iterator in a thread of its own, a few items ahead of the reader."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

T = TypeVar("T")
_POLL_SECONDS = 0.05


class _End:
    """Marks the end of the items, and the exception that ended them."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def prefetch(items: Iterator[T], depth: int = 1) -> Generator[T]:
    """The same items, made `depth` ahead in a thread.

    An exception of the maker is raised here, at its place in the order. The thread is joined when the items end and when the reader
    stops early (closes the generator).

    Args:
        items: made in the thread, closed there.
        depth: items that may wait; one more is being made and one is being used.
    """
    waiting: queue.Queue[T | _End] = queue.Queue(depth)
    stop = threading.Event()
    thread = threading.Thread(target=_make, args=(items, waiting, stop), name="armillary-prefetch", daemon=True)
    thread.start()
    try:
        while not isinstance(item := waiting.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stop.set()
        thread.join()


def _make(items: Iterator[T], waiting: queue.Queue[T | _End], stop: threading.Event) -> None:
    error: BaseException | None = None
    try:
        for item in items:
            if not _put(waiting, item, stop):
                break
    except BaseException as raised:
        error = raised
    _put(waiting, _End(error), stop)


def _put(waiting: queue.Queue[T | _End], item: T | _End, stop: threading.Event) -> bool:
    """Hand an item over; False when the reader is gone."""
    while not stop.is_set():
        try:
            waiting.put(item, timeout=_POLL_SECONDS)
        except queue.Full:
            continue
        return True
    return False
