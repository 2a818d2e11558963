"""Start: the codes that a factorisation begins from. Atoms are then their least squares fit.

    als      uniform random codes, and least squares for the atoms in the first iterations
    random   uniform random codes, and exact updates from the first iteration
    kmeans   1 on the nearest centroid, plus 0.2, so that zeros can grow (Ding, Li and Jordan 2010, section 3.4)
    svd      the size of the rows' coordinates on the first principal axes, through the origin, by randomised subspace iteration

Letters: n rows, D neurons, F features.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Init = Literal["als", "random", "kmeans", "svd"]

#: Added to one-hot codes.
OFFSET = 0.2
#: Further axes, and rounds of iteration, of the randomised decomposition.
EXTRA_AXES, ROUNDS = 10, 4


def first_codes(x: Tensor, n_features: int, init: Init, seed: int) -> Tensor:
    """Y [F, n] for rows x [n, D]."""
    if init == "kmeans":
        return _by_cluster(x, n_features, seed)
    codes = torch.rand(n_features, len(x), generator=torch.Generator().manual_seed(seed)).to(x.device)
    if init == "svd":
        found = _along_axes(x, n_features, seed)
        codes[: len(found)] = found  # more features than the rows have dimensions begin at random
    return codes


def _by_cluster(x: Tensor, n_features: int, seed: int) -> Tensor:
    from armillary.core.encoders import nearest_centroid
    from armillary.methods.kmeans import seeds

    centroids = seeds(x.cpu(), n_features, 1, seed).to(x)
    nearest = nearest_centroid(x, centroids)
    return torch.nn.functional.one_hot(nearest, n_features).T.to(x) + OFFSET


def _along_axes(x: Tensor, n_features: int, seed: int) -> Tensor:
    """[at most F, n] sizes of the coordinates, each divided by its root mean square."""
    n, d = x.shape
    rank = min(n_features, n, d)
    generator = torch.Generator().manual_seed(seed)
    axes = torch.randn(d, min(rank + EXTRA_AXES, d), generator=generator).to(x)
    for _ in range(ROUNDS):
        axes = torch.linalg.qr(x.T @ (x @ axes))[0]
    left, size, _ = torch.linalg.svd(x @ axes, full_matrices=False)
    found: Tensor = (left[:, :rank] * (size[:rank] > 0)).abs().T * n**0.5
    return found
