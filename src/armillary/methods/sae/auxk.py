"""AuxK: dead latents are trained on what the living ones leave unexplained.

    L_aux = alpha |e - e_hat|^2        e = y - y_hat, held fixed        e_hat = W_dec^T (the k largest codes of dead latents)

Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (arXiv 2406.04093), appendix A.2.

Letters: N rows, D width, M latents, m dead latents.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from armillary.core.onednn import linear
from armillary.methods.sae.kernels import topk_rows
from armillary.methods.sae.ranks import Work
from armillary.methods.sae.step import Sample
from armillary.methods.sae.weights import Weights

#: Rows whose codes of dead latents are formed at once.
AUX_ROWS = 1024


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


def add_auxk(into: Weights, sample: Sample, residual: Tensor, weights: Weights, *, size: int, dead: Dead, work: Work) -> None:
    """Add the gradient of the loss above to `into`, in place.

    The codes are not rectified (as in sparsify and SAELens): a latent whose codes are negative on all rows would get no gradient and
    stay dead. Every product is m wide, not M.

    Args:
        into: gradients so far.
        sample: the rows.
        residual: [N, D] y_hat - y.
        weights: the parameters.
        size: what the sum over rows is divided by.
        dead: the latents.
        work: this rank's share; of latents shared among ranks each gets those of its own that are among the largest of all ranks'.
    """
    c = sample.centred(weights)
    W_enc, b_enc, W_dec = weights.W_enc[dead.latent], weights.b_enc[dead.latent], weights.W_dec[dead.latent]
    d_W_enc, d_b_enc, d_W_dec = torch.zeros_like(W_enc), torch.zeros_like(b_enc), torch.zeros_like(W_dec)
    across = W_dec.T.contiguous()  # [D, m]
    for rows, missed in zip(torch.split(c, AUX_ROWS), torch.split(residual, AUX_ROWS), strict=True):
        a = _keep_top(linear(rows, W_enc, b_enc), dead.k, work)  # [n, m]
        found = linear(a, across)
        work.add_up(found)
        to_row = (found + missed).mul_(2 * dead.weight / size)  # [n, D] = dL/de_hat, as e_hat - e = W_dec^T a + residual
        to_code = linear(to_row, W_dec).masked_fill_(a == 0, 0)  # [n, m]
        d_W_dec += linear(a.T.contiguous(), to_row.T.contiguous())
        d_W_enc += linear(to_code.T.contiguous(), rows.T.contiguous())
        d_b_enc += to_code.sum(0)
    for total, part in ((into.W_enc, d_W_enc), (into.b_enc, d_b_enc), (into.W_dec, d_W_dec)):
        total.index_add_(0, dead.latent, part)
    if sample.is_own:
        into.b_dec.sub_(d_b_enc @ W_enc)


def _keep_top(p: Tensor, k: int, work: Work) -> Tensor:
    """p [n, m] with all but the k largest entries of each row, over all ranks, set to 0."""
    value, index = topk_rows(p, min(k, p.shape[1]))
    keep = work.among_largest(value, k)
    if keep is None and k >= p.shape[1]:
        return p
    return torch.zeros_like(p).scatter_(1, index, value if keep is None else value * keep)
