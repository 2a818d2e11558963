"""Where a feature of several sites lies: a crosscoder's layers or models.

Letters: F features, S sites, D width of all sites together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from armillary.core.decomposition import Decomposition
from armillary.errors import InputError


def site_shares(fit: Decomposition) -> Tensor:
    """[F, S] share of each feature's squared norm at each of the sites it writes to, rows of every site scaled to one mean square.

    Source: the relative decoder norms of Lindsey et al. 2024, "Sparse crosscoders for cross-layer features and model diffing".

    Args:
        fit: one whose targets are several sites, such as a crosscoder; features are directions.

    Raises:
        InputError: it writes to one site only.
    """
    widths = [columns for _, columns in fit.targets]
    if len(widths) < 2:
        raise InputError(f"{fit!r} writes to one site; a crosscoder's features have shares, see docs/howto/transcoders.md")
    scales = fit.provenance.get("scales", [1.0] * len(widths))
    parts = torch.split(fit.dictionary.directions().double(), widths, dim=1)
    squares = torch.stack([part.square().sum(1) * scale**2 for part, scale in zip(parts, scales, strict=True)], dim=1)
    return squares / squares.sum(1, keepdim=True).clamp_min(torch.finfo(squares.dtype).tiny)
