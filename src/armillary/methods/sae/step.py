"""One training step of a sparse autoencoder in closed form: no autograd graph, no dense code matrix.

    c = x - b_dec        a = selected and rectified codes of W_enc c + b_enc        x_hat = W_dec^T a + b_dec
    L = sum over rows |x_hat - x|^2 / size  +  AuxK

Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (arXiv 2406.04093): eq. 3 and 4, AuxK in appendix A.2.

Letters: N rows, D width, M latents, E active codes in all, m dead latents, K slots.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from armillary.core.encoders import Encoder
from armillary.core.onednn import linear
from armillary.methods.sae.encoders import TopKEncoder
from armillary.methods.sae.kernels import bag, column_order, topk_linear, topk_rows

#: Rows whose codes of dead latents are formed at once.
AUX_ROWS = 1024
#: Rows of a gradient that are projected at once, few enough to stay in cache.
PROJECTED_ROWS = 1024


@dataclass(frozen=True)
class Weights:
    """The parameters of an autoencoder, or a gradient for each of them.

    Args:
        W_enc, W_dec: [M, D], one row per latent.
        b_enc: [M].
        b_dec: [D].
    """

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All four, in the order of the arguments."""
        return self.W_enc, self.b_enc, self.W_dec, self.b_dec


@dataclass(frozen=True)
class Active:
    """The codes of some rows that may differ from zero, row after row.

    Args:
        value: [E] codes; one of 0 sends no gradient back.
        latent: [E] int64 latent of each code.
        row: [E] int64 row of each code, ascending.
        start: [N] int64 first code of each row.
        cut: the smallest code that was kept, where one bound serves all rows.
    """

    value: Tensor
    latent: Tensor
    row: Tensor
    start: Tensor
    cut: float | None = None

    @staticmethod
    def of_slots(value: Tensor, index: Tensor) -> Active:
        """Codes that fill K slots in every row, [N, K]."""
        n, k = value.shape
        start = torch.arange(0, n * k, k, device=value.device)
        row = torch.arange(n, device=value.device).repeat_interleave(k)
        return Active(value.reshape(-1), index.reshape(-1), row, start)


class Selection(ABC):
    """Which codes of a row are active: what tells one kind of sparse autoencoder from another."""

    @abstractmethod
    def active(self, c: Tensor, weights: Weights) -> Active:
        """The active codes of centred rows c [N, D]."""

    @abstractmethod
    def encoder(self, weights: Weights, threshold: float) -> Encoder:
        """The encoder that goes with trained weights; `threshold` is the running mean of `Active.cut`."""


@dataclass(frozen=True)
class TopK(Selection):
    """The k largest codes of each row."""

    k: int

    def active(self, c: Tensor, weights: Weights) -> Active:
        value, index = topk_linear(c, weights.W_enc, weights.b_enc, self.k)
        return Active.of_slots(value.relu_(), index)

    def encoder(self, weights: Weights, threshold: float) -> Encoder:
        return TopKEncoder(weights.W_enc, weights.b_enc, weights.b_dec, self.k)


@dataclass(frozen=True)
class Dead:
    """The latents AuxK is to revive.

    Args:
        latent: [m] int64.
        k: codes among them kept per row.
        weight: the loss's coefficient (alpha).
    """

    latent: Tensor
    k: int
    weight: float


