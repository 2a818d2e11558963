"""Overlap: how much of two regions lies at the same place, as the Bhattacharyya coefficient exp(-D_B), 0 to 1 (Kailath 1967).

    D_B = 1/8 d^T S^-1 d + 1/2 log(|S| / sqrt(|C_i| |C_j|)),  S = (C_i + C_j) / 2,  d = mu_i - mu_j

by Woodbury's identity on their 2 R loadings.

Letters: D width, K regions, R rank, p pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from armillary.methods.mfa.mixture import Mixture

#: Entries of the largest temporary array, 64 MB in float64.
CHUNK = 1 << 23


def coefficients(mixture: Mixture, one: Tensor, other: Tensor) -> Tensor:
    """[p] Bhattacharyya coefficients of pairs of regions [p], [p], float64. Weights do not count."""
    m = mixture
    log_det = m.noise.double().log().sum(1).expand(m.n_regions) + 2 * m.cholesky.diagonal(dim1=1, dim2=2).log().sum(1)  # log |C| [K]
    psi = m.noise.expand(m.n_regions, -1)
    size = max(1, CHUNK // (2 * m.rank * m.d))
    out = []
    for i, j in zip(torch.split(one, size), torch.split(other, size), strict=True):
        noise = (psi[i].double() + psi[j].double()) / 2  # [p, D]
        w = torch.cat([m.loadings[i], m.loadings[j]], dim=1).double() / (2 * noise).sqrt()[:, None]  # [p, 2 R, D]
        d = (m.centroids[i].double() - m.centroids[j].double()) / noise.sqrt()  # [p, D]
        factor = torch.linalg.cholesky(w @ w.mT + torch.eye(2 * m.rank, dtype=w.dtype, device=w.device))
        inside = torch.linalg.solve_triangular(factor, (w @ d[:, :, None]), upper=False)[:, :, 0]
        distance = d.square().sum(1) - inside.square().sum(1)
        both = noise.log().sum(1) + 2 * factor.diagonal(dim1=1, dim2=2).log().sum(1)
        out.append(torch.exp(-(distance / 8 + (both - (log_det[i] + log_det[j]) / 2) / 2)))
    return torch.cat(out) if out else m.noise.new_zeros(0, dtype=torch.float64)
