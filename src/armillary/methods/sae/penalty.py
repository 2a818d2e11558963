"""Penalty: the weight of a sparsity loss, told or steered so that the wanted number of codes fire.

A weight says little about the number of codes it leads to: that depends on the data, the width and the length of the run. So the number
is what one asks for, and the weight follows, as a controller with a proportional and an integral part does:

    price on size (`SizePrice`)        e = clip(log(L0 / target), -1, 1)           log integral += rate e     lambda = integral exp(gain e)
    price on number (`NumberPrice`)    e = clip((L0 / target - 1) / near, -1, 1)    integral += rate gain e    lambda = integral + gain e

In runs of more than 1,000 steps the rate is 1000 / steps of what it is in others.

The integral finds the weight, and the gain keeps it from swinging around it. A price on the number of codes may become negative, a reward:
too few codes may fire although they cost nothing.

Letters: N rows, M latents, D_in width of what is read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from pydantic import Field, model_validator
from torch import Tensor

from armillary.core import distributed
from armillary.core.onednn import linear
from armillary.methods.sae.fit import SAE
from armillary.methods.sae.ranks import ByLatents, Work
from armillary.methods.sae.step import Objective
from armillary.methods.sae.trainer import Recipe
from armillary.methods.sae.weights import Weights

#: Rows of all ranks from which the first level is chosen.
ROWS = 256
#: Relative distance from the target up to which a `NumberPrice` is in proportion to it.
NEAR = 0.2
#: Weight of the newest batch in the running mean that tells whether the number of codes comes nearer to the target.
RECENT = 0.2
#: Codes that are worked on at once: more rows than have so many are taken in parts, so that a dense beginning needs no more memory.
ENTRIES = 1 << 18
#: Share of the latents that fire at first where no number is wanted.
FIRST_SHARE = 0.05


class PenalisedSAE(SAE):
    """An autoencoder whose codes are made sparse by a penalty. Abstract; see `JumpReLUSAE`.

    Raises:
        InputError: l0 and sparsity are both given, or neither.
    """

    #: How many times the wanted number of codes are aimed at in the beginning, and the share of the latents that it is at most.
    first_times: ClassVar[float] = 1.0
    first_share: ClassVar[float] = 1.0
    #: Share of the training at which the number itself is aimed at.
    settled: ClassVar[float] = 0.0

    #: How the weight follows.
    rule: ClassVar[type[Penalty]]

    l0: float | None = Field(default=None, gt=0)
    """Codes that shall fire for each row, on average; the penalty is steered to it."""
    sparsity: float | None = Field(default=None, gt=0)
    """Weight of the penalty, instead of l0."""

    @model_validator(mode="after")
    def _one_of_two(self) -> PenalisedSAE:
        if (self.l0 is None) == (self.sparsity is None):
            raise ValueError("give l0, the codes that shall fire for each row, or sparsity, the weight of the penalty, and not both")
        if self.l0 is not None and self.l0 > self.n_features:
            raise ValueError(f"l0 must be at most n_features, {self.n_features}, got {self.l0:g}")
        return self

    def penalty(self, recipe: Recipe) -> Penalty:
        """The weight as it begins."""
        slowly = min(1.0, 1000 / recipe.n_steps)
        times = min(self.first_times, self.first_share * self.n_features / (self.l0 or 1))
        return self.rule(self.l0, self.sparsity, scale=recipe.d / (self.l0 or 1), slowly=slowly, times=times, until=self.settled)


class Penalty(ABC):
    """The weight of a price on codes. Abstract.

    Args:
        target: codes per row that are wanted, or None for a weight that stays.
        weight: the one that stays, or None for one that is found.
        scale: squared length that one of so many codes explains of a row.
        slowly: share of the usual rate, for long runs.
        times: how many times the target is aimed at in the beginning.
        until: share of the training over which that falls to once.
    """

    #: Rate and gain of the rule above, and the weight at the beginning.
    rate: ClassVar[float]
    gain: ClassVar[float]
    first: ClassVar[float]

    @final
    def __init__(
        self,
        target: float | None,
        weight: float | None = None,
        *,
        scale: float = 1.0,
        slowly: float = 1.0,
        times: float = 1.0,
        until: float = 1.0,
    ) -> None:
        self.target, self.times, self.until, self.scale, self.slowly = target, max(1.0, times), until, scale, slowly
        self.weight = self.integral = torch.tensor(self.first if weight is None else weight, dtype=torch.float64)
        self.l0 = 0.0 if target is None else target * self.times  # codes per row of the last batch
        self.usual: Tensor | None = None  # running mean of the codes that fire, as a share of those that are aimed at

    @property
    def first_target(self) -> float | None:
        """What is aimed at in the beginning."""
        return None if self.target is None else self.target * self.times

    @property
    def settled(self) -> float:
        """The weight without what answers the last batch alone."""
        return float(self.integral)

    @final
    def steer(self, l0: Tensor, progress: float) -> None:
        """Take note of the mean number of codes of a batch; `progress` is the share of the training that is done."""
        self.l0 = float(l0)
        if self.target is not None:
            self.integral = self.integral.to(l0.device)
            share = l0 / (self.target * self.times ** max(0.0, 1 - progress / max(self.until, 1e-9)))
            usual = share if self.usual is None else self.usual.to(l0.device)
            self._follow(share, usual)
            self.usual = usual + RECENT * (share - usual)

    @abstractmethod
    def _follow(self, share: Tensor, usual: Tensor) -> None:
        """Find the weight, where so many times the codes that are aimed at fire now, and did lately."""

    def state(self) -> dict[str, Any]:
        """Everything the next weight depends on."""
        return {"weight": self.weight, "integral": self.integral, "usual": self.usual, "times": self.times, "l0": self.l0}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        self.weight, self.integral, self.usual = state["weight"], state["integral"], state["usual"]
        self.times, self.l0 = state["times"], state["l0"]


@final
class SizePrice(Penalty):
    """Of a price on the size of codes."""

    rate: ClassVar[float] = 0.05
    gain: ClassVar[float] = 2.0
    first: ClassVar[float] = 1.0

    def _follow(self, share: Tensor, usual: Tensor) -> None:
        error = share.clamp_min(1e-6).log().clamp(-1, 1)
        self.integral = self.integral * (self.slowly * self.rate * error).exp()
        self.weight = self.integral * (self.gain * error).exp()


@final
class NumberPrice(Penalty):
    """Of a price on the number of codes, in units of the rows' mean square entry; the gain is in units of `scale`."""

    rate: ClassVar[float] = 0.03
    #: More than a code can explain on average, so that the price is never too low; from a third to three times this nothing changes.
    gain: ClassVar[float] = 2.0
    first: ClassVar[float] = 0.0

    def _follow(self, share: Tensor, usual: Tensor) -> None:
        error, gain = ((share - 1) / NEAR).clamp(-1, 1), self.gain * self.scale
        # While the target comes nearer from afar the integral rests, or it would have to be undone once it is reached.
        comes_nearer = (error.abs() >= 1) & ((share - usual) * error < 0)
        self.integral = self.integral + self.slowly * self.rate * gain * error * ~comes_nearer
        self.weight = self.integral + gain * error


