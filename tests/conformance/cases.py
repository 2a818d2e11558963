"""The methods under test, each with rows made for it. Adding a line to `CASES` buys a method the whole suite.

Letters: N rows, D width, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from armillary.core.artifact import take_apart
from armillary.core.decomposition import Decomposition
from armillary.core.method import Labelled, Method
from armillary.core.pairs import Pairs
from armillary.core.rows import Batch, Layout, Rows, TensorRows, batch_indices
from armillary.methods.convex_nmf import ConvexNMF
from armillary.methods.das import DAS
from armillary.methods.diffmeans import DiffMeans
from armillary.methods.ica import ICA
from armillary.methods.kmeans import KMeans
from armillary.methods.mfa.method import MFA
from armillary.methods.nmf import NMF
from armillary.methods.pca import PCA
from armillary.methods.probe import Probe
from armillary.methods.sae.abs_topk import AbsTopKSAE
from armillary.methods.sae.archetypal import ArchetypalSAE
from armillary.methods.sae.batch_topk import BatchTopKSAE
from armillary.methods.sae.gated import GatedSAE
from armillary.methods.sae.jump_relu import JumpReLUSAE
from armillary.methods.sae.matryoshka import MatryoshkaSAE
from armillary.methods.sae.relu import ReLUSAE
from armillary.methods.sae.topk import TopKSAE
from armillary.methods.snmf.semi_nmf import SemiNMF
from conformance import planted
from conformance.planted import Planted
from planted_lm import plane_pairs

#: Two batches of the default size and one row, so that passes have several batches and a rank's share can be empty.
N = 8193


@dataclass(frozen=True)
class Case:
    """A method and its planted rows.

    Args:
        name: what the test is called.
        method: small enough to fit in well under a second.
        plant: makes the rows.
        score: of a fit against the truth, 1 for perfect.
        enough: the score that counts as recovered.
    """

    name: str
    method: Method
    plant: Callable[[], Planted]
    score: Callable[[Decomposition, Planted], float]
    enough: float = 0.99

    @property
    def data(self) -> Planted:
        return _planted(self.plant)

    @property
    def x(self) -> Tensor:
        return self.data.x

    def given(self, rows: Rows | Tensor | NDArray[Any]) -> Rows | Labelled | Pairs | Tensor | NDArray[Any]:
        """Rows as this method takes them: with their labels, or with pairs they are the sources of, if it is supervised."""
        if self.method.needs == "rows":
            return rows
        assert self.data.labels is not None
        n = rows.n_rows if isinstance(rows, Rows) else len(rows)
        assert n is not None
        labels = np.resize(self.data.labels, n)
        return Labelled.of(rows, labels) if self.method.needs == "labelled" else plane_pairs(rows, labels)

    def fit(self, rows: Rows | Tensor | NDArray[Any] | None = None, *, seed: int = 0, **settings: Any) -> Decomposition:
        return self.method.fit(self.given(self.x if rows is None else rows), seed=seed, **settings)


@cache
def _planted(plant: Callable[[], Planted]) -> Planted:
    return plant()


def _directions(fit: Decomposition, data: Planted) -> float:
    return planted.match(fit.dictionary.atoms, data.parts)


def _signed(fit: Decomposition, data: Planted) -> float:
    return planted.match(fit.dictionary.atoms, data.parts, signed=True)


def _centres(fit: Decomposition, data: Planted) -> float:
    return 1 - planted.distance(fit.dictionary.atoms, data.parts) / 3


def _difference(fit: Decomposition, data: Planted) -> float:
    return planted.match(fit.dictionary.atoms, data.parts[1:] - data.parts[:1], signed=True)


def _axes() -> Planted:
    return planted.axes(N)


def _sources() -> Planted:
    return planted.sources(N)


def _clusters() -> Planted:
    return planted.clusters(N)


def _regions() -> Planted:
    return planted.regions(N)


def _centroids_and_axes(fit: Decomposition, data: Planted) -> float:
    """The worse of how well centroids and loadings are found."""
    k = fit.n_features
    role = fit.dictionary.role
    centroids = planted.match(fit.dictionary.atoms[role == 1], data.parts[:k], signed=True)
    return min(centroids, planted.match(fit.dictionary.atoms[role == 2], data.parts[k:]))


def _sparse() -> Planted:
    return planted.sparse(N)


def _lone() -> Planted:
    return planted.sparse(N, k=1)


def _two_ended() -> Planted:
    return planted.two_ended(N)


def _groups() -> Planted:
    return planted.groups(N)


def _unsigned() -> Planted:
    return planted.groups(N, is_signed=False)


def _classes() -> Planted:
    return planted.classes(N)


def _values() -> Planted:
    return planted.values(N)


def _corners() -> Planted:
    return planted.corners(N)


def _plane(fit: Decomposition, data: Planted) -> float:
    """The smaller cosine between the two planes."""
    return float(torch.linalg.svdvals(fit.dictionary.atoms @ data.parts.T).min())


CASES = [
    Case("pca", PCA(n_components=3), _axes, _directions),
    Case("ica", ICA(n_components=3, max_rows=5000), _sources, _directions),
    Case("kmeans", KMeans(n_features=6, batch_size=512, max_rows=2000), _clusters, _centres, enough=0.98),
    Case(
        "kmeans-minibatch",
        KMeans(n_features=6, batch_size=512, max_rows=2000, n_epochs=5, algorithm="minibatch"),
        _clusters,
        _centres,
        enough=0.98,
    ),
    Case("topk-sae", TopKSAE(n_features=16, k=2, n_steps=150, batch_size=512, lr=3e-2), _sparse, _signed, enough=0.97),
    Case("abs-topk-sae", AbsTopKSAE(n_features=24, k=2, n_steps=150, batch_size=512, lr=3e-2), _two_ended, _directions, enough=0.97),
    Case("batch-topk-sae", BatchTopKSAE(n_features=16, k=2, n_steps=150, batch_size=512, lr=3e-2), _sparse, _signed, enough=0.97),
    Case("jumprelu-sae", JumpReLUSAE(n_features=24, l0=2, n_steps=500, batch_size=512, lr=5e-3), _sparse, _signed, enough=0.95),
    Case("relu-sae", ReLUSAE(n_features=24, l0=4, n_steps=200, batch_size=512, lr=2e-2), _sparse, _signed, enough=0.95),
    Case("relu-sae-annealed", ReLUSAE(n_features=24, l0=4, p_end=0.5, n_steps=200, batch_size=512, lr=2e-2), _sparse, _signed, enough=0.95),
    Case("gated-sae", GatedSAE(n_features=24, l0=2, n_steps=200, batch_size=512, lr=1e-2), _sparse, _signed, enough=0.95),
    Case("matryoshka-sae", MatryoshkaSAE(n_features=16, k=2, n_steps=150, batch_size=512, lr=3e-2), _sparse, _signed, enough=0.94),
    Case("archetypal-sae", ArchetypalSAE(n_features=16, k=1, n_steps=200, batch_size=512, lr=3e-3), _lone, _signed, enough=0.95),
    Case("mfa", MFA(n_regions=4, rank=2, max_rows=2000, batch_size=512, n_passes=2), _regions, _centroids_and_axes, enough=0.98),
    Case(
        "mfa-per-region",
        MFA(n_regions=4, rank=2, noise="diagonal_per_region", gating=3, solver="em", max_rows=2000, batch_size=512, n_passes=2),
        _regions,
        _centroids_and_axes,
        enough=0.98,
    ),
    Case(
        "mfa-sharded",
        MFA(n_regions=4, rank=2, shard=True, gating=1, max_rows=2000, batch_size=512, n_passes=2),
        _regions,
        _centroids_and_axes,
        enough=0.98,
    ),
    Case(
        "mfa-adam",
        MFA(n_regions=4, rank=2, solver="adam", max_rows=2000, step_size=128, n_passes=2),
        _regions,
        _centroids_and_axes,
        enough=0.98,
    ),
    Case("semi-nmf", SemiNMF(n_features=12, neurons_per_feature=4, max_rows=2000, batch_size=512), _groups, _signed, enough=0.98),
    Case(
        "semi-nmf-priced",
        SemiNMF(n_features=12, neurons_per_feature=4, target_l0=2, max_rows=2000, batch_size=512, n_passes=2, n_init=2),
        _groups,
        _signed,
        enough=0.98,
    ),
    Case("nmf", NMF(n_features=12, max_rows=2000, batch_size=512), _unsigned, _signed, enough=0.95),
    Case("convex-nmf", ConvexNMF(n_features=6, n_points=300, max_rows=2000), _clusters, _signed, enough=0.95),
    Case("das", DAS(rank=2, lr=3e-2, n_epochs=4, batch_size=256), _corners, _plane),
    Case("diffmeans", DiffMeans(), _classes, _difference),
    Case("probe", Probe(max_rows=5000), _classes, _difference),
    Case("probe-ridge", Probe(kind="ridge"), _values, _signed),
]
BY_NAME = {case.name: case for case in CASES}


# ---------------------------------------------------------------- what is compared


def tensors(fit: Decomposition) -> dict[str, Tensor]:
    """Every tensor a fit consists of, by name."""
    found: dict[str, Tensor] = {}
    take_apart(fit, found)
    return found


def same_bits(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def fvu(fit: Decomposition, x: Tensor) -> float:
    """Share of the variance that is not explained, the objective that every decomposition has."""
    wide = x.double()
    return float((wide - fit.reconstruct(x.float()).double()).square().sum() / (wide - wide.mean(0)).square().sum())


# ---------------------------------------------------------------- other places for rows to come from


class Stream:
    """Rows that exist only while they are read, as those of a live model.

    Args:
        make: the rows [m, D] of the given indices [m].
        n: how many there are.
        d: D.
        is_counted: whether `n_rows` tells.
        before: called before each batch.
    """

    tokens = None

    def __init__(
        self,
        make: Callable[[NDArray[np.int64]], Tensor],
        n: int,
        d: int,
        *,
        is_counted: bool = True,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        self._make, self._n, self._before = make, n, before
        self.layout: Layout = ((None, d),)
        self.n_rows = n if is_counted else None
        self.record: Mapping[str, Any] = {"dtype": "stream"}
        self.n_batches = 0

    @staticmethod
    def of(x: Tensor, **settings: Any) -> Stream:
        """Of rows that are there already."""
        return Stream(lambda row: x[torch.from_numpy(row)], len(x), x.shape[1], **settings)

    def batches(
        self, size: int, *, seed: int | None = None, epoch: int = 0, skip: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        for row in batch_indices(self._n, size, seed=seed, epoch=epoch, skip=skip, rank=rank, world=world):
            self._before()
            self.n_batches += 1
            yield Batch(self._make(row), row)


__all__ = ["BY_NAME", "CASES", "Case", "N", "Stream", "TensorRows", "fvu", "same_bits", "tensors"]
