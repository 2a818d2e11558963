"""Criteria: how well a mixture describes the rows it was fitted to, less what its parameters cost.

    BIC (Schwarz 1978)    -2 log L + p log N
    AIC (Akaike 1974)     -2 log L + 2 p
    ICL (Biernacki, Celeux and Govaert 2000)    BIC with the likelihood of rows and their most responsible regions together

Letters: n, N rows, D width, K regions, p parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from armillary.core.columns import Columns, columns_for
from armillary.core.decomposition import Decomposition
from armillary.core.report import Estimate
from armillary.core.rows import Batch, as_rows
from armillary.core.run import drive
from armillary.core.statistics import Units, ratio_interval
from armillary.core.summary import OnePass, Summary
from armillary.methods.mfa.encoder import MFAEncoder
from armillary.methods.mfa.regions import mixture_of

#: Consecutive rows that make a unit of the bootstrap, and units at most; of more, some share one.
BLOCK, UNITS = 256, 1024


def n_parameters(fit: Decomposition) -> int:
    """Free parameters: weights, centroids, loadings that are not 0 up to rotation, and noise."""
    m = mixture_of(fit)
    k, d, ranks = m.n_regions, m.d, m.loadings.any(2).sum(1)  # [K]
    isotropic = bool((m.noise == m.noise[:, :1]).all())
    return (k - 1) + k * d + int((d * ranks - ranks * (ranks - 1) // 2).sum()) + (len(m.noise) if isotropic else m.noise.numel())


@dataclass(frozen=True)
class Criteria:
    """Of a fit on some rows, in nats, lower is better; intervals are over blocks of consecutive rows.

    Args:
        bic, aic, icl: see the module.
        log_likelihood: per row; higher is better.
        n_parameters: free ones.
    """

    bic: Estimate
    aic: Estimate
    icl: Estimate
    log_likelihood: Estimate
    n_parameters: int


def criteria(fit: Decomposition, rows: Any) -> Criteria:
    """BIC, AIC and ICL of a fit on the rows it was fitted to, from one pass.

    Raises:
        InputError: another kind of fit.
        ShapeError: the rows do not hold what the fit reads.
    """
    mixture_of(fit)
    read = as_rows(rows)
    reading = OnePass(_Likelihood(fit, columns_for(fit, read.layout)[0]), lambda sums: sums.units())
    drive([reading], read, title="log-likelihood")
    (likelihood, certain), n = reading.finish()
    p = n_parameters(fit)
    return Criteria(
        _scaled(likelihood, -2 * n, p * math.log(n), n),
        _scaled(likelihood, -2 * n, 2 * p, n),
        _scaled(certain, -2 * n, p * math.log(n), n),
        _scaled(likelihood, 1.0, 0.0, n),
        p,
    )


def _scaled(units: Units, times: float, plus: float, n: int) -> Estimate:
    """An estimate of times * mean + plus."""
    ends = [None if end is None else times * end + plus for end in ratio_interval(units)]
    low, high = sorted(ends) if None not in ends else (None, None)  # type: ignore[type-var]
    better: Literal["higher", "lower"] = "higher" if times > 0 else "lower"
    return Estimate(times * units.value + plus, low, high, n, better=better, unit="nats", units=units if times == 1 else None)


class _Likelihood(Summary):
    """Log-likelihoods of rows, and those of rows with their most responsible region, by blocks of consecutive rows.

    Args:
        fit: the mixture.
        columns: of the rows that it reads.
    """

    def __init__(self, fit: Decomposition, columns: Columns) -> None:
        self.fit, self.columns = fit, columns
        self.blocks = torch.zeros(UNITS, 3, dtype=torch.float64)  # rows, log-likelihood, the same with regions known

    @property
    def n_rows(self) -> int:
        return int(self.blocks[:, 0].sum())

    def update(self, batch: Batch) -> None:
        encoder = self.fit.encoder
        assert isinstance(encoder, MFAEncoder)
        x = batch.x[:, self.columns].to(encoder.mixture.centroids.device)
        total, known = (value.double().cpu() for value in encoder.evidence(x))
        block = torch.from_numpy(batch.row // BLOCK % UNITS)
        self.blocks.index_add_(0, block, torch.stack([torch.ones_like(total), total, known], dim=1))

    def state(self) -> dict[str, Any]:
        return {"blocks": self.blocks}

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        self.blocks = torch.stack([state["blocks"] for state in states]).sum(0)

    def units(self) -> tuple[tuple[Units, Units], int]:
        ids = np.flatnonzero(self.blocks[:, 0].numpy())
        n, total, known = self.blocks[torch.from_numpy(ids)].T.numpy()  # [U] each
        return (Units("block", ids, total, n), Units("block", ids, known, n)), self.n_rows
