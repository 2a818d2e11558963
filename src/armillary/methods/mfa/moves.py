"""Moves: regions that hold two clusters are split, at the cost of regions that others could do without.

EM alone never leaves a start in which two clusters share a region and another has two. For every region, on its own rows,

    gain   what two regions in its place would add to the log-likelihood, after a few local steps of EM
    loss   what the rows would lose were they left to their second best region

and the largest gains are paid by the smallest losses, all moves of a round at once (after Ueda, Nakano, Ghahramani and Hinton 2000).

Letters: n rows, D width, K regions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from armillary.methods.mfa.em import Shape, expect, maximise
from armillary.methods.mfa.gate import Gate, consider, part_size
from armillary.methods.mfa.mixture import Mixture, grouped
from armillary.methods.mfa.sharing import ALL, Work
from armillary.methods.mfa.start import around, cluster, sketch

#: Rows of a region that a split is tried on, at most; steps of EM of a try.
TRIED, STEPS = 2000, 3
#: Columns of the sketch that two clusters are told apart in.
SKETCH = 32
#: Regions that are tried in a round, those with most rows that are too far from them: one in so many, at least and at most so many.
PART_TRIED, FEWEST_TRIED, TRIES = 4, 16, 512
#: A move has to gain so many times what it costs.
MARGIN = 1.2
#: Of two regions.
FIRST, SECOND = slice(0, 1), slice(1, 2)

T = TypeVar("T")


@dataclass(frozen=True)
class Moves:
    """A round of moves.

    Args:
        pairs: (region that is split, region that is given up), those that gain most first.
        halves: by number of a region this rank holds, what takes its place: a mixture of one region.
        gain: nats per row that all of them together promise.
    """

    pairs: list[tuple[int, int]]
    halves: dict[int, Mixture]
    gain: float


def proposed(
    mixture: Mixture, x: Tensor, shape: Shape, gate: Gate | None = None, *, seed: int, work: Work = ALL, is_late: bool = False
) -> Moves:
    """The moves that are worth their cost on rows x [n, D].

    Args:
        mixture: where to begin.
        x: rows that are held in memory.
        shape: what it shall be.
        gate: of the mixture, where not all regions are considered for a row.
        seed: of the splits.
        work: this rank's share.
        is_late: try the regions that would not be tried otherwise.
    """
    region, loss, excess, heir = losses(mixture, x, gate, work)
    order = sorted(grouped(region), key=lambda one: -float(excess[one[0]]))[:TRIES]
    first = max(FEWEST_TRIED, shape.n_regions // PART_TRIED)
    tried = order[first:] if is_late else order[:first]
    mine = {k: rows for k, rows in tried if 0 <= k - work.first < mixture.n_regions and splits(mixture, len(rows))}
    tries = {k: split(mixture, k - work.first, x[rows], shape, seed=seed + k) for k, rows in mine.items()}
    gains = _joined(work.gather({k: gain for k, (_, gain) in tries.items()}))
    pairs = _worth(gains, loss, heir)
    halves = {place: tries[k][0].part(half) for k, gone in pairs if k in tries for place, half in ((k, FIRST), (gone, SECOND))}
    everywhere = _joined(work.gather({k: half.to("cpu") for k, half in halves.items()}))
    own = {k: half.to(x.device) for k, half in everywhere.items() if 0 <= k - work.first < mixture.n_regions}
    return Moves(pairs, own, sum(gains[k] - float(loss[gone]) for k, gone in pairs) / len(x))


def _worth(gains: Mapping[int, float], loss: Tensor, heir: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs of a region to split and one to give up, no region in two of them."""
    cheap = loss.argsort(stable=True).tolist()
    taken: set[int] = set()  # regions that were split, given up, or hold the rows of one that was
    pairs = []
    for k in sorted(gains, key=lambda k: (-gains[k], k)):
        gone = next((j for j in cheap if j not in taken and j != k and heir[j] != k), None)
        if gone is None or k in taken or gains[k] <= MARGIN * float(loss[gone]):
            continue
        taken |= {k, gone, heir[gone]}
        pairs.append((k, gone))
    return pairs


def _joined(parts: Sequence[Mapping[int, T]]) -> dict[int, T]:
    return {k: value for part in parts for k, value in part.items()}


