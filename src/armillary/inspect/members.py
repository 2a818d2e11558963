"""Members: rows drawn uniformly from those that belong to each region of a mixture, in one pass.

A row belongs to its most responsible region. The draw keeps the rows of smallest keyed hash, so it does not depend on the order or the
batches.

Letters: N rows, F regions, f regions asked for, n rows drawn per region.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from armillary.core.decomposition import Decomposition
from armillary.core.encoders import MixtureEncoder
from armillary.core.rows import Rows, as_rows
from armillary.core.run import drive
from armillary.core.tokens import Ints
from armillary.errors import InputError
from armillary.inspect.best import Best, Pairs
from armillary.inspect.regions import chosen_regions
from armillary.inspect.search import Search


@dataclass(frozen=True)
class Members:
    """Drawn members of some regions; rows are -1 where a region has fewer.

    Args:
        regions: [f] which.
        row: [f, n] rows in the order of the draw.
        n_members: [f] rows that belong to each.
    """

    regions: Ints
    row: Ints
    n_members: Ints

    def of(self, region: int, n: int | None = None) -> Ints:
        """The rows drawn from a region, or the first n of them; in stored order."""
        found = self.row[int(np.flatnonzero(self.regions == region)[0])]
        return np.sort(found[found >= 0][:n])

    def number(self, region: int) -> int:
        """How many rows belong to a region."""
        return int(self.n_members[self.regions == region][0])


def mixture_of(fit: Decomposition) -> MixtureEncoder:
    """The encoder of a fit that has regions.

    Raises:
        InputError: it has none.
    """
    if not isinstance(fit.encoder, MixtureEncoder):
        raise InputError(f"{fit!r} is no mixture: it has no regions that rows belong to; fit one, such as arm.MFA")
    return fit.encoder


def check_region(fit: Decomposition, region: int) -> None:
    """Raise `InputError` where a fit does not have a region."""
    if not 0 <= region < fit.n_features:
        raise InputError(f"region {region} is out of range: there are {fit.n_features} (0 to {fit.n_features - 1})")


def members(
    fit: Decomposition, rows: Rows | Tensor, n: int, *, regions: Sequence[int] | None = None, batch_size: int = 4096, seed: int = 0
) -> Members:
    """Draw up to n members of each region; special tokens are left out.

    Args:
        fit: a mixture.
        rows: where to look.
        n: rows per region.
        regions: only these, each once; all if None.
        batch_size: rows per batch.
        seed: of the draw.

    Raises:
        InputError: another kind of fit, a region that is not there, or n below 1.
        ShapeError: the rows do not hold what the fit reads.
    """
    read = as_rows(rows)
    search = MemberSearch(fit, read, n, regions=regions, batch_size=batch_size, seed=seed)
    with torch.no_grad():
        drive([search], read, title="members")
    return search.finish()


class MemberSearch(Search):
    """The draw as a consumer, so that it can share a pass; arguments as of `members`."""

    def __init__(self, fit: Decomposition, rows: Rows, n: int, *, regions: Sequence[int] | None, batch_size: int, seed: int) -> None:
        if n < 1:
            raise InputError(f"at least one row per region has to be drawn, got {n}")
        super().__init__(fit, rows, chosen_regions(fit, regions), batch_size=batch_size, seed=seed)
        self.encoder, self.best = mixture_of(fit), {"drawn": Best(len(self.features), n)}

    def look(self, x: Tensor, row: Ints) -> None:
        place = self.place[self.encoder.regions(x.to(self.fit.dictionary.atoms.dtype)).cpu().numpy()]
        place, row = place[place >= 0], row[place >= 0]
        self.add(place)
        score = -self.priority(row).astype(np.float64)
        self.best["drawn"].offer(Pairs(place, row, score, np.zeros(len(row)), np.full(len(row), -1, dtype=np.int64)))

    def finish(self) -> Members:
        self.settle()
        return Members(self.features, self.best["drawn"].row, self.count.numpy())
