"""Plan: what a fit will hold in memory, said before it begins.

The largest of three moments counts: the sample, as it is drawn, or as it was read and as it is worked on; EM on it, with the mixture as it
is, three earlier ones that a leap and a move go back to, and two sets of sums; or the passes over all rows, with two mixtures, two sets of
sums and a batch.

Letters: K regions of this rank, D width, R rank.
"""

from __future__ import annotations

from dataclasses import dataclass

from armillary.methods.mfa.gate import CHUNK
from armillary.methods.mfa.mixture import KEPT, PART, TOGETHER

FLOAT, DOUBLE = 4, 8
#: Parts of a batch, and of regions, that are worked on at the same time.
BATCHES, PARTS = 3, 8


@dataclass(frozen=True)
class Sizes:
    """What decides how much is held.

    Args:
        n_regions: K, of this rank.
        rank: R.
        d: D.
        n_in_memory: rows of the sample.
        n_batch: rows of a batch that this rank works on.
    """

    n_regions: int
    rank: int
    d: int
    n_in_memory: int
    n_batch: int


def memory(sizes: Sizes) -> dict[str, int]:
    """Bytes by what they are for."""
    k, r, d = sizes.n_regions, sizes.rank, sizes.d
    mixture, sums = FLOAT * k * d * (r + 1), DOUBLE * k * (d * (r + 1) + r * (r + 2))
    kept = mixture if k * d * r <= KEPT else 0  # what densities of all regions are computed from
    work = 4 * FLOAT * (CHUNK + TOGETHER) + PARTS * DOUBLE * min(PART, k * d * (r + 1))
    rows = FLOAT * sizes.n_in_memory * d
    begun = {"rows": int(2.5 * rows), "work": work}
    solved = {"rows": rows, "mixtures": 4 * mixture + 2 * kept, "sums": 2 * sums, "work": work}
    passes = {"rows": BATCHES * FLOAT * sizes.n_batch * d, "mixtures": 2 * mixture + kept, "sums": 2 * sums, "work": work}
    return max((begun, solved, passes), key=lambda one: sum(one.values()))