def gradients(c: Tensor, active: Active, weights: Weights, *, size: int, dead: Dead | None = None) -> tuple[Weights, Tensor]:
    """Gradient of the loss for centred rows c [N, D], and the residual x_hat - x [N, D].

    Args:
        c: rows less the decoder's bias.
        active: their codes.
        weights: the parameters.
        size: what the sum over rows is divided by: the batch's nominal size, so that a last, smaller batch counts for less.
        dead: adds the AuxK loss for these latents.
    """
    residual, along = _reconstruct(c, active, weights.W_dec)
    to_code = (along * (2 / size)).masked_fill_(active.value == 0, 0)  # [E] = dL/da, none through the rectifier
    order, start = column_order(active.latent, len(weights.W_enc))
    row = active.row[order]
    d_W_dec = bag(residual, row, start, active.value[order] * (2 / size))  # [M, D] = a^T dL/dx_hat
    d_W_enc = bag(c, row, start, to_code[order])  # [M, D] = (dL/da)^T c
    d_b_enc = bag(to_code[:, None], order, start, torch.ones_like(to_code))[:, 0]  # [M] = sum of dL/da
    if dead is not None:
        _add_auxk(Weights(d_W_enc, d_b_enc, d_W_dec, weights.b_dec), c, residual, weights, size=size, dead=dead)
    # b_dec is added to the output and subtracted from the input; the second path is one product of [M] and [M, D].
    d_b_dec = residual.sum(0) * (2 / size) - d_b_enc @ weights.W_enc  # [D]
    return Weights(d_W_enc, d_b_enc, d_W_dec, d_b_dec), residual


def _reconstruct(c: Tensor, active: Active, W_dec: Tensor) -> tuple[Tensor, Tensor]:
    """The residual x_hat - x [N, D], and its product [E] with the decoder row of each code.

    Autograd's rule for the weights of an embedding bag is the kernel that takes E dot products of rows without gathering them.
    """
    value = active.value.detach().requires_grad_()
    with torch.enable_grad():
        decoded = bag(W_dec, active.latent, active.start, value)  # [N, D] = W_dec^T a
    residual = decoded.detach().sub_(c)  # the two b_dec cancel
    (along,) = torch.autograd.grad(decoded, value, residual)
    return residual, along


def _add_auxk(into: Weights, c: Tensor, residual: Tensor, weights: Weights, *, size: int, dead: Dead) -> None:
    """Add the gradient of alpha * |e - e_hat|^2 / size, with e = x - x_hat held fixed and e_hat decoded from the top dead latents.

    Their codes are not rectified (as in sparsify and SAELens): a latent whose codes are negative on all rows would get no gradient and
    stay dead. Every product is m wide, not M.
    """
    W_enc, b_enc, W_dec = weights.W_enc[dead.latent], weights.b_enc[dead.latent], weights.W_dec[dead.latent]
    d_W_enc, d_b_enc, d_W_dec = torch.zeros_like(W_enc), torch.zeros_like(b_enc), torch.zeros_like(W_dec)
    across = W_dec.T.contiguous()  # [D, m]
    for rows, missed in zip(torch.split(c, AUX_ROWS), torch.split(residual, AUX_ROWS), strict=True):
        a = _keep_top(linear(rows, W_enc, b_enc), dead.k)  # [n, m]
        to_row = (linear(a, across) + missed).mul_(2 * dead.weight / size)  # [n, D] = dL/de_hat, as e_hat - e = W_dec^T a + residual
        to_code = linear(to_row, W_dec).masked_fill_(a == 0, 0)  # [n, m]
        d_W_dec += linear(a.T.contiguous(), to_row.T.contiguous())
        d_W_enc += linear(to_code.T.contiguous(), rows.T.contiguous())
        d_b_enc += to_code.sum(0)
    for total, part in ((into.W_enc, d_W_enc), (into.b_enc, d_b_enc), (into.W_dec, d_W_dec)):
        total.index_add_(0, dead.latent, part)


def _keep_top(p: Tensor, k: int) -> Tensor:
    """p [n, m] with all but the k largest entries of each row set to 0."""
    if k >= p.shape[1]:
        return p
    value, index = topk_rows(p, k)
    return torch.zeros_like(p).scatter_(1, index, value)


def project_off(gradient: Tensor, rows: Tensor) -> None:
    """Remove from each row of `gradient` [M, D] its part along the same row of `rows` [M, D], which have norm 1, in place."""
    for part, axis in zip(torch.split(gradient, PROJECTED_ROWS), torch.split(rows, PROJECTED_ROWS), strict=True):
        part.addcmul_(torch.linalg.vecdot(part, axis)[:, None], axis, value=-1)


def normalise(rows: Tensor) -> None:
    """Give every row [M, D] norm 1, in place."""
    rows.div_(rows.norm(dim=1, keepdim=True).clamp_min_(torch.finfo(rows.dtype).tiny))
