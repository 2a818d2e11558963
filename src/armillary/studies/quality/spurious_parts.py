"""The parts of targeted probe perturbation and spurious correlation removal: probes, effects of features, and documents without them.

    effect of feature i on class c    e_i = max(0, mean with - mean without of z_i) * (w_c . d_i)      of its size, without max, for SCR
    ablation                          x - sum over the n largest of c_i: what the fit does not explain stays

Decoding is linear, so the mean over a document's tokens is ablated by the means of its codes, and nothing is read twice.

Letters: n documents, M atoms, F features, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from armillary.core.dictionary import Dictionary
from armillary.core.statistics import Floats
from armillary.core.tokens import Bools, Ints
from armillary.studies.quality.linear_probe import Probe
from armillary.studies.quality.ranks import Table

#: The published probe: rows per step, passes, step size and L1 penalty.
BATCH, EPOCHS, LR, L1 = 16, 20, 1e-3, 1e-3
#: Why there is no score of a fit whose features do nothing: ablating none would score 0.
NOTHING = "no feature has an effect on a class, so there is none to ablate; does it ever fire?"


def trained(x: Floats, positive: Bools, *, seed: int) -> Probe:
    """A linear probe trained as published, on rows brought to one scale."""
    scale, mean = float(x.std()) or 1.0, x.mean(0)
    rows = torch.from_numpy((x - mean) / scale).float()
    labels = torch.from_numpy(positive).float()
    weight, bias = torch.zeros(x.shape[1], requires_grad=True), torch.zeros((), requires_grad=True)
    optimizer = torch.optim.AdamW([weight, bias], lr=LR)
    rng = np.random.default_rng(seed)
    with torch.enable_grad():
        for _ in range(EPOCHS):
            for some in np.array_split(rng.permutation(len(x)), -(-len(x) // BATCH)):
                score = rows[some] @ weight + bias
                loss = torch.nn.functional.binary_cross_entropy_with_logits(score, labels[some]) + L1 * weight.abs().sum()
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    w = weight.detach().double().numpy() / scale
    return Probe(w, float(bias.detach()) - float(w @ mean))


@dataclass(frozen=True)
class Means:
    """Means over the tokens of documents.

    Args:
        x: [n, D] of the rows.
        codes: [n, M] of the codes.
        dictionary: of the fit.
    """

    x: Floats
    codes: Table
    dictionary: Dictionary

    def effects(self, rows: Ints, positive: Bools, probe: Probe, *, absolute: bool) -> Floats:
        """[F] of each feature on a class, over documents `rows` with labels `positive`."""
        gap = _mean(self.codes, rows[positive]) - _mean(self.codes, rows[~positive])  # [M]
        along = self.dictionary.atoms.double().cpu().numpy() @ probe.weight  # [M]
        own = np.bincount(self.dictionary.group.cpu().numpy(), weights=gap * along, minlength=self.dictionary.n_features)
        if absolute:
            return np.abs(own)
        rises = np.bincount(self.dictionary.group.cpu().numpy(), weights=np.maximum(gap, 0), minlength=self.dictionary.n_features) > 0
        return np.where(rises, own, 0.0)

    def without(self, rows: Ints, features: Ints) -> Floats:
        """[rows, D] means of the rows with some features ablated."""
        atoms = self.dictionary.atoms_of(torch.from_numpy(features)).cpu().numpy()
        picked = self.codes[rows][:, atoms]
        value = picked if isinstance(picked, np.ndarray) else picked.toarray()
        found: Floats = self.x[rows] - value @ self.dictionary.atoms.double().cpu().numpy()[atoms]
        return found


def _mean(codes: Table, rows: Ints) -> Floats:
    found: Floats = np.asarray(codes[rows].mean(axis=0)).ravel()
    return found


def right(probe: Probe, x: Floats, positive: Bools) -> Floats:
    """[n] 1 where the probe is right."""
    found: Floats = ((probe(x) > 0) == positive).astype(np.float64)
    return found


def strongest(effects: Floats, n: int) -> Ints:
    """The n features of the largest effect, those without any left out."""
    order = np.argsort(-effects, kind="stable")[:n]
    return order[effects[order] > 0]
