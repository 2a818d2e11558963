"""Moves: regions that hold two clusters are split, at the cost of regions that others could do without.

EM alone never leaves a start in which two clusters share a region and another has two. For every region, on its own rows,

    gain   what two regions in its place would add to the log-likelihood, after a few local steps of EM
    loss   what the rows would lose were they left to their second best region

and the largest gains are paid by the smallest losses, all moves of a round at once (after Ueda, Nakano, Ghahramani and Hinton 2000).

Letters: n rows, D width, K regions.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from armillary.methods.mfa.em import Shape, expect, maximise
from armillary.methods.mfa.gate import Gate, consider, part_size
from armillary.methods.mfa.mixture import Mixture, grouped
from armillary.methods.mfa.start import around, cluster, sketch

#: Rows of a region that a split is tried on, at most; steps of EM of a try.
TRIED, STEPS = 2000, 3
#: Regions that are tried in a round, those of most rows.
TRIES = 512
#: A move has to gain so many times what it costs.
MARGIN = 1.2


def moved(
    mixture: Mixture, x: Tensor, shape: Shape, gate: Gate | None = None, *, seed: int, most: int | None = None
) -> tuple[Mixture, int]:
    """The mixture after one round of moves on rows x [n, D], and how many there were.

    Args:
        mixture: where to begin.
        x: rows that are held in memory.
        shape: what it shall be.
        gate: of the mixture, where not all regions are considered for a row.
        seed: of the splits.
        most: moves at most.
    """
    region, loss, heir = losses(mixture, x, gate)
    own = dict(sorted(grouped(region), key=lambda one: -len(one[1]))[:TRIES])
    cheap = loss.argsort().tolist()
    tries = {k: split(mixture, k, x[rows], shape, seed=seed + k) for k, rows in own.items() if splits(mixture, len(rows))}
    gains = {k: gain for k, (_, gain) in tries.items()}
    taken: set[int] = set()  # regions that were split, given up, or hold the rows of one that was
    n_moves = 0
    for k in sorted(gains, key=lambda k: -gains[k]):
        gone = next((j for j in cheap if j not in taken and j != k and heir[j] != k), None)
        if n_moves == most:
            break
        if gone is None or k in taken or gains[k] <= MARGIN * float(loss[gone]):
            continue
        mixture = put(mixture, [k, gone], tries[k][0])
        taken |= {k, gone, heir[gone]}
        n_moves += 1
    return mixture, n_moves


def losses(mixture: Mixture, x: Tensor, gate: Gate | None = None) -> tuple[Tensor, Tensor, list[int]]:
    """[n] the region of each row, [K] what rows would lose without each region, and [K] the region that most of them would fall to."""
    n = mixture.n_regions
    regions, seconds, gaps = [], [], []
    for part in torch.split(x, part_size(mixture, gate)):
        found = consider(mixture, part, gate)
        value, slot = found.joint.topk(min(2, found.joint.shape[1]), dim=1)
        row = torch.arange(len(part))
        regions.append(found.region(row, slot[:, 0]))
        seconds.append(found.region(row, slot[:, -1]))
        gaps.append((value[:, 0] - value[:, -1]).double())
    region = torch.cat(regions)
    pair, count = np.unique((region * n + torch.cat(seconds)).numpy(), return_counts=True)
    heir = np.arange(n)
    order = count.argsort(kind="stable")
    heir[pair[order] // n] = pair[order] % n  # of several the last, which has most rows
    return region, torch.zeros(n, dtype=torch.float64).index_add_(0, region, torch.cat(gaps)), heir.tolist()


def splits(mixture: Mixture, n_rows: int) -> bool:
    """Whether so many rows can hold two regions."""
    return n_rows >= 4 * (mixture.rank + 2)


def split(mixture: Mixture, k: int, rows: Tensor, shape: Shape, *, seed: int) -> tuple[Mixture, float]:
    """Two regions in place of one, fitted to its rows [n, D], and what they gain there in log-likelihood."""
    generator = torch.Generator().manual_seed(seed)
    tried = rows if len(rows) <= TRIED else rows[torch.randperm(len(rows), generator=generator)[:TRIED]]
    centre = tried.mean(0)
    shape = replace(shape, n_regions=2)
    two = around(tried - centre, cluster(sketch(tried - centre, generator), 2, generator), shape, generator)
    psi = mixture.noise[[k, k]] if len(mixture.noise) > 1 else mixture.noise
    two = replace(two, centroids=two.centroids + centre, noise=psi)
    for _ in range(STEPS):
        new = maximise(expect(two, tried), two, shape)
        two = new if len(psi) > 1 else replace(new, noise=psi)
    before = mixture.log_joint_at(tried, torch.full((len(tried),), k))[0]
    two = replace(two, log_weight=two.log_weight + mixture.log_weight[k])
    after = torch.logsumexp(two.log_joint(tried)[0], dim=1)
    return two, float((after - before).sum(dtype=torch.float64)) * len(rows) / len(tried)


def put(mixture: Mixture, places: list[int], new: Mixture) -> Mixture:
    """The mixture with other regions at these places, and weights that add up to 1."""
    at = torch.tensor(places)
    noise = mixture.noise if len(mixture.noise) == 1 else mixture.noise.index_copy(0, at, new.noise)
    log_weight = mixture.log_weight.index_copy(0, at, new.log_weight)
    return Mixture(
        log_weight - log_weight.logsumexp(0),
        mixture.centroids.index_copy(0, at, new.centroids),
        mixture.loadings.index_copy(0, at, new.loadings),
        noise,
    )
