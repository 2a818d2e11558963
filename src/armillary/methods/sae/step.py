"""One training step of a sparse autoencoder in closed form: no autograd graph, no dense code matrix.

    c = x - b_dec        a = what the variant makes of W_enc c + b_enc        y_hat = W_dec^T a + W_skip^T x + b_dec
    L = sum over rows |y_hat - y|^2 / size  +  the variant's penalty  +  AuxK

An autoencoder's y is x. A transcoder's is another site's row; it subtracts nothing from what it reads, so that its c is x.

Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (arXiv 2406.04093), eq. 3 and 4.

Letters: N rows, D_in and D widths of x and y, M latents, E active codes in all, B bags of codes (a row's, or one per row and group).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from armillary.core.encoders import Encoder
from armillary.methods.sae.kernels import bag, column_order
from armillary.methods.sae.ranks import ByRows, Work
from armillary.methods.sae.weights import Weights


@dataclass(frozen=True)
class Sample:
    """The rows of one step.

    Args:
        x: [N, D_in] what is read.
        y: [N, D] what is to be rebuilt: x itself, or a transcoder's target.
    """

    x: Tensor
    y: Tensor

    @property
    def is_own(self) -> bool:
        """Whether rows are rebuilt from themselves, so that the decoder's bias is taken off them first."""
        return self.x is self.y

    def parts(self, n: int) -> list[Sample]:
        """At most n samples of consecutive rows."""
        if n == 1:
            return [self]
        size = -(-len(self.x) // n)
        xs = torch.split(self.x, size)
        ys = xs if self.is_own else torch.split(self.y, size)
        return [Sample(x, y) for x, y in zip(xs, ys, strict=True)]

    def centred(self, weights: Weights) -> Tensor:
        """[N, D_in] what the encoder multiplies."""
        return self.x - weights.b_dec if self.is_own else self.x


@dataclass(frozen=True)
class Active:
    """The codes of some rows that may differ from zero, or whose parameters have a gradient.

    Args:
        value: [E] codes; one of 0 sends no gradient back through the code.
        latent: [E] int64 latent of each code.
        row: [E] int64 row of each code.
        start: [B] int64 first code of each bag: of each row where not told otherwise.
        bag: [E] int64 bag of each code, where that is not its row.
        cut: the smallest code that was kept, where one bound serves all rows.
        inner: [E] what the variant wants to remember of each code.
    """

    value: Tensor
    latent: Tensor
    row: Tensor
    start: Tensor
    bag: Tensor | None = None
    cut: float | None = None
    inner: Tensor | None = None

    @staticmethod
    def of_slots(value: Tensor, index: Tensor) -> Active:
        """Codes that fill K slots in every row, [N, K]."""
        n, k = value.shape
        start = torch.arange(0, n * k, k, device=value.device)
        row = torch.arange(n, device=value.device).repeat_interleave(k)
        return Active(value.reshape(-1), index.reshape(-1), row, start)

    @staticmethod
    def of_entries(value: Tensor, latent: Tensor, row: Tensor, n: int, **more: Any) -> Active:
        """Codes [E] of N = `n` rows, in ascending order of rows."""
        return Active(value, latent, row, starts(row, n), **more)


def starts(bag_of: Tensor, n: int) -> Tensor:
    """[n] first of the entries of each bag, from the ascending bag [E] of every entry."""
    count = torch.bincount(bag_of, minlength=n)
    return count.cumsum(0) - count


@dataclass(frozen=True)
class Back:
    """What flows back from the loss; a factor 2 / size is still to come where it says so.

    Args:
        residual: [N, D] y_hat - y.
        table: [B, D] half the gradient with respect to what each bag decodes to, times size.
        to_base: [N, D] the same for what is added to all codes: the decoder's bias and the skip connection.
        along: [E] inner product of each code's decoder row with its bag's row of the table.
        to_pre: [E] gradient with respect to each code's W_enc c.
        own: [E] per code, the gradient of other parameters of its latent, by their names. `b_enc` is among them where its gradient
            is not the sum of `to_pre`.
    """

    residual: Tensor
    table: Tensor
    to_base: Tensor
    along: Tensor
    to_pre: Tensor
    own: Mapping[str, Tensor] = field(default_factory=dict)


class Objective(ABC):
    """What tells one kind of sparse autoencoder from another: which codes are active, and what is minimised."""

    #: Names of the weights it trains besides the usual ones.
    own: ClassVar[tuple[str, ...]] = ()
    #: This rank's share of the work.
    work: Work = ByRows()
    #: Whether pre-activations are formed in bfloat16, to be scored again where it matters.
    bf16: bool = False

    def begin(self, weights: Weights, c: Tensor, *, is_fresh: bool) -> Weights:
        """Weights with those of its own that are missing.

        Args:
            weights: the others.
            c: this rank's centred rows [N, D_in] of the first batch.
            is_fresh: whether they are random, else those of a fit that is gone on with.
        """
        return weights

    def outer(self, weights: Weights) -> Weights:
        """Weights as an encoder reads them, from those that are trained."""
        return weights

    @abstractmethod
    def active(self, c: Tensor, weights: Weights) -> Active:
        """The active codes of centred rows c [N, D_in]."""

    def back(self, active: Active, base: Tensor, weights: Weights, size: int) -> Back:
        """Gradients for rows whose y_hat is the decoded codes plus base [N, D], measured from y. Squared error, no penalty."""
        residual, along = self.reconstruct(active, base, weights.W_dec)
        to_pre = (along * (2 / size)).masked_fill_(active.value == 0, 0)  # dL/da, none through the rectifier
        return Back(residual, residual, residual, along, to_pre)

    def reconstruct(self, active: Active, base: Tensor, W_dec: Tensor, value: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The residual y_hat - y [N, D], and its product [E] with the decoder row of each code.

        Args:
            active: the codes.
            base: [N, D] y_hat - y without them.
            W_dec: [M, D].
            value: [E] other values for the same codes.
        """
        decoded, products = decode(active, W_dec, active.value if value is None else value)
        self.work.add_up(decoded)
        residual = decoded.add_(base)
        return residual, products(residual)

    def n_parts(self, n: int) -> int:
        """In how many parts n rows are worked on, one after the other; more than one only where rows do not depend on each other."""
        return 1

    def settle(self, parameters: dict[str, Tensor]) -> None:  # noqa: B027 (most have nothing to do)
        """Bring the variant's own parameters back to where they may be, after a step; in place."""

    def steer(self, l0: Tensor, progress: float) -> None:  # noqa: B027
        """Take note of the mean number of codes of a batch; `progress` is the share of the training that is done."""

    @abstractmethod
    def encoder(self, weights: Weights, center: Tensor, threshold: float) -> Encoder:
        """The encoder that goes with trained weights; `center` is what it subtracts, `threshold` the running mean of `Active.cut`."""

    def record(self) -> dict[str, Any]:
        """What the fit's provenance should tell of the training."""
        return {}

    def state(self) -> dict[str, Any]:
        """What it has to remember from step to step."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Take over a state."""


def decode(active: Active, W_dec: Tensor, value: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """What each bag of codes decodes to [B, D] = W_dec^T a, and a function from [B, D] to the products [E] with each code's decoder row.

    Autograd's rule for the weights of an embedding bag is the kernel that takes E dot products of rows without gathering them.
    """
    free = value.detach().requires_grad_()
    with torch.enable_grad():
        decoded = bag(W_dec, active.latent, active.start, free)

    def products(table: Tensor) -> Tensor:
        (along,) = torch.autograd.grad(decoded, free, table)
        return along

    return decoded.detach(), products


def gradients(sample: Sample, objective: Objective, weights: Weights, *, size: int) -> tuple[Weights, Active, Tensor]:
    """Gradient of the loss, the active codes, and the residual y_hat - y [N, D].

    Args:
        sample: the rows.
        objective: the variant.
        weights: the parameters.
        size: what the sum over rows is divided by: the batch's nominal size, so that a last, smaller batch counts for less.
    """
    c = sample.centred(weights)  # [N, D_in]
    active = objective.active(c, weights)
    back = objective.back(active, _base(sample, c, weights), weights, size)
    return _sum_up(sample, active, back, weights, size=size, counts_rows=objective.work.counts_rows), active, back.residual


def _base(sample: Sample, c: Tensor, weights: Weights) -> Tensor:
    """[N, D] y_hat - y without the codes' share."""
    base = -c if sample.is_own else weights.b_dec - sample.y  # the two b_dec of an autoencoder cancel
    return base if weights.W_skip is None else base.addmm_(sample.x, weights.W_skip)


def _sum_up(sample: Sample, active: Active, back: Back, weights: Weights, *, size: int, counts_rows: bool) -> Weights:
    """The gradient of every parameter: sums over each latent's codes, and over the rows where this rank counts them."""
    c = sample.centred(weights)
    order, start = column_order(active.latent, len(weights.W_enc))
    scale, ones = 2 / size, torch.ones_like(back.to_pre)
    d_W_dec = bag(
        back.table, (active.row if active.bag is None else active.bag)[order], start, active.value[order] * scale
    )  # [M, D] = a^T dL/dy_hat
    d_W_enc = bag(c, active.row[order], start, back.to_pre[order])  # [M, D_in] = (dL/dp)^T c
    summed = {name: bag(each[:, None], order, start, ones)[:, 0] for name, each in {"b_enc": back.to_pre, **back.own}.items()}
    scale = scale if counts_rows else 0.0
    d_b_dec = back.to_base.sum(0) * scale
    if sample.is_own:  # b_dec is added to the output and subtracted from the input; that path is one product of [M] and [M, D]
        along = summed["b_enc"] if "b_enc" not in back.own else bag(back.to_pre[:, None], order, start, ones)[:, 0]
        d_b_dec = d_b_dec - along @ weights.W_enc
    d_W_skip = None if weights.W_skip is None else sample.x.T @ back.to_base * scale
    return Weights(W_enc=d_W_enc, W_dec=d_W_dec, b_dec=d_b_dec, W_skip=d_W_skip, **summed)
