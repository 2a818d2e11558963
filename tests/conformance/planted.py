"""Rows made from known parts, and how well a fit finds the parts again.

Letters: N rows, D width, M parts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor


@dataclass(frozen=True)
class Planted:
    """Rows and the truth about them.

    Args:
        x: [N, D] float32 rows.
        parts: [M, D] what they were made from: directions or centres.
        labels: [N] class or value of each row, or the part it belongs to.
    """

    x: Tensor
    parts: Tensor
    labels: NDArray[np.int64] | NDArray[np.float64] | None = None


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def orthonormal(m: int, d: int, seed: int) -> Tensor:
    """[M, D] orthonormal rows."""
    return torch.linalg.qr(torch.randn(d, m, generator=_generator(seed)))[0].T.contiguous()


def axes(n: int = 1200, d: int = 10, m: int = 3, *, seed: int = 0) -> Planted:
    """Gaussian rows with standard deviations M + 1, M, ..., 2 along orthonormal axes and 0.1 elsewhere, around a mean."""
    generator, parts = _generator(seed), orthonormal(m, d, seed)
    deviation = torch.arange(m + 1, 1, -1.0)
    x = torch.randn(n, m, generator=generator) * deviation @ parts + 0.1 * torch.randn(n, d, generator=generator)
    return Planted(x + torch.linspace(-1, 1, d), parts)


def regions(n: int, d: int = 10, k: int = 4, rank: int = 2, *, seed: int = 0) -> Planted:
    """Gaussian regions far apart, each spread along two axes of its own; the parts are their centroids and then their axes."""
    g = torch.Generator().manual_seed(seed)
    centres = 8 * torch.nn.functional.normalize(torch.randn(k, d, generator=g), dim=1)
    axes = torch.linalg.qr(torch.randn(k, d, rank, generator=g))[0].mT * torch.tensor([3.0, 2.0])[:rank, None]  # [k, rank, d]
    region = torch.randint(k, (n,), generator=g)
    inside = torch.einsum("nr,nrd->nd", torch.randn(n, rank, generator=g), axes[region])
    x = centres[region] + inside + 0.3 * torch.randn(n, d, generator=g)
    return Planted(x, torch.cat([centres, axes.flatten(0, 1)]))


def clusters(n: int = 1200, d: int = 10, m: int = 6, *, spread: float = 0.3, seed: int = 0) -> Planted:
    """Round clusters of equal size around centres of norm about 3."""
    generator = _generator(seed)
    centres = 3 * torch.nn.functional.normalize(torch.randn(m, d, generator=generator), dim=1)
    label = torch.randint(m, (n,), generator=generator)
    return Planted(centres[label] + spread * torch.randn(n, d, generator=generator), centres, label.numpy())


def sources(n: int = 2000, d: int = 8, m: int = 3, *, seed: int = 0) -> Planted:
    """Independent sources of unit variance (one uniform, the others Laplace) through a random mixing matrix [M, D]."""
    generator = _generator(seed)
    uniform = torch.rand(n, m, generator=generator) - 0.5
    laplace = -uniform.sign() * torch.log1p(-2 * uniform.abs()) / 2**0.5
    s = torch.cat([uniform[:, :1] * 12**0.5, laplace[:, 1:]], dim=1)  # [N, M]
    mixing = torch.randn(m, d, generator=generator)
    return Planted(s @ mixing + 0.01 * torch.randn(n, d, generator=generator) + 1.0, mixing)


def sparse(n: int = 3000, d: int = 16, m: int = 12, *, k: int = 2, seed: int = 0) -> Planted:
    """Positive combinations of exactly k of M unit directions that are nearly orthogonal."""
    generator = _generator(seed)
    parts = orthonormal(m, d, seed)
    chosen = torch.rand(n, m, generator=generator).topk(k, dim=1).indices  # [N, k]
    codes = torch.zeros(n, m).scatter(1, chosen, 1 + torch.rand(n, k, generator=generator))
    return Planted(codes @ parts + 0.5, parts)


def groups(n: int = 3000, d: int = 40, m: int = 12, *, entries: int = 4, k: int = 2, is_signed: bool = True, seed: int = 0) -> Planted:
    """Positive combinations of k of M directions with few entries each, signed or not, and a little noise that keeps the rows' sign."""
    generator = _generator(seed)
    where = torch.rand(m, d, generator=generator).topk(entries, dim=1).indices
    weight = 0.5 + torch.rand(m, entries, generator=generator)
    weight *= torch.where(torch.rand(m, entries, generator=generator) < 0.5 * is_signed, -1.0, 1.0)
    parts = torch.nn.functional.normalize(torch.zeros(m, d).scatter(1, where, weight), dim=1)
    chosen = torch.rand(n, m, generator=generator).topk(k, dim=1).indices  # [N, k]
    codes = torch.zeros(n, m).scatter(1, chosen, 1 + torch.rand(n, k, generator=generator))
    noise = 0.02 * torch.randn(n, d, generator=generator)
    return Planted(codes @ parts + (noise if is_signed else noise.abs()), parts)


