"""Activations of neurons made from known groups of neurons, after the research note's generators (section g), of any size.

Letters: n rows, D neurons, F features, s neurons per feature.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor


@dataclass(frozen=True)
class Neurons:
    """Rows and the truth about them.

    Args:
        x: [n, D].
        atoms: [F, D] of norm 1.
        codes: [n, F] >= 0.
        group: [F] which features share a core.
        cores: [groups, D] bool, the neurons that a group's features have in common.
    """

    x: Tensor
    atoms: Tensor
    codes: Tensor
    group: Tensor
    cores: Tensor

    @property
    def n_neurons(self) -> int:
        """s."""
        return int((self.atoms != 0).sum(1).max())

    @property
    def error(self) -> float:
        """The squared error of the truth, as a share of the rows' squares."""
        return float((self.x - self.codes @ self.atoms).square().sum() / self.x.square().sum())


def planted(
    n: int = 2000, d: int = 3072, f: int = 100, *, share: float = 0.01, actives: float = 5, noise: float = 0.1, seed: int = 0
) -> Neurons:
    """Features on neurons of their own drawing, a few of them active in a row; the note's "clean" data, or "noisy" with 8 and 0.5."""
    g = torch.Generator().manual_seed(seed)
    s = max(1, round(share * d))
    atoms = torch.zeros(f, d)
    for atom in atoms:
        atom[torch.randperm(d, generator=g)[:s]] = torch.randn(s, generator=g)
    atoms = F.normalize(atoms, dim=1)
    codes = (torch.rand(n, f, generator=g) < actives / f) * (0.5 + 1.5 * torch.rand(n, f, generator=g))
    return Neurons(_noisy(codes @ atoms, noise, g), atoms, codes, torch.arange(f), torch.zeros(f, d, dtype=torch.bool))


def shared(
    n: int = 3000,
    d: int = 1024,
    *,
    groups: int = 6,
    siblings: int = 5,
    core: int = 8,
    own: int = 6,
    noise: float = 0.3,
    seed: int = 0,
) -> Neurons:
    """Groups of features that share a core of neurons and have some of their own; two are active in every row."""
    g = torch.Generator().manual_seed(seed)
    f = groups * siblings
    atoms, cores = torch.zeros(f, d), torch.zeros(groups, d, dtype=torch.bool)
    for group in range(groups):
        common = torch.randperm(d, generator=g)[:core]
        cores[group, common], weight = True, torch.randn(core, generator=g)
        for feature in range(group * siblings, (group + 1) * siblings):
            atoms[feature, common] = weight * (0.8 + 0.4 * torch.rand(core, generator=g))
            rest = torch.randperm(d, generator=g)
            atoms[feature, rest[~cores[group, rest]][:own]] = torch.randn(own, generator=g)
    atoms = F.normalize(atoms, dim=1)
    active = torch.rand(n, f, generator=g).topk(2, dim=1).indices
    codes = torch.zeros(n, f).scatter(1, active, 0.5 + 1.5 * torch.rand(n, 2, generator=g))
    return Neurons(_noisy(codes @ atoms, noise, g), atoms, codes, torch.arange(f) // siblings, cores)


def heavy(n: int = 2000, d: int = 3072, f: int = 100, *, dominant: int = 5, noise: float = 0.5, seed: int = 0) -> Neurons:
    """As `planted`, with log-normal noise and a few neurons that are large in every row."""
    plain = planted(n, d, f, actives=8, noise=0.0, seed=seed)
    g = torch.Generator().manual_seed(seed + 1000)
    tails = torch.exp(1.5 * torch.randn(n, d, generator=g)) * torch.randn(n, d, generator=g).sign()
    x = plain.x + tails * (noise * plain.x.std() / tails.std())
    x[:, torch.randperm(d, generator=g)[:dominant]] += plain.x.std() * 20 * torch.rand(n, dominant, generator=g)
    return Neurons(x, plain.atoms, plain.codes, plain.group, plain.cores)


def _noisy(x: Tensor, noise: float, g: torch.Generator) -> Tensor:
    return x + noise * x.std() * torch.randn(x.shape, generator=g)


def partners(found: Tensor, truth: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """[F] for each planted atom its partner in the best one-to-one matching, and their cosine."""
    cosine = (F.normalize(truth, dim=1) @ F.normalize(found, dim=1).T).numpy()
    rows, columns = linear_sum_assignment(-cosine)
    return columns, cosine[rows, columns]


def recovery(found: Tensor, truth: Tensor) -> float:
    """Share of planted atoms whose partner has a cosine above 0.9."""
    return float((partners(found, truth)[1] > 0.9).mean())


def core_jaccard(found: Tensor, data: Neurons, quorum: float = 0.8) -> float:
    """Mean Jaccard index of planted cores and the neurons that a share `quorum` of the partners of a group's features have."""
    column, _ = partners(found, data.atoms)
    scores = []
    for group, core in enumerate(data.cores):
        members = torch.from_numpy(column)[data.group == group]
        common = (found[members] != 0).double().mean(0) >= quorum
        scores.append(float((common & core).sum() / (common | core).sum()))
    return float(np.mean(scores))


def groups_of(found: Tensor, data: Neurons) -> list[int]:
    """The planted group of each found feature."""
    column, _ = partners(found, data.atoms)
    out = [-1] * len(found)
    for feature, place in enumerate(column):
        out[int(place)] = int(cast(int, data.group[feature]))
    return out
