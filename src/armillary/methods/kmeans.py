"""k-means: every row is told by the nearest of F centroids.

Seeds: greedy k-means++ (Arthur and Vassilvitskii 2007, section 2.2, with the best of several candidates per step), the best of several
starts on a sample. Then either Lloyd's iteration (1982), exact over all rows, or mini-batches with a learning rate of 1 / count per
centroid (Sculley 2010, "Web-scale k-means clustering", algorithm 1).

Both keep sums and counts per cluster, and a centroid is their quotient: after every pass (Lloyd) or after every batch (Sculley).

Letters: n rows of a batch or sample, D width, F clusters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, final

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from armillary.core import distributed
from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import Dictionary
from armillary.core.encoders import NearestEncoder, nearest_centroid
from armillary.core.method import Consumer, Method, Pass, one_to_one, require_rows
from armillary.core.rows import Batch, Layout, Rows, width
from armillary.core.summary import Reservoir, group_sums
from armillary.errors import ShapeError

#: Lloyd steps on the sample before its starts are compared.
SAMPLE_STEPS = 10
#: The sample that seeds are drawn from has at least so many rows per cluster.
SAMPLE_ROWS_PER_CLUSTER = 10


@final
class KMeans(Method):
    """k-means (Lloyd 1982; Arthur and Vassilvitskii 2007; Sculley 2010).

    The fit has one region without loadings per cluster; a row's code is 1 on the nearest centroid. A cluster that a pass left empty is
    given a new seed, drawn from all rows in proportion to their squared distance as in k-means++. `start`: go on from these centroids.
    """

    invariances: ClassVar[frozenset[Literal["scale", "shift", "rotation"]]] = frozenset({"scale", "shift", "rotation"})

    n_features: PositiveInt
    """F, how many clusters."""
    algorithm: Literal["lloyd", "minibatch"] = "lloyd"
    """Exact passes that depend on no order, or a step after every batch (for data too large to be read often)."""
    n_epochs: PositiveInt = 30
    """Passes over the rows at most, after the one that samples seeds."""
    tol: NonNegativeFloat = 1e-3
    """Stop when a pass lowers the sum of squared distances by less than this share of it."""
    batch_size: PositiveInt = 4096
    """Rows per batch."""
    n_init: PositiveInt = 4
    """How many times seeds are drawn and refined on the sample; the best are kept."""
    max_rows: PositiveInt = 16_384
    """Rows of the sample that seeds are drawn from; never fewer than 10 per cluster."""

    def consumer(self, data: Rows, *, seed: int, start: Decomposition | None) -> Consumer:
        shape = (self.n_features, width(data.layout))
        if start is not None and start.dictionary.atoms.shape != shape:
            raise ShapeError(f"start has atoms {list(start.dictionary.atoms.shape)}, this fit needs centroids {list(shape)}")
        return _Fit(self, data.layout, seed, None if start is None else start.dictionary.atoms.double().cpu())

    def min_rows(self, d: int) -> int:
        return self.n_features


@final
class _Fit(Consumer):
    """Epoch -1 draws the sample, each later epoch assigns all rows once."""

    def __init__(self, method: KMeans, layout: Layout, seed: int, start: Tensor | None) -> None:
        self.method, self.layout, self.seed = method, layout, seed
        n, d = method.n_features, width(layout)
        self.epoch, self.is_done = (-1 if start is None else 0), False
        self.centroids = torch.zeros(n, d, dtype=torch.float64) if start is None else start.clone()
        self.sample = Reservoir(max(method.max_rows, SAMPLE_ROWS_PER_CLUSTER * n), seed)
        self.sums, self.counts = torch.zeros(n, d, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
        self.previous = math.inf
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self.inertia = 0.0  # sum of squared distances in this epoch
        self.hits = torch.zeros_like(self.counts)  # rows per cluster in this epoch
        self.spares = Reservoir(self.method.n_features, self.seed, self.epoch + 1)  # seeds for clusters that will be empty
        if not self._is_minibatch:
            self.sums, self.counts = torch.zeros_like(self.sums), torch.zeros_like(self.counts)

    @property
    def _is_minibatch(self) -> bool:
        return self.method.algorithm == "minibatch"

    def next_pass(self) -> Pass | None:
        if self.is_done:
            return None
        if self.epoch >= 0 and self._is_minibatch:
            return Pass(self.method.batch_size, seed=self.seed, epoch=self.epoch)
        return Pass(self.method.batch_size)

    def update(self, batch: Batch) -> None:
        if self.epoch < 0:
            self.sample.update(batch)
        else:
            self._assign(batch)

    def _assign(self, batch: Batch) -> None:
        x = batch.x.to(torch.float32, copy=True)  # [n, D]; a copy, as a slice of a shard lies elsewhere in memory and is rounded otherwise
        nearest, gap = assign(x, self.centroids.to(x.device, torch.float32))  # [n], [n]
        self.inertia += float(gap.sum())
        self.spares.update(batch, gap.cpu().numpy())
        sums, counts = group_sums(x, nearest, len(self.counts))  # [F, D], [F]
        if self._is_minibatch:
            distributed.sum_(sums, counts)
        self.sums += sums.cpu()
        self.counts += counts.cpu()
        self.hits += counts.cpu()
        if self._is_minibatch:
            self.centroids = means(self.sums, self.counts, self.centroids)

    def end_pass(self) -> None:
        if self.epoch < 0:
            require_rows(self.method, self.sample.n_rows, width(self.layout))
            self.centroids = seeds(self.sample.sample()[0], self.method.n_features, self.method.n_init, self.seed)
            self.sample = Reservoir(1, self.seed)
        else:
            self.centroids = means(self.sums, self.counts, self.centroids)
            is_better = self.previous - self.inertia > self.method.tol * self.inertia
            self.is_done = self.epoch + 1 == self.method.n_epochs or not (self._refill() or is_better)
            self.previous = self.inertia
        self.epoch += 1
        self._begin_epoch()

    def _refill(self) -> bool:
        """Move the centroids of empty clusters onto spare rows; whether there were any."""
        empty = (self.hits == 0).nonzero().flatten()[: len(self.spares)]
        if len(empty) == 0:
            return False
        self.centroids[empty] = self.spares.sample()[0][: len(empty)].double()
        self.sums[empty], self.counts[empty] = 0, 0
        return True

    def state(self) -> Mapping[str, Any]:
        tensors = {"centroids": self.centroids, "sums": self.sums, "counts": self.counts, "hits": self.hits}
        numbers = {"epoch": self.epoch, "is_done": self.is_done, "inertia": self.inertia, "previous": self.previous}
        return {**tensors, **numbers, "sample": self.sample.state(), "spares": self.spares.state()}

    def load(self, state: Mapping[str, Any]) -> None:
        self.centroids, self.sums, self.counts, self.hits = (state[key] for key in ("centroids", "sums", "counts", "hits"))
        self.epoch, self.is_done, self.inertia, self.previous = (state[key] for key in ("epoch", "is_done", "inertia", "previous"))
        self.spares = Reservoir(self.method.n_features, self.seed, self.epoch + 1)
        self.sample.merge([state["sample"]])
        self.spares.merge([state["spares"]])

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        self.inertia = sum(state["inertia"] for state in states)
        self.sample.merge([state["sample"] for state in states])
        self.spares.merge([state["spares"] for state in states])
        if not self._is_minibatch:  # there every batch was summed over the ranks
            self.sums = torch.stack([state["sums"] for state in states]).sum(0)
            self.counts = torch.stack([state["counts"] for state in states]).sum(0)
            self.hits = self.counts.clone()

    def finish(self) -> Decomposition:
        centroids = self.centroids.float()
        record = {"n_passes": self.epoch}
        return Decomposition(Dictionary.of_regions(centroids), NearestEncoder(centroids), **one_to_one(self.layout), provenance=record)

    def describe(self) -> str:
        return "sampling" if self.epoch < 0 else f"pass {self.epoch + 1}, inertia {self.previous:.4g}"


def assign(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centroid [n] of each row [n, D], and the squared distance to it [n] in float64."""
    nearest = nearest_centroid(x, centroids)
    return nearest, (x - centroids[nearest]).square().sum(1, dtype=torch.float64)