def made(mixture: Mixture, moves: Moves, n: int, work: Work = ALL) -> Mixture:
    """The mixture after the first n moves."""
    halves = {k: moves.halves[k] for pair in moves.pairs[:n] for k in pair if k in moves.halves}
    if not halves:
        return replace(mixture, log_weight=_normal(mixture.log_weight, work))
    new = Mixture(*(torch.cat(one) for one in zip(*(half.tensors for half in halves.values()), strict=True)))
    return put(mixture, [k - work.first for k in halves], new, work)


def losses(mixture: Mixture, x: Tensor, gate: Gate | None = None, work: Work = ALL) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    """[n] the region of each row, [K] what rows would lose without each region, [K] by how much rows are too far from it, and [K] the
    region that most of them would fall to."""
    n = work.n_regions(mixture)
    constant = torch.cat(work.gather(mixture.constant.cpu()))  # [K]
    regions, seconds, gaps, likeliest = [], [], [], []
    for part in torch.split(x, part_size(mixture, gate, work)):
        found = consider(mixture, part, gate, work)
        value, slot = found.joint.topk(min(2, found.joint.shape[1]), dim=1)
        row = torch.arange(len(part), device=x.device)[:, None].expand_as(slot)
        value, number = work.best(value, found.region(row, slot) + work.first)
        regions.append(number[:, 0])
        seconds.append(number[:, -1])
        gaps.append((value[:, 0] - value[:, -1]).double())
        likeliest.append(value[:, 0].double())
    region = torch.cat(regions).cpu()
    too_far = (2 * (constant[region] - torch.cat(likeliest).cpu()) - mixture.d).clamp_min(0)  # [n] squared distance above its mean
    pair, count = np.unique((region * n + torch.cat(seconds).cpu()).numpy(), return_counts=True)
    heir = np.arange(n)
    order = count.argsort(kind="stable")
    heir[pair[order] // n] = pair[order] % n  # of several the last, which has most rows
    loss, excess = (torch.zeros(n, dtype=torch.float64).index_add_(0, region, one) for one in (torch.cat(gaps).cpu(), too_far))
    return region, loss, excess, heir.tolist()


def splits(mixture: Mixture, n_rows: int) -> bool:
    """Whether so many rows can hold two regions."""
    return n_rows >= 4 * (mixture.rank + 2)


def split(mixture: Mixture, k: int, rows: Tensor, shape: Shape, *, seed: int) -> tuple[Mixture, float]:
    """Two regions in place of one, fitted to its rows [n, D], and what they gain there in log-likelihood."""
    generator = torch.Generator().manual_seed(seed)
    tried = rows if len(rows) <= TRIED else rows[torch.randperm(len(rows), generator=generator)[:TRIED]]
    centre = tried.mean(0)
    shape = replace(shape, n_regions=2)
    two = around(tried - centre, cluster(sketch(tried - centre, generator, SKETCH), 2, generator), shape, generator)
    psi = mixture.noise[[k, k]] if len(mixture.noise) > 1 else mixture.noise
    two = replace(two, centroids=two.centroids + centre, noise=psi)
    for _ in range(STEPS):
        new = maximise(expect(two, tried), two, shape)
        two = new if len(psi) > 1 else replace(new, noise=psi)
    before = mixture.log_joint_at(tried, torch.full((len(tried),), k, device=tried.device))[0]
    two = replace(two, log_weight=two.log_weight + mixture.log_weight[k])
    after = torch.logsumexp(two.log_joint(tried)[0], dim=1)
    return two, float((after - before).sum(dtype=torch.float64)) * len(rows) / len(tried)


def put(mixture: Mixture, places: list[int], new: Mixture, work: Work = ALL) -> Mixture:
    """The mixture with other regions at these places, and weights that add up to 1."""
    at = torch.tensor(places, device=mixture.centroids.device)
    noise = mixture.noise if len(mixture.noise) == 1 else mixture.noise.index_copy(0, at, new.noise)
    return Mixture(
        _normal(mixture.log_weight.index_copy(0, at, new.log_weight), work),
        mixture.centroids.index_copy(0, at, new.centroids),
        mixture.loadings.index_copy(0, at, new.loadings),
        noise,
    )


def _normal(log_weight: Tensor, work: Work) -> Tensor:
    """Weights of this rank's regions so that those of all add up to 1."""
    return log_weight - work.logsumexp(log_weight[None])
