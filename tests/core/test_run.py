"""drive: passes are shared, interrupts are kept, and a resumed run ends in the same bits."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import armillary as arm
from armillary.core import run
from armillary.core.artifact import read_state, write_state
from armillary.core.method import Consumer, Pass
from armillary.core.rows import Batch, TensorRows
from armillary.core.run import drive
from armillary.errors import CorruptFileError, MismatchError, NonFiniteError, TooFewRowsError

N, SIZE = 23, 5  # the last batch is smaller


class Recorder(Consumer):
    """Adds rows up in float32, in the order they come, so that another order gives other bits; keeps every row it saw."""

    def __init__(self, *passes: Pass, d: int = 3) -> None:
        self.passes = passes
        self.finished = 0
        self.total = torch.zeros(d)
        self.rows: list[int] = []
        self.boundaries: list[int] = []

    def next_pass(self) -> Pass | None:
        return self.passes[self.finished] if self.finished < len(self.passes) else None

    def update(self, batch: Batch) -> None:
        self.total = self.total * 0.9 + batch.x.sum(0) * 1.1
        self.rows += batch.row.tolist()

    def end_pass(self) -> None:
        self.finished += 1
        self.boundaries.append(len(self.rows))

    def state(self) -> Mapping[str, Any]:
        return {"finished": self.finished, "total": self.total, "rows": self.rows, "boundaries": self.boundaries}

    def load(self, state: Mapping[str, Any]) -> None:
        self.finished, self.total = state["finished"], state["total"]
        self.rows, self.boundaries = list(state["rows"]), list(state["boundaries"])

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        raise AssertionError("a single rank has nothing to merge")

    def finish(self) -> Tensor:
        return self.total


class Counted(TensorRows):
    """Rows that count the passes over them and can fail before a batch."""

    def __init__(self, x: Tensor, fail_before: int | None = None) -> None:
        super().__init__(x)
        self.n_passes, self.n_batches, self.fail_before = 0, 0, fail_before

    def batches(self, size: int, **order: Any) -> Iterator[Batch]:
        self.n_passes += 1
        for batch in super().batches(size, **order):
            if self.n_batches == self.fail_before:
                os.kill(os.getpid(), signal.SIGINT)
            self.n_batches += 1
            yield batch


def x() -> Tensor:
    return torch.randn(N, 3, generator=torch.Generator().manual_seed(0))


def plan() -> list[Recorder]:
    """Three consumers: two passes shuffled, the stored order twice, and a few batches of the first order only."""
    return [
        Recorder(Pass(SIZE, seed=1), Pass(SIZE, seed=1, epoch=1)),
        Recorder(Pass(7), Pass(7)),
        Recorder(Pass(SIZE, seed=1, n_batches=2)),
    ]


def finished() -> list[Recorder]:
    consumers = plan()
    drive(consumers, TensorRows(x()))
    return consumers


def assert_equal(one: Sequence[Recorder], other: Sequence[Recorder]) -> None:
    for mine, theirs in zip(one, other, strict=True):
        assert mine.rows == theirs.rows
        assert mine.boundaries == theirs.boundaries
        assert torch.equal(mine.finish(), theirs.finish())


# ---------------------------------------------------------------- passes


def test_every_consumer_gets_the_passes_it_asks_for() -> None:
    shuffled, stored, few = finished()
    assert shuffled.boundaries == [N, 2 * N]
    assert sorted(shuffled.rows[:N]) == sorted(shuffled.rows[N:]) == list(range(N))
    assert shuffled.rows[:N] != shuffled.rows[N:] != list(range(N))
    assert stored.rows == [*range(N)] * 2
    assert few.rows == shuffled.rows[: 2 * SIZE]


def test_equal_wishes_share_one_reading() -> None:
    rows = Counted(x())
    drive(plan(), rows)
    assert rows.n_passes == 4


def test_sharing_changes_nothing() -> None:
    alone = plan()
    for consumer in alone:
        drive([consumer], TensorRows(x()))
    assert_equal(alone, finished())


def test_no_batch_more_is_read_than_was_asked_for() -> None:
    rows = Counted(x())
    drive([Recorder(Pass(SIZE, n_batches=2))], rows)
    assert rows.n_batches == 2


def test_a_consumer_that_wants_nothing_reads_nothing() -> None:
    rows = Counted(x())
    drive([Recorder()], rows)
    assert rows.n_passes == 0


# ---------------------------------------------------------------- interrupt and resume


@pytest.mark.parametrize("batch", range(16))
def test_interrupted_before_any_batch_and_resumed_ends_in_the_same_bits(batch: int, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    rows = Counted(x(), fail_before=batch)
    with pytest.raises(KeyboardInterrupt):
        drive(plan(), rows, checkpoint=path)
    assert rows.n_batches == batch + 1  # the batch that was read is taken in whole
    consumers, rest = plan(), Counted(x())
    drive(consumers, rest, checkpoint=path)
    assert_equal(consumers, finished())
    assert not list(tmp_path.iterdir())


def test_killed_between_checkpoints_goes_back_to_the_last_one(tmp_path: Path) -> None:
    class Killed(Counted):
        def batches(self, size: int, **order: Any) -> Iterator[Batch]:
            for batch in super().batches(size, **order):
                if self.n_batches == 4:
                    raise OSError("the machine went away")
                yield batch

    path = tmp_path / "checkpoint"
    with pytest.raises(OSError, match="went away"):
        drive(plan(), Killed(x()), checkpoint=path, every=0.0)
    assert read_state(path)["done"] == 3
    consumers = plan()
    drive(consumers, TensorRows(x()), checkpoint=path)
    assert_equal(consumers, finished())


def test_interrupted_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    for _ in range(100):
        consumers = plan()
        try:
            drive(consumers, Counted(x(), fail_before=1), checkpoint=path)
        except KeyboardInterrupt:
            continue
        break
    assert_equal(consumers, finished())


def test_a_checkpoint_of_another_number_of_ranks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        drive(plan(), Counted(x(), fail_before=3), checkpoint=path)
    write_state(path, {**read_state(path), "world": 4})
    with pytest.raises(MismatchError, match="is of 4 ranks, and 1 are running"):
        drive(plan(), TensorRows(x()), checkpoint=path)


def test_an_interrupt_without_a_checkpoint_still_interrupts() -> None:
    with pytest.raises(KeyboardInterrupt):
        drive(plan(), Counted(x(), fail_before=2))


def test_sigterm_is_kept_like_ctrl_c(tmp_path: Path) -> None:
    class Terminated(Recorder):
        def update(self, batch: Batch) -> None:
            super().update(batch)
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        drive([Terminated(Pass(SIZE))], TensorRows(x()), checkpoint=tmp_path / "c")
    assert read_state(tmp_path / "c")["done"] == 1


def test_the_second_interrupt_does_not_wait_for_the_batch() -> None:
    class Stuck(Recorder):
        def update(self, batch: Batch) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("the second signal came too late")

    with pytest.raises(KeyboardInterrupt):
        drive([Stuck(Pass(SIZE))], TensorRows(x()))


def test_signal_handlers_are_put_back() -> None:
    before = [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt):
        drive(plan(), Counted(x(), fail_before=0))
    finished()
    assert [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)] == before


def test_it_runs_in_a_thread_where_no_signal_can_be_caught() -> None:
    consumers = plan()
    thread = threading.Thread(target=drive, args=(consumers, TensorRows(x())))
    thread.start()
    thread.join()
    assert_equal(consumers, finished())


# ---------------------------------------------------------------- refusals


def interrupted(path: Path, **options: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        drive(plan(), Counted(x(), fail_before=1), checkpoint=path, **options)


def test_a_checkpoint_of_other_consumers_is_refused(tmp_path: Path) -> None:
    class Other(Recorder):
        pass

    interrupted(tmp_path / "c")
    with pytest.raises(MismatchError, match=r"belongs to .*Recorder.*, not to .*Other.*; delete it or name another"):
        drive([Other(Pass(SIZE))], TensorRows(x()), checkpoint=tmp_path / "c")
    assert (tmp_path / "c").exists()


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    interrupted(tmp_path / "c", identity="seed 1")
    with pytest.raises(MismatchError, match="belongs to the run seed 1, not to seed 2"):
        drive(plan(), TensorRows(x()), checkpoint=tmp_path / "c", identity="seed 2")


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    interrupted(tmp_path / "c")
    (tmp_path / "c").write_bytes(b"not a checkpoint")
    with pytest.raises(CorruptFileError, match="delete it to start again"):
        drive(plan(), TensorRows(x()), checkpoint=tmp_path / "c")


def test_no_rows_at_all_are_refused() -> None:
    with pytest.raises(TooFewRowsError, match="probing: there are no rows to read"):
        drive([Recorder(Pass(SIZE))], TensorRows(torch.zeros(0, 3)), title="probing")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_stop_the_run_before_any_consumer_sees_them(value: float) -> None:
    bad = x()
    bad[13, 1] = value
    recorder = Recorder(Pass(SIZE))
    with pytest.raises(NonFiniteError, match="first at row 13"):
        drive([recorder], TensorRows(bad))
    assert recorder.rows == list(range(10))


def test_checkpoints_are_written_only_when_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    written = []
    monkeypatch.setattr(run.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(run, "write_state", lambda path, state: (written.append(state["done"]), path.write_bytes(b"")))

    class Slow(Recorder):
        def update(self, batch: Batch) -> None:
            super().update(batch)
            now[0] += 25.0

    drive([Slow(Pass(2))], TensorRows(x()), checkpoint=tmp_path / "c", every=60.0)
    assert written == [3, 6, 9, 12]


def test_a_checkpoint_of_other_data_is_not_gone_on_with(tmp_path: Path) -> None:
    """Same shape, same settings, other numbers: an interrupted fit of the one must not become a fit of the other."""
    draw = torch.Generator().manual_seed(0)
    first, other = torch.randn(400, 3, generator=draw) + 100, torch.randn(400, 3, generator=draw)
    method = arm.KMeans(n_features=2)

    class Stopping(TensorRows):
        n_seen = 0

        def batches(self, size: int, **order: Any) -> Iterator[Batch]:
            for batch in super().batches(size, **order):
                Stopping.n_seen += 1
                if Stopping.n_seen > 1:
                    signal.raise_signal(signal.SIGINT)
                yield batch

    with pytest.raises(KeyboardInterrupt):
        method.fit(Stopping(first), checkpoint=tmp_path / "c")
    assert (tmp_path / "c").exists()
    with pytest.raises(MismatchError):
        method.fit(other, checkpoint=tmp_path / "c")