def means(sums: Tensor, counts: Tensor, otherwise: Tensor) -> Tensor:
    """[F, D] sums over counts, and the rows of `otherwise` where the count is 0."""
    return torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], otherwise)


def seeds(sample: Tensor, n: int, n_init: int, seed: int) -> Tensor:
    """[F, D] float64 centroids: the best of `n_init` runs of k-means++ and a few Lloyd steps on a sample [n, D]."""
    shift = sample.double().mean(0)
    x = (sample.double() - shift).float()  # distances lose nothing to a large mean
    generator = torch.Generator().manual_seed(seed)
    runs = [refine(x, plus_plus(x, n, generator)) for _ in range(n_init)]
    return min(runs, key=lambda run: run[0])[1].double() + shift


def plus_plus(x: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """[F, D] rows of x [n, D], far apart: each is the best of 2 + log F candidates drawn in proportion to the squared distance D(x)^2."""
    norm = x.square().sum(1)  # [n]
    chosen = [int(torch.randint(len(x), (1,), generator=generator))]
    gap = (x - x[chosen[0]]).square().sum(1)  # D(x)^2  [n]
    for _ in range(n - 1):
        tries = _draw(gap, 2 + int(math.log(n)), generator)  # [t]
        distance = (norm[tries, None] - 2 * x[tries] @ x.T + norm).clamp_min(0)  # [t, n]
        reached = torch.minimum(distance, gap)
        best = int(reached.sum(1).argmin())
        chosen.append(int(tries[best]))
        gap = reached[best]
        gap[chosen[-1]] = 0
    return x[chosen]


def _draw(weight: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """[n] indices drawn in proportion to a weight >= 0; the last index where all are 0."""
    total = weight.double().cumsum(0)
    point = torch.rand(n, generator=generator, dtype=torch.float64) * total[-1]
    return torch.searchsorted(total, point, right=True).clamp_max(len(weight) - 1)


def refine(x: Tensor, centroids: Tensor, n_steps: int = SAMPLE_STEPS) -> tuple[float, Tensor]:
    """Sum of squared distances and centroids after some Lloyd steps on x."""
    for _ in range(n_steps):
        sums, counts = group_sums(x, nearest_centroid(x, centroids), len(centroids))
        centroids = means(sums, counts, centroids.double()).float()
    return float(assign(x, centroids)[1].sum()), centroids
