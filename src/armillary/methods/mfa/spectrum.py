"""Spectrum: which axes of a region are more than noise, so that regions have ranks of their own.

Measured in units of the noise an axis of a region has variance 1 + s, s an eigenvalue of W diag(1 / psi) W^T. Of n rows of pure noise

    spectrum   the largest variance would be (1 + sqrt(D / n))^2 (Marchenko and Pastur 1967; Baik, Ben Arous and Peche 2005)
    bic        an axis raises the log-likelihood by n (s - log(1 + s)) / 2 and costs (D - r) / 2 log N, as it is the r-th (Schwarz 1978)

Axes that are not worth it are given up: a loading of 0 stays 0 under EM.

Letters: n rows of a region, N of all, D width, K regions, R rank.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from armillary.methods.mfa.mixture import Mixture
from armillary.methods.mfa.rotation import canonical, strengths

Selection = Literal["spectrum", "bic"]


def worth_keeping(mixture: Mixture, n_rows: int, how: Selection) -> Tensor:
    """[K, R] whether the axes of each region, strongest first, are more than noise.

    Args:
        mixture: fitted to rows.
        n_rows: N.
        how: see the module.
    """
    s = strengths(mixture)
    n = (mixture.log_weight.double().exp() * n_rows).clamp_min(1)[:, None]  # [K, 1]
    if how == "spectrum":
        return 1 + s > (1 + (mixture.d / n).sqrt()).square()
    cost = (mixture.d - torch.arange(mixture.rank, device=s.device)) * math.log(max(n_rows, 2))
    return (n * (s - torch.log1p(s)) > cost).cumprod(1).bool()


def of_own_rank(mixture: Mixture, n_rows: int, how: Selection) -> Mixture:
    """The mixture in canonical rotation, without the axes that are not worth keeping."""
    found = canonical(mixture)
    kept = worth_keeping(found, n_rows, how).to(found.loadings.dtype)
    return replace(found, loadings=found.loadings * kept[:, :, None])