def two_ended(n: int = 3000, d: int = 16, m: int = 12, *, k: int = 2, seed: int = 0) -> Planted:
    """As `sparse`, but every coefficient has either sign."""
    generator = _generator(seed)
    parts = orthonormal(m, d, seed)
    chosen = torch.rand(n, m, generator=generator).topk(k, dim=1).indices  # [N, k]
    sign = 2.0 * torch.randint(2, (n, k), generator=generator) - 1
    codes = torch.zeros(n, m).scatter(1, chosen, sign * (1 + torch.rand(n, k, generator=generator)))
    return Planted(codes @ parts + 0.5, parts)


def classes(n: int = 1200, d: int = 8, n_classes: int = 2, *, gap: float = 4.0, seed: int = 0) -> Planted:
    """Gaussian classes with one round covariance; `parts` are the class means."""
    generator = _generator(seed)
    means = gap * orthonormal(n_classes, d, seed)
    label = torch.randint(n_classes, (n,), generator=generator)
    return Planted(means[label] + torch.randn(n, d, generator=generator), means, label.numpy())


def values(n: int = 1200, d: int = 8, *, noise: float = 0.1, seed: int = 0) -> Planted:
    """Correlated rows x = s a + noise and the value s each was made from; `parts` is the direction a [1, D]."""
    generator = _generator(seed)
    a = torch.randn(1, d, generator=generator)
    s = torch.randn(n, 1, generator=generator)
    return Planted(s @ a + noise * torch.randn(n, d, generator=generator), a, s[:, 0].double().numpy())


def match(found: Tensor, truth: Tensor, *, signed: bool = False) -> float:
    """Mean |cosine| of the best one-to-one matching of [m, D] with [M, D]; `signed` counts a turned direction as wrong."""
    unit = torch.nn.functional.normalize
    cosine = (unit(truth.double(), dim=1) @ unit(found.double(), dim=1).T).numpy()
    score = cosine if signed else np.abs(cosine)
    return float(score[linear_sum_assignment(-score)].sum() / len(truth))


def distance(found: Tensor, truth: Tensor) -> float:
    """Largest distance of a true point [M, D] from its partner in the best one-to-one matching with [m, D]."""
    gap = torch.cdist(truth.double(), found.double()).numpy()
    return float(gap[linear_sum_assignment(gap)].max())


def corners(n: int, d: int = 10, *, seed: int = 0) -> Planted:
    """Gaussian rows labelled by the corner of a triangle, in a plane, that they lie nearest to; the parts are the plane's two axes."""
    from planted_lm import corners as of_triangle
    from planted_lm import plane

    parts, x = plane(d), torch.randn(n, d, generator=_generator(seed))
    return Planted(x, parts, (x @ parts.T @ of_triangle().T).argmax(1).numpy())
