"""Fit: a factorisation in progress, driven by the one loop.

A pass reads the rows in a shuffled order, so its first rows are a sample of all: these are factorised in memory (`solver`). Where there
are more, the rest streams by (`stream`), and atoms move a little with every batch. Every further pass holds them still while it sums and
moves them at its end, one exact iteration over all rows.

Letters: n rows, D neurons, F features.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from armillary.core import distributed
from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import Dictionary
from armillary.core.method import Consumer, Pass, one_to_one, require_rows
from armillary.core.nnls import NNLSEncoder
from armillary.core.rows import Batch, Layout, width
from armillary.errors import ArmillaryWarning
from armillary.methods.snmf.solver import Data, Factors, Plan, solve
from armillary.methods.snmf.stream import Stream
from armillary.methods.snmf.updates import normalise

if TYPE_CHECKING:
    from armillary.methods.snmf.factorisation import Factorisation

#: Sweeps over the atoms at the end of an exact pass.
SWEEPS = 3
#: Largest power of 2 by which rows are scaled: float32 has no more.
SCALES = 126
#: Codes per row may differ from `target_l0` by this share of it before a warning says so.
NEAR = 0.1


@final
class Fit(Consumer):
    """Gathers the first rows, factorises them, and lets the others stream by.

    Args:
        method: the options.
        plan: their numbers for these rows.
        layout: of the rows.
        seed: of the order of the rows and of the first codes.
        start: atoms [F, D] to begin from, or None.
    """

    merges = False  # ranks work together in every batch

    def __init__(self, method: Factorisation, plan: Plan, layout: Layout, seed: int, start: Tensor | None) -> None:
        self.method, self.plan, self.layout, self.seed, self.start = method, plan, layout, seed, start
        self.epoch, self.n_rows = 0, 0
        self.first: list[Tensor] = []  # rows to be factorised in memory, of all ranks
        self.stream: Stream | None = None  # once they have been
        self.scale = 1.0  # of the rows while they are worked on
        self.record: dict[str, Any] = {}

    def next_pass(self) -> Pass | None:
        has_seen_all = self.epoch > 0 and self.n_rows <= self._n_first
        if has_seen_all or self.epoch == self.method.n_passes:
            return None
        return Pass(self.method.batch_size, seed=self.seed, epoch=self.epoch)

    @property
    def _n_first(self) -> int:
        return self.method.n_in_memory

    def update(self, batch: Batch) -> None:
        self.method.check_signs(batch.x)
        if self.stream is not None:
            self._let_by(self.stream, batch.x.to(torch.float32) * self.scale)
            return
        x = batch.x.to(torch.float32, copy=True)  # a slice of a shard lies elsewhere in memory and is rounded otherwise
        # No more than asked for, whatever the batch: what is left of it is the first to stream by.
        rows = distributed.gather_rows(x)
        room = self._n_first - self.n_rows
        self.first.append(rows[:room])
        self.n_rows += min(room, len(rows))
        if len(rows) > room:
            self._factorise()
            self._let_by(self._streaming, rows[room:][distributed.rank() :: distributed.world()] * self.scale)

    @property
    def _streaming(self) -> Stream:
        assert self.stream is not None
        return self.stream

    def _let_by(self, stream: Stream, x: Tensor) -> None:
        before = float(stream.totals[2])
        stream.take(x, self.plan.budget)
        if self.epoch == 0:
            self.n_rows += round(float(stream.totals[2]) - before)
            stream.move(self.plan.budget)

    def _factorise(self) -> None:
        """Solve for the rows gathered so far, as often as `n_init` says."""
        x, self.first = torch.cat(self.first), []
        require_rows(self.method, len(x), x.shape[1])
        self.method.check(x)
        # Squares of tiny or huge rows would leave float32; powers of 2 are exact.
        self.scale = 2.0 ** min(max(-round(math.log2(float(x.abs().amax()))), -SCALES), SCALES)
        data = Data(x.mul_(self.scale))
        n_init = 1 if self.start is not None else self.method.n_init
        best = min((solve(data, self.plan, seed=self.seed + i, start=self.start) for i in range(n_init)), key=lambda run: run.errors[-1])
        totals = torch.tensor([best.errors[-1] * data.squared, data.squared, len(x), best.l0 * len(x)], dtype=torch.float64)
        self.stream = Stream(best.atoms, data.outer(best.codes), best.used, totals.to(x.device), best.price)
        self.record = _record(best, len(x))

    def end_pass(self) -> None:
        if self.stream is None:
            self._factorise()
        if self.epoch > 0:
            self._streaming.move(self.plan.budget, SWEEPS)
        self.epoch += 1
        if self.next_pass() is not None:
            self._streaming.forget()

    def state(self) -> Mapping[str, Any]:
        stream = None if self.stream is None else self.stream.state()
        first = torch.cat(self.first) if self.first else torch.zeros(0, width(self.layout))
        return {"epoch": self.epoch, "n_rows": self.n_rows, "first": first, "stream": stream, "scale": self.scale, "record": self.record}

    def load(self, state: Mapping[str, Any]) -> None:
        self.epoch, self.n_rows, self.scale, self.record = state["epoch"], state["n_rows"], state["scale"], dict(state["record"])
        self.first = [state["first"]] if len(state["first"]) else []
        self.stream = None if state["stream"] is None else Stream.of(state["stream"])

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Nothing to do: every rank has the same."""

    def finish(self) -> Decomposition:
        stream = self._streaming
        order = stream.used.diagonal().argsort(descending=True, stable=True)  # the feature that explains most is the first
        atoms = stream.atoms[order].contiguous()
        normalise(atoms)
        dictionary = Dictionary.of_directions(atoms)
        price = stream.price / self.scale
        encoder = NNLSEncoder(dictionary, price=price)
        about = {"relative_error": stream.error, "l0": stream.l0, "n_dead": stream.n_dead, "price": price}
        self._warn(stream)
        return Decomposition(dictionary, encoder, **one_to_one(self.layout), provenance={**self.record, **about})

    def _warn(self, stream: Stream) -> None:
        if stream.n_dead:
            message = f"{stream.n_dead} of {len(stream.atoms)} features are hardly used by any row; fit fewer, or lower the price of codes"
            warnings.warn(message, ArmillaryWarning, stacklevel=4)
        wanted = self.method.target_l0
        if wanted is not None and abs(stream.l0 - wanted) > NEAR * wanted:
            found = f"rows have {stream.l0:.3g} codes above 0 on average and not the {wanted:g} of target_l0"
            warnings.warn(f"{found}; give more iterations, or another number", ArmillaryWarning, stacklevel=4)

    def describe(self) -> str:
        return "sampling" if self.stream is None else f"error {self.stream.error:.4g}, {self.stream.l0:.3g} codes per row"


def _record(factors: Factors, n: int) -> dict[str, Any]:
    """What is kept of a solution for n rows."""
    steps = enumerate(zip(factors.trace, factors.errors, strict=False), 1)
    curve = [{"step": i, "objective": objective, "relative_error": error} for i, (objective, error) in steps]
    return {"n_rows_in_memory": n, "n_iter": len(factors.trace), "n_revived": factors.n_revived, "curve": curve}
