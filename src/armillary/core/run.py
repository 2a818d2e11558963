"""drive: the one loop. Progress, checkpoints, exact resume, ranks; every fit and every study goes through it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from armillary.core import distributed
from armillary.core.artifact import read_state, write_state
from armillary.core.memory import keep_freed_buffers
from armillary.core.method import Consumer, Pass
from armillary.core.progress import Bar, progress
from armillary.core.rows import Rows, check_finite
from armillary.errors import MismatchError, TooFewRowsError

SECONDS_BETWEEN_CHECKPOINTS = 60.0


def drive(
    consumers: Sequence[Consumer],
    rows: Rows,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    every: float = SECONDS_BETWEEN_CHECKPOINTS,
    title: str = "reading",
    identity: str = "",
) -> None:
    """Feed batches to consumers until none asks for another pass.

    Consumers that ask for the same order and batch size share one reading. A checkpoint is written every `every` seconds and when the
    run is interrupted; a later call with equal arguments goes on from it to the same bits, and removes it when done. `identity` is a
    text that is equal exactly for equal runs (methods, options, seed), so that a checkpoint is never taken for another's.

    Raises:
        MismatchError: the checkpoint belongs to another run.
        NonFiniteError: the rows hold NaN or infinity.
        TooFewRowsError: there are no rows at all.
    """
    distributed.start()
    keep_freed_buffers()
    saved = _Checkpoint(checkpoint, every, consumers, identity)
    resumed_at = saved.load()
    while group := _next_group(consumers):
        order = group[0][1]
        done = resumed_at.pop(_key(order), 0) if resumed_at else 0
        _read_pass(group, rows, saved, done, title)
        _end_pass([consumer for consumer, _ in group])
    saved.remove()


def _next_group(consumers: Sequence[Consumer]) -> list[tuple[Consumer, Pass]]:
    """The consumers that can read together with the first one that is not done."""
    wishes = [(consumer, wish) for consumer in consumers if (wish := consumer.next_pass()) is not None]
    return [(consumer, wish) for consumer, wish in wishes if _key(wish) == _key(wishes[0][1])]


def _key(wish: Pass) -> str:
    return f"{wish.batch_size}/{wish.seed}/{wish.epoch}"


def _read_pass(group: list[tuple[Consumer, Pass]], rows: Rows, saved: _Checkpoint, done: int, title: str) -> None:
    order = group[0][1]
    limits = [wish.n_batches for _, wish in group]
    longest = None if None in limits else max(limit for limit in limits if limit is not None)
    total = _total(rows, order, longest)
    rank, world = distributed.rank(), distributed.world()
    stream = rows.batches(order.batch_size, seed=order.seed, epoch=order.epoch, skip=done, rank=rank, world=world)
    with progress(title, total=total, unit="rows", done=done * order.batch_size) as bar, _deferred_interrupt() as interrupted:
        for batch in islice(stream, None if longest is None else longest - done):
            check_finite(batch, rows)
            for consumer, wish in group:
                if wish.n_batches is None or done < wish.n_batches:
                    consumer.update(batch)
            done += 1
            bar.advance(len(batch) * world, note=group[0][0].describe())
            # All ranks write, and stop, after the same batch, or their states would not belong together.
            urgency = distributed.largest(2 if interrupted.is_set() else int(saved.is_due()))
            if urgency:
                saved.write(_key(order), done)
            if urgency == 2:
                raise KeyboardInterrupt
        if interrupted.is_set():  # after the last batch
            raise KeyboardInterrupt
    _refuse_empty(done, bar)


def _total(rows: Rows, order: Pass, longest: int | None) -> int | None:
    sizes = [size for size in (rows.n_rows, None if longest is None else longest * order.batch_size) if size is not None]
    return min(sizes, default=None)


def _refuse_empty(done: int, bar: Bar) -> None:
    if done == 0:
        raise TooFewRowsError(f"{bar.title}: there are no rows to read; is the text empty, or every token excluded?")


def _end_pass(consumers: Sequence[Consumer]) -> None:
    for consumer in consumers:
        if distributed.world() > 1 and consumer.merges:
            consumer.merge(distributed.gather(dict(consumer.state())))
        consumer.end_pass()


@contextmanager
def _deferred_interrupt() -> Iterator[threading.Event]:
    """Ctrl-C (and SIGTERM) set the event instead of cutting a batch in half, so that the state that is saved is a whole one.

    The second one interrupts at once, should the batch never end.
    """
    event = threading.Event()

    def note(*_: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(kind, note) for kind in kinds]
    try:
        yield event
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)


class _Checkpoint:
    """The file with the consumers' states and how far the current pass is; without a path it does nothing."""

    def __init__(self, path: str | os.PathLike[str] | None, every: float, consumers: Sequence[Consumer], identity: str) -> None:
        rank = f".rank{distributed.rank()}" if distributed.world() > 1 else ""
        self.path = None if path is None else Path(f"{path}{rank}")
        self.every, self.consumers, self.identity = every, consumers, identity
        self._written = time.monotonic()

    def load(self) -> dict[str, int]:
        """Give the consumers their saved states; returns the batches done of the pass they were in."""
        reached = self._load() if self.path is not None and self.path.exists() else {}
        everywhere = distributed.gather(reached)
        if any(other != reached for other in everywhere):
            raise MismatchError(f"the ranks' checkpoints {self.path} are of different batches ({everywhere}); delete them to start again")
        return reached

    def _load(self) -> dict[str, int]:
        assert self.path is not None
        state = read_state(self.path)
        kinds = tuple(type(consumer).__name__ for consumer in self.consumers)
        if tuple(state["kinds"]) != kinds:
            raise MismatchError(f"checkpoint {self.path} belongs to {state['kinds']}, not to {kinds}; delete it or name another")
        if state["identity"] != self.identity:
            raise MismatchError(
                f"checkpoint {self.path} belongs to the run {state['identity']}, not to {self.identity}; delete it or name another"
            )
        if state["world"] != distributed.world():
            raise MismatchError(
                f"checkpoint {self.path} is of {state['world']} ranks, and {distributed.world()} are running; start as many, or delete it"
            )
        for consumer, part in zip(self.consumers, state["states"], strict=True):
            consumer.load(part)
        return {state["pass"]: state["done"]}

    def is_due(self) -> bool:
        """Whether the last one is old enough."""
        return self.path is not None and time.monotonic() - self._written >= self.every

    def write(self, key: str, done: int) -> None:
        """Keep the consumers' states after `done` batches of the pass; without a path nothing is kept."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        states: list[Any] = [dict(consumer.state()) for consumer in self.consumers]
        kinds = [type(consumer).__name__ for consumer in self.consumers]
        fresh = self.path.with_name(f"{self.path.name}.next")
        about = {"kinds": kinds, "identity": self.identity, "world": distributed.world()}
        write_state(fresh, {**about, "pass": key, "done": done, "states": states})
        distributed.largest(0)  # every rank has written before any replaces, so a killed run leaves checkpoints of one batch
        os.replace(fresh, self.path)
        self._written = time.monotonic()

    def remove(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            self.path.with_name(f"{self.path.name}.next").unlink(missing_ok=True)
