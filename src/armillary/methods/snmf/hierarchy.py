"""Hierarchy: features put together to fewer and fewer, level by level, with every constraint kept.

    X^T = (E_1 ... E_l Z_l)^T Y + residual        E_l >= 0 [F_(l-1), F_l],  every row of Z_l has at most s entries that are not 0

Recursive factorisation after Shafran, Geiger and Geva 2025 (their semi-NMF of the features of the level below), from which each level
begins here. They then fine-tune all factors by gradients, which destroys signs and sparsity. Here a level is refined by projected
updates of E_l and Z_l, each of which lowers the error on the activations themselves; what an edge is 0 in stays 0.

Letters: n rows, D neurons, F_l features of level l (F_0 of the fit), P_l = E_1 ... E_l [F_0, F_l].
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from armillary.core.decomposition import Decomposition
from armillary.core.rows import Batch, as_rows
from armillary.core.run import drive
from armillary.core.summary import OnePass, Summary
from armillary.core.sweeps import sweep
from armillary.core.tree import FeatureTree
from armillary.errors import ArmillaryWarning, InputError, NonFiniteError
from armillary.methods.snmf.solver import Data, Plan, solve
from armillary.methods.snmf.updates import Budget, gram_of_codes

#: Rounds of updates of a level at most, and the share of the error by which one has to lower it.
ROUNDS, TOL = 50, 1e-5
#: Edges below this share of a child's largest are left out of the tree.
LEAST = 0.02
#: A level that explains less than this share of what the features explain is worth a warning.
POOR = 0.3


@dataclass(frozen=True)
class Level:
    """One level of a hierarchy.

    Args:
        edges: E_l [F_(l-1), F_l].
        atoms: Z_l [F_l, D].
        errors: squared error on the activations before the first round and after each, as a share of their squared length.
    """

    edges: Tensor
    atoms: Tensor
    errors: tuple[float, ...]


@dataclass(frozen=True)
class Products:
    """What the error on the activations depends on, besides the atoms.

    Args:
        used: Y Y^T [F, F] float64.
        outer: Y X [F, D] float64.
        squared: |X|^2.
    """

    used: Tensor
    outer: Tensor
    squared: float

    def of(self, edges: Tensor) -> Products:
        """Those of codes E^T Y, one level up, for E [F, n]."""
        return Products(edges.T @ self.used @ edges, edges.T @ self.outer, self.squared)

    def error(self, atoms: Tensor) -> float:
        """Squared error with atoms [F, D] float64, as a share of |X|^2."""
        cross, size = (self.outer * atoms).sum(), (self.used * (atoms @ atoms.T)).sum()
        found = float(self.squared - 2 * cross + size) / self.squared
        if not math.isfinite(found):
            raise NonFiniteError(f"the squared error of the hierarchy is {found}: the rows or atoms are too large or hold NaN")
        return max(0.0, found)


class Codes(Summary):
    """Products of a fit's codes with the rows they are of, and with each other.

    Args:
        fit: the features.
    """

    def __init__(self, fit: Decomposition) -> None:
        self.fit, self._n_rows, self.squared = fit, 0, 0.0
        self.used = torch.zeros(fit.n_features, fit.n_features, dtype=torch.float64)
        self.outer = torch.zeros(fit.n_features, fit.dictionary.d, dtype=torch.float64)

    @property
    def n_rows(self) -> int:
        return self._n_rows

    def update(self, batch: Batch) -> None:
        x = batch.x.float()
        codes = self.fit.encode(x).dense().T.contiguous()  # [F, n]
        if bool((codes < 0).any()):
            raise InputError(f"a hierarchy adds up codes that are not negative, the smallest of {self.fit!r} is {float(codes.min()):.3g}")
        self.used += gram_of_codes(codes).cpu()
        self.outer += (codes @ x).double().cpu()
        self.squared += float(x.square().sum(dtype=torch.float64))
        self._n_rows += len(x)

    def state(self) -> dict[str, Any]:
        return {"n_rows": self._n_rows, "squared": self.squared, "used": self.used, "outer": self.outer}

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        self._n_rows, self.squared = sum(one["n_rows"] for one in states), sum(one["squared"] for one in states)
        self.used, self.outer = (torch.stack([one[key] for one in states]).sum(0) for key in ("used", "outer"))

    def products(self) -> Products:
        return Products(self.used, self.outer, self.squared)


def hierarchy(
    fit: Decomposition,
    rows: Any,
    n_features: Sequence[int],
    *,
    neurons_per_feature: float | None = None,
    parents: float | None = 1.5,
    seed: int = 0,
) -> FeatureTree:
    """Put the features of a fit together to fewer and fewer.

    Args:
        fit: directions, with codes that are not negative.
        rows: the activations it was fitted to, or others of their kind; they are read once.
        n_features: how many features each level has, from the one above the fit's to the top.
        neurons_per_feature: most entries of an atom of the higher levels, a count or a share of the neurons; by default the most that one
            of the fit's has.
        parents: features of the next level that one of this level goes into, on average; None for any number.
        seed: of each level's beginning.

    Raises:
        InputError: levels that do not become smaller, atoms that are not directions, codes below 0 or none above it, or a budget that is
            not above 0.

    Warns:
        ArmillaryWarning: a level explains little of what the features explain.
    """
    _check(fit, n_features, parents)
    atoms = fit.dictionary.atoms.detach().cpu().float()
    most = int((atoms != 0).sum(1).max())
    budget = Budget.of(most if neurons_per_feature is None else neurons_per_feature, atoms.shape[1])
    reading = OnePass(Codes(fit), lambda codes: codes.products())
    drive([reading], as_rows(rows), title="reading")
    products: Products = reading.finish()
    if not float(products.used.diagonal().max()) > 0:
        raise InputError(f"no row has a code above 0 in {fit!r}, so there is nothing to put together; read rows it was fitted to")
    levels: list[Level] = []
    here, below = products, atoms
    for i, n in enumerate(n_features):
        levels.append(_level(here, below, n, budget, parents=parents, seed=seed + i))
        here, below = here.of(levels[-1].edges.double()), levels[-1].atoms
    told = {"neurons_per_feature": budget.n_entries, "parents": parents, "seed": seed, "fit": dict(fit.provenance)}
    return _tree(atoms, levels, products, told)


def _check(fit: Decomposition, n_features: Sequence[int], parents: float | None) -> None:
    if parents is not None and not parents > 0:
        raise InputError(f"parents, the features of the next level that one goes into, must be above 0 or None, got {parents}")
    sizes = [fit.n_features, *n_features]
    if not n_features or any(upper >= lower or upper < 1 for lower, upper in itertools.pairwise(sizes)):
        raise InputError(
            f"levels become smaller from the fit's {fit.n_features} features up, got {list(n_features)}; try {_halved(fit.n_features)}"
        )
    if fit.dictionary.feature(0).kind != "direction" or not fit.dictionary.is_simple or fit.inputs != fit.targets:
        raise InputError(f"a hierarchy is of directions in the space that was read, got {fit!r}")


def _halved(n: int) -> list[int]:
    return [size for size in (n // 2, n // 4, n // 8) if size > 1] or [1]


# ---------------------------------------------------------------- one level


def _level(products: Products, below: Tensor, n: int, budget: Budget, *, parents: float | None, seed: int) -> Level:
    """A level of n features above atoms `below` [F, D], whose codes have these products."""
    # Features count by how much they are used.
    strength = products.used.diagonal().clamp_min(0).sqrt().float()  # [F]
    plan = Plan(n, budget, target_l0=None if parents is None or parents >= n else parents)
    began = solve(Data(below * strength[:, None]), plan, seed=seed)
    edges = began.codes.T / strength.clamp_min(torch.finfo(strength.dtype).tiny)[:, None]  # E [F, n]
    lone = (edges == 0).all(1) & (strength > 0)
    along = (below @ began.atoms.T).clamp_min(0)  # [F, n]; atoms have norm 1
    edges[lone] = along[lone] * torch.nn.functional.one_hot(along[lone].argmax(1), n)
    return refined(edges.double(), began.atoms.double(), products, budget)


def refined(edges: Tensor, atoms: Tensor, products: Products, budget: Budget) -> Level:
    """A level after rounds of projected updates, each of which lowers the error on the activations.

    Args:
        edges: E [F, n] >= 0; what is 0 stays so.
        atoms: Z [n, D] within the budget.
        products: of the codes of the level below, float64.
        budget: of the atoms.
    """
    atoms, on, errors = atoms.clone(), edges > 0, [products.error(edges @ atoms)]
    for _ in range(ROUNDS):
        above = products.of(edges)
        sweep(atoms, above.outer, above.used, budget.of_any_norm)
        edges = _sweep_edges(edges, products.used, products.outer @ atoms.T, atoms @ atoms.T, on)
        errors.append(products.error(edges @ atoms))
        if errors[-2] - errors[-1] <= TOL * errors[-1]:
            break
    norm = atoms.norm(dim=1)
    return Level((edges * norm).float(), (atoms / norm.clamp_min(torch.finfo(norm.dtype).tiny)[:, None]).float(), tuple(errors))


def _sweep_edges(edges: Tensor, used: Tensor, linear: Tensor, gram: Tensor, on: Tensor) -> Tensor:
    """Every row of E [F, n] once, by the exact minimiser over each of its entries in turn; entries outside `on` stay 0.

    The error is tr(E^T N E Q) - 2 <L, E> with N = Y Y^T, Q = Z Z^T and L = Y X Z^T.
    """
    edges = edges.clone()
    for child in range(len(edges)):
        if float(used[child, child]) <= 0:
            continue
        # With the other rows fixed this is a row of non-negative least squares with Q.
        wanted = (linear[child] - (used[child] @ edges - used[child, child] * edges[child]) @ gram) / used[child, child]  # [n]
        for parent in on[child].nonzero().flatten().tolist():
            curvature = float(gram[parent, parent])
            if curvature > 0:
                step = float(wanted[parent] - gram[parent] @ edges[child]) / curvature
                edges[child, parent] = max(0.0, float(edges[child, parent]) + step)
    return edges


# ---------------------------------------------------------------- the tree


def _tree(atoms: Tensor, levels: Sequence[Level], products: Products, told: Mapping[str, Any]) -> FeatureTree:
    sizes = [len(atoms), *(len(level.atoms) for level in levels)]
    first = [sum(sizes[:i]) for i in range(len(sizes))]
    child, parent, weight = [], [], []
    for i, level in enumerate(levels):
        kept = level.edges > LEAST * level.edges.amax(1, keepdim=True)
        below, above = (kept & (level.edges > 0)).nonzero().T
        child.append(below + first[i])
        parent.append(above + first[i + 1])
        weight.append(level.edges[below, above])
    height = torch.cat([torch.full((size,), float(i)) for i, size in enumerate(sizes)])
    errors = [products.error(atoms.double()), *(level.errors[-1] for level in levels)]
    _warn(sizes, errors)
    record = {**told, "n_features": sizes, "relative_error": errors, "refined_from": [level.errors[0] for level in levels]}
    vectors = torch.cat([atoms, *(level.atoms for level in levels)])
    return FeatureTree(vectors, sizes[0], height, torch.cat(child), torch.cat(parent), torch.cat(weight), record=record, is_layered=True)


def _warn(sizes: Sequence[int], errors: Sequence[float]) -> None:
    for size, error in zip(sizes[1:], errors[1:], strict=True):
        if 1 - error < POOR * (1 - errors[0]):
            warnings.warn(
                f"the level of {size} features explains {1 - error:.2g} of the activations' squares, the {sizes[0]} features at the bottom "
                f"{1 - errors[0]:.2g}; take levels that become smaller more slowly",
                ArmillaryWarning,
                stacklevel=4,
            )
