"""The parts of absorption: which features tell a class, and what all others add along its probe.

    main set S    the features of the best k-sparse probe: k goes up from 1 while F1 gains more than 0.03 (on tokens kept for choices)
    p = x . w     of a token that the probe accepts, w of length 1;     p_i = c_i . w of a feature's contribution;     P = sum of p_i in S
    A             the three largest positive p_i outside S whose contribution has cosine >= 0.1 with w
    fraction      0 if p <= 0, P >= p or A / p < 0.4;  1 if P <= 0;  else a / (a + P), a = min(A, p - P)
    full          S is silent, p > 0, and the feature of the largest p_i has cosine >= 0.025 and p_i / p >= 0.4

Chanin et al. (2024), "A is for absorption", arXiv 2409.14507, as SAEBench (Karvonen et al. 2025, arXiv 2503.09532) computes it.

Letters: n rows, F features, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from sklearn.metrics import f1_score
from torch import Tensor

from armillary.core.codes import Codes
from armillary.core.decomposition import feature_activations
from armillary.core.dictionary import Dictionary
from armillary.core.statistics import Floats
from armillary.core.tokens import Bools, Ints
from armillary.studies.quality.logistic import fit

#: The rules of the published score.
GAIN, MOST, LEAST_SHARE, LEAST_COSINE, FULL_COSINE, N_LARGEST = 0.03, 10, 0.4, 0.1, 0.025, 3
#: The L1-penalised probe that ranks features: its penalty, step size, passes and rows per step.
DECAY, LR, EPOCHS, ROWS = 0.01, 0.01, 50, 512
#: Rows whose contributions are held at once.
CHUNK = 256


def f1(score: Floats, positive: Bools) -> float:
    return float(f1_score(positive, score > 0, zero_division=0.0))


# ---------------------------------------------------------------- which features tell a class


def sizes(dictionary: Dictionary, codes: Codes) -> sparse.csr_matrix:
    """[n, F] activations times the length of what stands for the feature, so that lengths of atoms do not matter."""
    found = feature_activations(dictionary, codes)
    row, slot = (found.value != 0).nonzero(as_tuple=True)
    feature = slot if found.index is None else found.index[row, slot]
    value = found.value[row, slot] * dictionary.directions().norm(dim=1)[feature]
    shape = (len(codes), dictionary.n_features)
    return sparse.csr_matrix((value.double().cpu().numpy(), (row.cpu().numpy(), feature.cpu().numpy())), shape)


def rank_features(table: sparse.csr_matrix, member: Bools, *, seed: int) -> list[Ints]:
    """[C] features with positive weight in L1-penalised probes of all classes [C, n] at once, the largest first; at most `MOST`."""
    alive = np.flatnonzero(np.asarray((table != 0).sum(0)).ravel())
    x, y = table[:, alive].astype(np.float32), torch.from_numpy(member.T.astype(np.float32))
    weight = torch.zeros(len(alive), len(member), requires_grad=True)
    bias = torch.zeros(len(member), requires_grad=True)
    share = y.mean(0).clamp(1e-6, 1 - 1e-6)
    optimizer = torch.optim.Adam([weight, bias], lr=LR)
    rng = np.random.default_rng(seed)
    with torch.enable_grad():
        for _ in range(EPOCHS):
            for some in np.array_split(rng.permutation(x.shape[0]), max(1, x.shape[0] // ROWS)):
                z = torch.from_numpy(x[some].toarray()) @ weight + bias
                each = torch.nn.functional.binary_cross_entropy_with_logits(z, y[some], pos_weight=(1 - share) / share, reduction="none")
                loss = each.mean(0).sum() + DECAY * weight.abs().sum()
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    w = weight.detach().double().numpy()
    orders = [np.argsort(-column, kind="stable")[:MOST] for column in w.T]
    return [alive[order[w[order, c] > 0]] for c, order in enumerate(orders)]


@dataclass(frozen=True)
class MainSet:
    """The features that tell a class.

    Args:
        features: S.
        score: scores of rows of a table by their probe.
    """

    features: Ints
    score: Callable[[sparse.csr_matrix], Floats]


def main_set(table: sparse.csr_matrix, positive: Bools, side: Ints, ranked: Ints) -> MainSet | None:
    """The features of the best k-sparse probe; None where no feature has a positive weight."""
    best: tuple[float, MainSet] | None = None
    for k in range(1, len(ranked) + 1):
        features = ranked[:k]
        probe = fit(table[side == 0][:, features].toarray(), positive[side == 0], 1.0, balanced=True)
        found = MainSet(features, lambda rows, own=features, of=probe: of(rows[:, own].toarray()))  # type: ignore[misc]
        value = f1(found.score(table[side == 1]), positive[side == 1])
        if best is not None and value <= best[0] + GAIN:
            break
        best = value, found
    return None if best is None else best[1]


# ---------------------------------------------------------------- what features add along a probe


@dataclass(frozen=True)
class Absorbed:
    """Of each row: its absorption fraction, whether absorption is full, and the feature outside S that adds most."""

    fraction: Floats
    full: Bools
    feature: Ints


def absorbed(dictionary: Dictionary, target: Tensor, codes: Codes, w: Tensor, features: Ints) -> Absorbed:
    """Absorption on rows.

    Args:
        dictionary: whose atoms the codes are read with; another than the fit's own makes the null.
        target: [n, D] what is reconstructed.
        codes: of these rows.
        w: [D] the probe, of length 1.
        features: the main set.
    """
    parts = [
        _absorbed(dictionary, target[start : start + CHUNK], codes[slice(start, start + CHUNK)], w, features)
        for start in range(0, len(codes), CHUNK)
    ]
    return Absorbed(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("fraction", "full", "feature")))


def _absorbed(dictionary: Dictionary, target: Tensor, codes: Codes, w: Tensor, features: Ints) -> Absorbed:
    along, length = contributions_along(dictionary, codes, w)  # [n, F] both
    p = (target.double() @ w.double()).numpy()  # [n]
    cosine = np.divide(along, length, out=np.zeros_like(along), where=length > 0)
    inside = along[:, features].sum(1)
    is_silent = (length[:, features] == 0).all(1)
    outside = along.copy()
    outside[:, features] = 0
    allowed = np.where(cosine >= LEAST_COSINE, np.maximum(outside, 0), 0)
    n = min(N_LARGEST, allowed.shape[1])
    others = np.partition(allowed, -n, axis=1)[:, -n:].sum(1)
    top = outside.argmax(1)
    most, its_cosine = along[np.arange(len(p)), top], cosine[np.arange(len(p)), top]
    full = is_silent & (p > 0) & (its_cosine >= FULL_COSINE) & (most >= LEAST_SHARE * p)
    return Absorbed(fraction(p, inside, others), full, top)


def fraction(p: Floats, inside: Floats, others: Floats) -> Floats:
    """[n] the absorption fraction from p = x . w, P and A."""
    a = np.minimum(others, p - inside)
    part = np.divide(a, a + inside, out=np.zeros_like(a), where=(a + inside) != 0)
    found = np.where(inside <= 0, 1.0, np.clip(part, 0, 1))
    nothing = (p <= 0) | (inside >= p) | (others < LEAST_SHARE * p)
    return np.where(nothing, 0.0, found)


def contributions_along(dictionary: Dictionary, codes: Codes, w: Tensor) -> tuple[Floats, Floats]:
    """[n, F] twice: c_i . w of what each feature adds, and the length of c_i."""
    atoms, dense = dictionary.atoms.double(), codes.dense().double()  # [M, D], [n, M]
    each = dense * (atoms @ w.double().to(atoms.device))  # [n, M]
    if dictionary.is_simple:
        return each.cpu().numpy(), (dense.abs() * atoms.norm(dim=1)).cpu().numpy()
    shape = len(codes), dictionary.n_features
    along = each.new_zeros(shape).index_add(1, dictionary.group, each)
    length = torch.stack([(dense[:, own] @ atoms[own]).norm(dim=1) for own in _groups(dictionary)], dim=1)
    return along.cpu().numpy(), length.cpu().numpy()


def _groups(dictionary: Dictionary) -> Sequence[Tensor]:
    order = dictionary.group.argsort(stable=True)
    return torch.split(order, torch.bincount(dictionary.group, minlength=dictionary.n_features).tolist())
