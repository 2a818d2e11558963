"""DAS: the subspace in which a model keeps a variable, learnt through the model.

Q [R, D] is orthonormal and minimises the loss of the expected answers y of pairs (base b, source s),

    x <- x_b + Q^T Q (x_s - x_b)        at one site and token of the base's run
    min over Q of  sum over pairs of  w CE(model(b; x), y)

Geiger et al. (2024), "Finding alignments between interpretable causal variables and distributed neural representations", arXiv 2303.02536.

Learnt from pairs whose answer changes and from others whose answer must not, it is the multi-task form (MDAS: Huang et al. 2024, "RAVEL",
arXiv 2402.17700): what is expected of each pair says which is which.

Letters: P pairs, n pairs of a batch, D width, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from armillary.core import distributed
from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import Dictionary
from armillary.core.edits import Interchange
from armillary.core.encoders import LinearEncoder
from armillary.core.method import Consumer, Method, Needs, Pass, one_to_one, refuse_start
from armillary.core.pairs import Pairs, weights
from armillary.core.prompted import only_at
from armillary.core.rows import Batch, width
from armillary.errors import InputError, NonFiniteError


@final
class DAS(Method):
    """Distributed alignment search (Geiger et al. 2024), from `Pairs` of prompts and the model they are put to.

    The fit has one feature, a subspace of R orthonormal atoms over the sources' mean; codes are coordinates in it. As the codes are linear
    and the rest of a row is left as it is, exchanging them is exact: x + (c' - c) Q. Pairs count as in the score of their variable: of
    "cause" and "isolate" pairs each half.
    """

    needs: ClassVar[Needs] = "pairs"

    rank: PositiveInt = 1
    """R, dimensions of the subspace."""
    lr: PositiveFloat = 1e-2
    """Adam's learning rate at the start; it falls linearly to 0."""
    n_epochs: int = Field(10, ge=1)
    """Passes over the pairs."""
    batch_size: PositiveInt = 32
    """Pairs per step."""

    def consumer(self, data: Pairs, *, seed: int, start: Decomposition | None) -> Consumer:
        refuse_start(self, start)
        d = width(data.rows.layout)
        if self.rank > d:
            raise InputError(f"rank must be at most the width D={d}, got {self.rank}; try rank={d}")
        return Search(self, data, seed)

    def min_rows(self, d: int) -> int:
        return 1


class Search(Consumer):
    """A search in progress. Its batches are of sources; `row` says which pair each is of.

    Args:
        method: the settings.
        data: the pairs.
        seed: of the start and of the order.
    """

    def __init__(self, method: DAS, data: Pairs, seed: int) -> None:
        self.method, self.data, self.seed = method, data, seed
        d = width(data.rows.layout)
        drawn = torch.randn(d, method.rank, generator=torch.Generator().manual_seed(seed))
        self.free = torch.linalg.qr(drawn)[0].contiguous().requires_grad_()  # [D, R]; of length 1, so that lr means the same at any width
        self.optimiser = torch.optim.Adam([self.free], lr=method.lr)
        self.weight = torch.from_numpy(weights(data.pairs)) * len(data)  # [P], 1 on average
        self.total = torch.zeros(d, dtype=torch.float64)
        self.epoch, self.n_steps, self.nats = 0, 0, 0.0
        self.curve: list[dict[str, float]] = []

    @property
    def merges(self) -> bool:
        return False  # ranks work together in every batch

    def next_pass(self) -> Pass | None:
        return Pass(self.method.batch_size, self.seed, self.epoch) if self.epoch < self.method.n_epochs else None

    def basis(self) -> Tensor:
        """Q [R, D]; gradients flow to the free matrix [D, R] it is made from."""
        q, r = torch.linalg.qr(self.free)
        turned: Tensor = q * r.diagonal().sign()  # with signs that make it a function of the free matrix alone
        return turned.T

    def update(self, batch: Batch) -> None:
        told = torch.zeros(2, dtype=torch.float64)  # summed loss, and how many pairs it is of
        self.free.grad = gradient = torch.zeros_like(self.free)
        if len(batch):
            told += torch.tensor([self._backward(batch), len(batch)], dtype=torch.float64)
        here = batch.x.double().sum(0).cpu()
        distributed.sum_(told, gradient, here)
        self.total += here if self.epoch == 0 else 0
        gradient.div_(float(told[1]))
        self._check(float(told[0]), gradient)
        self.optimiser.param_groups[0]["lr"] = self.method.lr * max(0.0, 1 - self.n_steps / self._n_steps)
        self.optimiser.step()
        self.n_steps, self.nats = self.n_steps + 1, self.nats + float(told[0])

    def _backward(self, batch: Batch) -> float:
        """Leave the gradient of the batch's summed loss, and return the loss."""
        run = self.data.run[batch.row]
        some, at = self.data.prompted.take(run), self.data.place[run]
        source = batch.x.float()[:, None]  # [n, 1, D]
        with torch.enable_grad():
            swap = Interchange(self.data.site, source, basis=self.basis(), where=only_at(at))
            nats = some.loss(self.data.model.logits(some.tokens, edits=[swap], grad=True))  # [n]
            loss = (nats * self.weight[torch.from_numpy(batch.row)].to(nats)).sum()
            loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    @property
    def _n_steps(self) -> int:
        return self.method.n_epochs * -(-len(self.data) // self.method.batch_size)

    def _check(self, loss: float, gradient: Tensor) -> None:
        if not (math.isfinite(loss) and bool(torch.isfinite(gradient).all())):
            raise NonFiniteError(f"DAS: the loss or its gradient is not finite at step {self.n_steps}; use a float32 model or lower its lr")

    def end_pass(self) -> None:
        self.curve.append({"step": self.n_steps, "loss": self.nats / len(self.data)})
        self.epoch, self.nats = self.epoch + 1, 0.0

    def state(self) -> Mapping[str, Any]:
        memory = dict(self.optimiser.state.get(self.free, {}))
        numbers = {"epoch": self.epoch, "n_steps": self.n_steps, "nats": self.nats, "curve": self.curve}
        return {"free": self.free.detach(), "memory": memory, "total": self.total, **numbers}

    def load(self, state: Mapping[str, Any]) -> None:
        self.free.data.copy_(state["free"])
        if state["memory"]:
            self.optimiser.state[self.free] = dict(state["memory"])
        self.total, self.curve = state["total"], list(state["curve"])
        self.epoch, self.n_steps, self.nats = state["epoch"], state["n_steps"], state["nats"]

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        raise AssertionError("ranks work together in every batch, so there is nothing to merge")

    def finish(self) -> Decomposition:
        atoms, mean = self.basis().detach().contiguous(), (self.total / len(self.data)).float()
        role: Tensor = torch.zeros(len(atoms), dtype=torch.int64)
        dictionary = Dictionary(atoms, torch.zeros_like(role), role, mean[None])
        record = {**self.data.record(), "curve": self.curve, "final": {"loss": self.curve[-1]["loss"]}}
        return Decomposition(dictionary, LinearEncoder(atoms, mean), **one_to_one(self.data.rows.layout), provenance=record)

    def describe(self) -> str:
        return f"{self.curve[-1]['loss']:.3g} nats" if self.curve else ""
