"""Contexts of regions in one streaming pass, against a heap per region that every pair of a row and a region is pushed at.

python benchmarks/contexts.py              # some three minutes on one core
python benchmarks/contexts.py --smoke      # seconds: does everything still run?

Scores are drawn at random. The heaps keep the 10 best rows of each region as published code for mixtures does it, one Python step per
pair; they are written anew here and measured on rows at the end of the stream, where they seldom change. "from a tensor" reads each
score from the tensor it is in, as that code does; "from a list" is the fastest form of it. "given all scores" gets the same [n, K]
scores. "sparse" gets the four most responsible regions of each row, which is all that `region_contexts` ranks by likelihood; "all
rankings" are likelihood, responsibility, border, draw, and both ends of 10 axes. Figures are nanoseconds per pair of a row and a region,
K pairs a row however few are looked at, on one thread.
"""

from __future__ import annotations

import argparse
import heapq
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lab
import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import Dictionary
from armillary.core.rows import TensorRows
from armillary.core.statistics import Floats
from armillary.core.tokens import Ints
from armillary.inspect.best import Best, Pairs
from armillary.inspect.region_search import FEW, RegionSearch, Seen
from armillary.methods.mfa.encoder import MFAEncoder
from armillary.methods.mfa.gate import Gate
from armillary.methods.mfa.mixture import Mixture

#: Rows kept of each region; rows whose scores are compared at once, which stay in the cache.
KEPT, PART = 10, 256


@dataclass(frozen=True)
class Sizes:
    """Of the problem: regions; rows of the dense scores; rows the heaps see; rows of the sparse stream, and of each of its batches; rows,
    width and axes of the whole pass."""

    regions: tuple[int, ...] = (1024, 4096)
    dense: int = 1 << 17
    heap: int = 128
    sparse: int = 1 << 20
    batch: int = 1 << 14
    whole: int = 1 << 16
    width: int = 512
    axes: int = 10


# ---------------------------------------------------------------- a heap per region


def heaps_from_tensor(heaps: list[list[tuple[float, int]]], scores: Tensor, rows: Sequence[int]) -> None:
    for i, row in enumerate(rows):
        for k, heap in enumerate(heaps):
            score = float(scores[i, k])
            if len(heap) < KEPT:
                heapq.heappush(heap, (score, row))
            elif score > heap[0][0]:
                heapq.heapreplace(heap, (score, row))


def heaps_from_list(heaps: list[list[tuple[float, int]]], scores: Tensor, rows: Sequence[int]) -> None:
    for row, line in zip(rows, scores.tolist(), strict=True):
        for heap, score in zip(heaps, line, strict=True):
            if len(heap) < KEPT:
                heapq.heappush(heap, (score, row))
            elif score > heap[0][0]:
                heapq.heapreplace(heap, (score, row))


def by_heap(push: Callable[..., None], best: Tensor, rows: Tensor, scores: Tensor, start: int) -> tuple[float, list[set[int]]]:
    """Nanoseconds per pair of scores that come after a stream of which the best [10, K] are known; and the rows kept at the end."""
    heaps = [sorted(zip(value, row, strict=True)) for value, row in zip(best.T.tolist(), rows.T.tolist(), strict=True)]
    seconds = timed(lambda: push(heaps, scores, range(start, start + len(scores))))
    return seconds / scores.numel() * 1e9, [{row for _, row in heap} for heap in heaps]


# ---------------------------------------------------------------- ours


