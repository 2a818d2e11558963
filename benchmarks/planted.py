"""Planted data with the four things that make real activations hard to take apart: rare parts, correlation, hierarchy and overlap.

    firing       the share of rows a part is in falls with its rank as a power law (Zipf), from one row in five to one in a few hundred
    correlation  parts come in groups that share a Gaussian factor, so that members fire together
    hierarchy    every fourth part is the child of another and fires in rows where its parent does only
    overlap      directions of a group lean towards a common one, at cosines of about 0.3

Magnitudes are 1 + |N(0, 0.5)|; a constant offset and noise worth 5 % of the variance are added.

Letters: N rows, D width, P parts, G parts of a group.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

#: Parts that share a factor and a common direction.
GROUP = 8
#: Correlation of the factors behind two parts of a group, and cosine of their directions.
CORRELATION, COSINE = 0.3, 0.3


@dataclass(frozen=True)
class World:
    """What rows are made of.

    Args:
        parts: [P, D] unit directions.
        share: [P] share of rows each is in; a child's is among those of its parent.
        parent: [P] number of each part's parent, -1 for none.
        offset: [D].
    """

    parts: NDArray[np.float32]
    share: NDArray[np.float64]
    parent: NDArray[np.int64]
    offset: NDArray[np.float32]

    @staticmethod
    def draw(n_parts: int, d: int, *, mean: float, seed: int) -> World:
        """A world in which about `mean` parts are in a row."""
        rng = np.random.default_rng(seed)
        own, common = _unit(rng.standard_normal((n_parts, d))), _unit(rng.standard_normal((-(-n_parts // GROUP), d)))
        parts = _unit(np.sqrt(1 - COSINE) * own + np.sqrt(COSINE) * common[np.arange(n_parts) // GROUP])
        share = rng.permutation(np.arange(1, n_parts + 1) ** -0.7)
        parent = np.full(n_parts, -1)
        child = np.arange(3, n_parts, 4)
        parent[child] = child - 3
        share[child] = np.maximum(share[child], 0.2)  # of its parent's rows
        alone = np.where(parent < 0, share, 0)
        expected = lambda s: (alone * s).sum() + (share[child] * (alone * s)[parent[child]]).sum()  # noqa: E731
        scale = mean / expected(1.0)
        share = np.where(parent < 0, np.minimum(0.5, share * scale), share)
        return World(parts.astype(np.float32), share, parent, (0.5 * rng.standard_normal(d)).astype(np.float32))

    def rows(self, n: int, *, seed: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Rows [N, D], and which parts each holds [N, P]."""
        rng = np.random.default_rng(seed)
        n_parts, d = self.parts.shape
        factor = rng.standard_normal((n, -(-n_parts // GROUP)))[:, np.arange(n_parts) // GROUP]
        noise = np.sqrt(CORRELATION) * factor + np.sqrt(1 - CORRELATION) * rng.standard_normal((n, n_parts))
        on = noise > ndtri(1 - self.share)
        is_child = self.parent >= 0
        on[:, is_child] &= on[:, self.parent[is_child]]
        x = (on * (1 + np.abs(rng.standard_normal((n, n_parts))) / 2)).astype(np.float32) @ self.parts
        x += np.sqrt(0.05 * x.var(0).mean()) * rng.standard_normal((n, d), dtype=np.float32)
        return (x + self.offset).astype(np.float32), on

    def write(self, folder: Path, n: int, *, seed: int, n_held_out: int = 8192) -> None:
        """rows.npy, held_out.npy, held_out_on.npy and parts.npy."""
        x, _ = self.rows(n, seed=2 * seed)
        held_out, on = self.rows(n_held_out, seed=2 * seed + 1)
        for name, value in (("rows", x), ("held_out", held_out), ("held_out_on", on), ("parts", self.parts)):
            np.save(folder / f"{name}.npy", value)


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
