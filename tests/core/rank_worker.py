"""One rank of tests/core/test_distributed.py: python rank_worker.py FOLDER RANK WORLD."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from armillary.core import distributed, run
from armillary.core.method import Consumer, Pass
from armillary.core.moments import Moments
from armillary.core.rows import Batch, TensorRows
from armillary.core.run import drive
from armillary.errors import MismatchError

N, SIZE, D = 41, 8, 3


class Sums(Consumer):
    """Moments over two shuffled passes, merged at the end of each; the second starts from nothing."""

    def __init__(self) -> None:
        self.finished = 0
        self.moments = Moments.empty(D)
        self.seen: list[float] = []

    def next_pass(self) -> Pass | None:
        return Pass(SIZE, seed=5, epoch=self.finished) if self.finished < 2 else None

    def update(self, batch: Batch) -> None:
        self.moments = self.moments + Moments.of(batch.x)

    def end_pass(self) -> None:
        self.finished += 1
        self.seen.append(self.moments.total)
        self.moments = Moments.empty(D)

    def state(self) -> Mapping[str, Any]:
        return {"finished": self.finished, "seen": self.seen, **self.moments.state()}

    def load(self, state: Mapping[str, Any]) -> None:
        self.finished, self.seen = state["finished"], list(state["seen"])
        self.moments = Moments(state["n"], state["mean"], state["scatter"])

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        parts = [Moments(state["n"], state["mean"], state["scatter"]) for state in states]
        self.moments = sum(parts, Moments.empty(D))

    def finish(self) -> list[float]:
        return self.seen


def x() -> Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 5


def basics(folder: Path) -> None:
    """What both ranks must agree on."""
    rank = distributed.rank()
    say("world", distributed.world())
    distributed.start()
    say("started twice", distributed.world())
    one, other = torch.tensor(1.0 + rank), torch.tensor(10.0 + 10 * rank)
    distributed.sum_(one, other)
    say("sum", [float(one), float(other)])
    say("gather", distributed.gather(f"of {rank}"))
    say("largest", distributed.largest(7 if rank == 1 else 2))
    mine = [int(row) for batch in TensorRows(x()[:7]).batches(4, rank=rank, world=2) for row in batch.row]
    say("rows", sorted(row for part in distributed.gather(mine) for row in part))
    consumer = Sums()
    drive([consumer], TensorRows(x()))
    whole = Moments.of(x()).total
    say("moments", all(abs(total - whole) < 1e-9 * whole for total in consumer.finish()))


class Stopped(Sums):
    """Rank 1 alone is told to stop during its third batch."""

    n = 0

    def update(self, batch: Batch) -> None:
        super().update(batch)
        self.n += 1
        if self.n == 3 and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGINT)


def interrupted(folder: Path) -> None:
    """Both ranks stop after the same batch, and go on from there to the bits of an uninterrupted run."""
    stopped, whole, rest = Stopped(), Sums(), Stopped()
    with suppress(KeyboardInterrupt):
        drive([stopped], TensorRows(x()), checkpoint=folder / "c", identity="sums")
    say("stopped after", stopped.n)
    meet()
    say("kept", sorted(path.name for path in folder.iterdir()))
    meet()
    drive([whole], TensorRows(x()))
    rest.n = 3  # not stopped again
    drive([rest], TensorRows(x()), checkpoint=folder / "c", identity="sums")
    say("same bits", rest.finish() == whole.finish())
    meet()
    say("left behind", sorted(path.name for path in folder.iterdir()))


def torn(folder: Path) -> None:
    """Checkpoints of different batches are refused by both ranks."""
    with suppress(KeyboardInterrupt):
        drive([Stopped()], TensorRows(x()), checkpoint=folder / "c")
    meet()
    if distributed.rank() == 1:
        (folder / "c.rank1").unlink()
    meet()
    try:
        drive([Stopped()], TensorRows(x()), checkpoint=folder / "c")
    except MismatchError as error:
        say("torn", "are of different batches" in str(error))


def due(folder: Path) -> None:
    """Only rank 1's clock says that a checkpoint is due, after the second and the fourth batch."""
    written: list[int] = []
    keep, is_due = run._Checkpoint.write, run._Checkpoint.is_due

    def note(self: Any, key: str, done: int) -> None:
        written.append(done)
        keep(self, key, done)

    class Counting(Sums):
        n = 0

        def update(self, batch: Batch) -> None:
            super().update(batch)
            self.n += 1

    consumer = Counting()
    run._Checkpoint.write = note  # type: ignore[method-assign]
    run._Checkpoint.is_due = lambda self: distributed.rank() == 1 and consumer.n in (2, 4)  # type: ignore[method-assign]
    drive([consumer], TensorRows(x()), checkpoint=folder / "c")
    run._Checkpoint.write, run._Checkpoint.is_due = keep, is_due  # type: ignore[method-assign]
    say("written after", written)


def meet() -> None:
    """Wait for the other rank."""
    distributed.largest(0)


def say(name: str, value: object) -> None:
    sys.stdout.write(f"{name}: {value}\n")


if __name__ == "__main__":
    folder, rank, world = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    for task in (basics, interrupted, torn, due):
        (folder / task.__name__).mkdir(exist_ok=True)
        task(folder / task.__name__)
        meet()
    dist.destroy_process_group()