class Selection:
    """The best rows of each region given all scores: a comparison with what has to be reached, and the few that reach it sorted in."""

    def __init__(self, k: int) -> None:
        self.best, self.seen, self.due = Best(k, KEPT), 0, 2 * KEPT
        self.worst = self.best.worst.astype(np.float32)

    def take(self, scores: Tensor) -> None:
        every, at = scores.numpy(), 0
        while at < len(every):
            part = every[at : at + min(PART, self.due - self.seen)]
            near = np.flatnonzero(part >= self.worst)
            score = part.ravel()[near].astype(np.float64)
            self.best.offer(Pairs(near % part.shape[1], self.seen + near // part.shape[1], score, score, np.full(len(near), -1)))
            self.seen, at = self.seen + len(part), at + len(part)
            if self.seen == self.due:  # what has to be reached grows with the logarithm of the rows
                self.settle()

    def settle(self) -> None:
        self.best.settle()
        self.worst, self.due = self.best.worst.astype(np.float32), 2 * self.due


def few_regions(k: int, sizes: Sizes) -> Iterator[tuple[Ints, Tensor, Tensor, Floats]]:
    """Batches of rows: numbers, their few regions, the densities in these, and coordinates in the first of them."""
    g = np.random.default_rng(0)
    for start in range(0, sizes.sparse, sizes.batch):
        region = torch.from_numpy(g.integers(0, k, (sizes.batch, FEW)))
        density = torch.from_numpy(g.standard_normal((sizes.batch, FEW)))
        yield np.arange(start, start + sizes.batch), region, density, g.standard_normal((sizes.batch, sizes.axes))


def search_of(k: int, sizes: Sizes, *, d: int, rows: Tensor | None = None) -> RegionSearch:
    """A search among the regions of a random mixture with a gate."""
    mixture = mixture_of(k, d, sizes.axes)
    fit = Decomposition(
        Dictionary.of_regions(mixture.centroids, mixture.loadings),
        MFAEncoder(mixture, gate=Gate.of(mixture, 16) if k > 16 else None),
        inputs=((None, d),),
        targets=((None, d),),
    )
    read = TensorRows(torch.zeros(1, d) if rows is None else rows)
    return RegionSearch(fit, read, n=KEPT, n_axis=5, regions=None, window=(16, 8), batch_size=sizes.batch, seed=0)


def mixture_of(k: int, d: int, r: int) -> Mixture:
    g = torch.Generator().manual_seed(0)
    loadings = 0.7 * torch.randn(k, r, d, generator=g) * torch.linspace(1.2, 0.5, r)[:, None]
    noise = 0.25 + 0.5 * torch.rand(1, d, generator=g)
    return Mixture(torch.full((k,), -math.log(k)), 0.6 * torch.randn(k, d, generator=g), loadings, noise)


def drawn(mixture: Mixture, n: int) -> Tensor:
    """Rows [n, D] of a mixture."""
    g = torch.Generator().manual_seed(1)
    region = torch.randint(mixture.n_regions, (n,), generator=g)
    parts = []
    for some in torch.split(region, 4096):
        z = torch.randn(len(some), mixture.rank, generator=g)
        noise = mixture.noise.sqrt() * torch.randn(len(some), mixture.d, generator=g)
        parts.append(mixture.centroids[some] + torch.einsum("nr,nrd->nd", z, mixture.loadings[some]) + noise)
    return torch.cat(parts)


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


# ---------------------------------------------------------------- tables


def selection(k: int, sizes: Sizes) -> list[list[Any]]:
    """Nanoseconds per pair of every way, the ranking alone."""
    g = torch.Generator().manual_seed(0)
    ours, dense = Selection(k), 0.0
    best, rows = torch.zeros(0, k), torch.zeros(0, k, dtype=torch.int64)  # found otherwise, for heaps to go on from
    for start in range(0, sizes.dense, sizes.batch):
        scores = torch.randn(sizes.batch, k, generator=g)
        dense += timed(lambda scores=scores: ours.take(scores))
        best, at = torch.cat([best, scores]).topk(KEPT, dim=0)
        rows = torch.cat([rows, torch.arange(start, start + sizes.batch)[:, None].expand(-1, k)]).gather(0, at)
    last = torch.randn(sizes.heap, k, generator=g)
    slow, _ = by_heap(heaps_from_tensor, best, rows, last[: sizes.heap // 4], sizes.dense)
    fast, heaps = by_heap(heaps_from_list, best, rows, last, sizes.dense)
    dense += timed(lambda: ours.take(last)) + timed(ours.settle)
    assert [set(kept) for kept in ours.best.row.tolist()] == heaps
    ns = {"heaps, from a tensor": slow, "heaps, from a list": fast, "given all scores": dense / ((sizes.dense + sizes.heap) * k) * 1e9}
    for name, is_whole in (("sparse", False), ("sparse, all rankings", True)):
        ns[name] = min(sparse(k, sizes, is_whole=is_whole) for _ in range(2))
    return [[k, name, found, slow / found, fast / found] for name, found in ns.items()]


def sparse(k: int, sizes: Sizes, *, is_whole: bool) -> float:
    """Nanoseconds per pair of ranking rows by their few regions: by likelihood, or by all that a search ranks by."""
    search, log_weight = search_of(k, sizes, d=sizes.axes + 1), torch.full((k,), -math.log(k), dtype=torch.float64)

    def one(row: Ints, region: Tensor, density: Tensor, _: Floats) -> None:
        search._offer("likelihood", row, search.place[region.numpy()], density.numpy())

    def every(row: Ints, region: Tensor, density: Tensor, z: Floats) -> None:
        search.offer(Seen.of(row, region, density, log_weight))
        search.offer_axes(row, region[:, 0].numpy(), z)

    rank = every if is_whole else one
    spent = sum(timed(partial(rank, *batch)) for batch in few_regions(k, sizes)) + timed(search.finish)
    return spent / (sizes.sparse * k) * 1e9


def whole_pass(k: int, sizes: Sizes) -> list[Any]:
    """Rows per second of a whole pass, with the mixture's own work, and the share of it that is ranking."""
    rows = drawn(mixture_of(k, sizes.width, sizes.axes), sizes.whole)
    search = search_of(k, sizes, d=sizes.width, rows=rows)
    ranking = 0.0

    def offered(work: Callable[..., None]) -> Callable[..., None]:
        def measured(*given: Any) -> None:
            nonlocal ranking
            ranking += timed(lambda: work(*given))

        return measured

    search.encoder.top(rows[:256], 1)  # what is worked out once
    search.offer, search.offer_axes = offered(search.offer), offered(search.offer_axes)  # type: ignore[method-assign]
    with torch.no_grad():
        seconds = timed(lambda: [search.update(batch) for batch in search.rows.batches(sizes.batch)])
    return [k, round(sizes.whole / seconds), seconds / (sizes.whole * k) * 1e9, f"{ranking / seconds:.1%}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, nothing is written")
    smoke = parser.parse_args().smoke
    about = lab.machine()
    torch.set_num_threads(1)
    sizes = Sizes((32,), 256, 16, 512, 128, 256, 16, 2) if smoke else Sizes()
    columns = ("regions", "ranking", "ns per pair", "times faster than heaps, from a tensor", "from a list")
    table = [row for k in sizes.regions for row in selection(k, sizes)]
    sections = [f"## Ranking alone, {KEPT} rows kept of each region\n\n{lab.table(columns, table)}"]
    print(sections[0], flush=True)
    passes = [whole_pass(k, sizes) for k in sizes.regions]
    title = f"## A whole pass of `region_contexts`, {sizes.width} columns, {sizes.axes} axes, gate of 16"
    sections.append(f"{title}\n\n{lab.table(('regions', 'rows/s', 'ns per pair', 'of which ranking'), passes)}")
    print(sections[1])
    if not smoke:
        told = " ".join(__doc__.strip().split("\n")[5:])
        lab.write("contexts", "Contexts of regions", sections, f"{about}\n\n{told}")


if __name__ == "__main__":
    main()