class PricedObjective(Objective):
    """What is minimised holds a price on codes. Abstract; subclasses set `penalty`."""

    penalty: Penalty

    def n_parts(self, n: int) -> int:
        return max(1, -(-round(n * self.penalty.l0) // ENTRIES))

    def begin(self, weights: Weights, c: Tensor, *, is_fresh: bool) -> Weights:
        if not is_fresh:  # what is gone on with is sparse already
            self.penalty.times = 1.0
        return weights

    def steer(self, l0: Tensor, progress: float) -> None:
        self.penalty.steer(l0, progress)

    def record(self) -> dict[str, Any]:
        return {"sparsity": self.penalty.settled}

    def state(self) -> dict[str, Any]:
        return self.penalty.state()

    def load(self, state: Mapping[str, Any]) -> None:
        self.penalty.load(state)


def first_level(weights: Weights, c: Tensor, l0: float | None, work: Work) -> float:
    """The level that about `l0` of a row's pre-activations exceed at first, so that training starts sparse; at least 0.

    Args:
        weights: without a bias yet.
        c: this rank's centred rows [N, D_in] of the first batch.
        l0: the number that is wanted, or None.
        work: this rank's share of the rows or of the latents.
    """
    m = int(work.total(torch.tensor(len(weights.W_enc), device=c.device)))
    some = c[:ROWS] if isinstance(work, ByLatents) else distributed.gather_rows(c[: -(-ROWS // distributed.world())])
    p = linear(some, weights.W_enc, weights.b_enc).flatten()
    wanted = max(1, round(len(some) * min(m, FIRST_SHARE * m if l0 is None else l0)))
    best = p.topk(min(wanted, len(p)), sorted=False).values
    if isinstance(work, ByLatents):
        best = torch.cat([part.to(p.device) for part in distributed.gather(best)])
        best = best.topk(min(wanted, len(best)), sorted=False).values
    return max(0.0, float(best.min())) if len(best) else 0.0
