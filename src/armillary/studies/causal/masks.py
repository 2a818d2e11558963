"""Masks: which features of a fit are exchanged, learnt through the model or picked by a score.

With codes c of the base and c' of the source at one token, features j of a mask m [0, 1],

    x <- x + sum over atoms a of  m_j(a) (c'_a - c_a) atom_a                what the fit does not explain stays as it is

    mask         m = sigmoid(l / T), l learnt by gradient from the expected answers' cross-entropy and a price on every feature while T
                 falls from 1 to 1e-4; exchanged is where l > 0. De Cao et al. (2020), arXiv 2004.14992; Davies et al. (2023), arXiv
                 2307.03637; as in MIB, Mueller et al. (2025), arXiv 2504.13151
    attribution  the k features whose exchange lowers that loss most at first order: - dL/dm at m = 0
    difference   the k features whose part of x differs most in its mean between values of the variable; the model is not asked

Letters: n prompts, b pairs, M atoms, U atoms that ever differ, J features (or atoms) to choose from, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from armillary.core.codes import Codes
from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import ROLES
from armillary.core.edits import Affine
from armillary.core.model import Edit, Where
from armillary.core.progress import progress
from armillary.core.site import Site
from armillary.core.tokens import Ints
from armillary.errors import InputError, NonFiniteError
from armillary.studies.causal.interchange import Change, Trials

if TYPE_CHECKING:
    from armillary.studies.causal.localization import Config

#: The temperature at the end, where masks are all but 0 or 1; at the beginning it is 1.
COLDEST = 1e-4
#: Rows that are encoded, or whose codes are laid out, at once.
ROWS = 1024


class Coordinates:
    """Codes of prompts' activations at one site and position, and what exchanging some of them adds.

    Args:
        fit: the decomposition.
        x: [n, D_in] activations it reads at the position.
        site: the site it writes.
        position: at which token.
        units: what is chosen: whole "feature"s or single "atom"s.
        roles: which atoms may be exchanged: "all", or of regions the "centroids" or "loadings" alone.

    Raises:
        InputError: the fit has no atom of that role.
    """

    def __init__(self, fit: Decomposition, x: Tensor, site: Site, position: str, *, units: str = "feature", roles: str = "all") -> None:
        self.site, self.position = site, position
        with torch.no_grad():
            parts = [fit.encode(part.to(fit.dictionary.atoms.device)) for part in torch.split(x, ROWS)]
        self.codes = _joined(parts)
        atoms = _differing(self.codes)
        if roles != "all":
            wanted = fit.dictionary.role == ROLES.index("centroid" if roles == "centroids" else "loading")
            if not bool(wanted.any()):
                raise InputError(f"{fit!r} has no {roles}; regions (MFA, k-means) have centroids, MFA has loadings: use roles='all'")
            atoms = atoms[wanted[atoms]]
        #: [U] the atoms that differ between prompts, and [U, D] themselves.
        self.atoms, self.vectors = atoms, fit.dictionary.atoms[atoms].float()
        of = atoms if units == "atom" else fit.dictionary.group[atoms]
        #: [J] numbers of the features (or atoms) to choose from, and [U] which of these each atom belongs to.
        self.names, self.unit = torch.unique(of, return_inverse=True)

    def __len__(self) -> int:
        return len(self.names)

    def difference(self, base: Ints, source: Ints) -> Tensor:
        """[b, U] codes of sources minus those of bases."""
        ours, theirs = (self.codes[torch.from_numpy(which).to(self.atoms.device)].columns(self.atoms) for which in (base, source))
        return (theirs - ours).float()

    def mean(self, prompts: Ints) -> Tensor:
        """[U] mean code of some prompts."""
        parts = [self.codes[torch.from_numpy(some).to(self.atoms.device)].columns(self.atoms).sum(0) for some in _chunks(prompts)]
        return torch.stack(parts).sum(0).float() / len(prompts)

    def change(self, mask: Tensor) -> Change:
        """Exchange as much of each feature as a mask [J] says."""

        def made(base: Ints, source: Ints, where: Where) -> Edit:
            offset = (self.difference(base, source) * mask[self.unit]) @ self.vectors  # [b, D]
            return Affine(self.site, None, offset[:, None], where)

        return made

    def none(self) -> Tensor:
        """[J] the mask that exchanges nothing."""
        return torch.zeros(len(self), device=self.vectors.device)

    def largest(self, score: Tensor, n: int) -> Tensor:
        """[J] the mask of the n features that score highest [J]."""
        mask = self.none()
        mask[score.argsort(descending=True, stable=True)[:n]] = 1.0
        return mask

    def draws(self, n: int, n_draws: int, seed: int) -> list[Tensor]:
        """Masks [J] of n features drawn at random."""
        generator = torch.Generator().manual_seed(seed)
        return [self.largest(torch.rand(len(self), generator=generator), n) for _ in range(n_draws)]


def _chunks(prompts: Ints) -> list[Ints]:
    return [prompts[low : low + ROWS] for low in range(0, len(prompts), ROWS)]


def _joined(parts: list[Codes]) -> Codes:
    """Codes of all rows, from those of some each; sparse ones may differ in how many slots they have."""
    most = max(part.value.shape[1] for part in parts)

    def wide(slots: Tensor) -> Tensor:
        return torch.nn.functional.pad(slots, (0, most - slots.shape[1]))  # an unused slot has value 0 and index 0

    value, base = torch.cat([wide(part.value) for part in parts]), torch.cat([part.base for part in parts])
    indices = [wide(part.index) for part in parts if part.index is not None]
    return Codes(value, torch.cat(indices) if indices else None, base, parts[0].n_atoms)


def _differing(codes: Codes) -> Tensor:
    """[U] atoms whose coefficient is not 0 somewhere (of sparse codes) or not the same everywhere (of dense ones)."""
    if codes.index is None:
        return (codes.value != codes.value[:1]).any(0).nonzero().flatten()
    atoms: Tensor = torch.unique(codes.index[codes.value != 0])
    return atoms


# ---------------------------------------------------------------- what is chosen


@dataclass(frozen=True)
class Chosen:
    """A mask and how it came about.

    Args:
        mask: [J] 0 or 1.
        setting: the setting that was best on the pairs that are chosen by.
        score: on these.
    """

    mask: Tensor
    setting: str
    score: float

    @property
    def n(self) -> int:
        """Features that are exchanged."""
        return int(self.mask.sum())


def choose(learn_from: Trials, choose_by: Trials, coordinates: Coordinates, config: Config) -> Chosen:
    """The best mask of those the settings allow; among equals the smallest."""
    best: Chosen | None = None
    for setting, mask in _candidates(learn_from, coordinates, config):
        score = choose_by.score(choose_by.right(coordinates.position, coordinates.change(mask)))
        found = Chosen(mask, setting, score)
        if best is None or (found.score, -found.n) > (best.score, -best.n):
            best = found
    assert best is not None
    return best


def _candidates(trials: Trials, coordinates: Coordinates, config: Config) -> Iterator[tuple[str, Tensor]]:
    """Settings and their masks [J]."""
    n = len(coordinates)
    if config.select == "all" or n <= 1:
        yield "all", torch.ones_like(coordinates.none())
        return
    if config.select == "mask":
        for steps in config.n_steps:
            for penalty in config.penalties:
                logit = learn(trials, coordinates, n_steps=steps, penalty=penalty, config=config)
                told = f"penalty {penalty:g}, {steps} steps"
                yield told, (logit > 0).float() if config.n_features is None else coordinates.largest(logit, config.n_features)
        return
    score = attribution(trials, coordinates) if config.select == "attribution" else difference(trials, coordinates)
    sizes = (config.n_features,) if config.n_features else config.sizes
    for size in sorted({min(size, n) for size in sizes}):
        yield f"{size} features", coordinates.largest(score, size)


def learn(trials: Trials, coordinates: Coordinates, *, n_steps: int, penalty: float, config: Config) -> Tensor:
    """[J] logits of a mask, learnt through the model.

    Raises:
        NonFiniteError: a loss or its gradient is NaN or infinite.
    """
    logit = coordinates.none().requires_grad_()
    optimiser = torch.optim.Adam([logit], lr=config.lr)
    weight = torch.from_numpy(trials.weight * len(trials))  # 1 on average
    order = _epochs(len(trials), config.batch_size, config.seed)
    with torch.enable_grad(), progress("mask", total=n_steps, unit="steps") as bar:
        for step in range(n_steps):
            mask = torch.sigmoid(logit / COLDEST ** (step / max(1, n_steps - 1)))  # [J]
            which = next(order)
            nats = trials.loss(which, coordinates.position, coordinates.change(mask))  # [b]
            loss = (nats * weight[torch.from_numpy(which)].to(nats)).mean() + penalty * mask.sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            _check(loss, logit.grad, f"of a mask at step {step}")
            optimiser.step()
            bar.advance(note=f"{float(nats.detach().mean()):.3g} nats")
    return logit.detach()


def _check(loss: Tensor, gradient: Tensor | None, where: str) -> None:
    finite = gradient is not None and bool(torch.isfinite(gradient).all()) and bool(torch.isfinite(loss.detach()).all())
    if not finite:
        raise NonFiniteError(f"localization: the loss {where} or its gradient is not finite; use a float32 model or select='difference'")


def _epochs(n: int, size: int, seed: int) -> Iterator[Ints]:
    """Batches of n things, each order of them shuffled anew, for ever; the last of an order may be smaller."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(n)
        yield from (order[low : low + size] for low in range(0, n, size))


def attribution(trials: Trials, coordinates: Coordinates) -> Tensor:
    """[J] fall of the score's loss per exchanged feature, at first order around exchanging nothing.

    Raises:
        NonFiniteError: a loss or its gradient is NaN or infinite.
    """
    mask = coordinates.none().requires_grad_()
    weight = torch.from_numpy(trials.weight)
    with torch.enable_grad(), progress("attribution", total=len(trials), unit="pairs") as bar:
        for which in trials.batches():
            nats = trials.loss(which, coordinates.position, coordinates.change(mask))
            loss = (nats * weight[torch.from_numpy(which)].to(nats)).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            _check(loss, mask.grad, "of attribution")
            bar.advance(len(which))
    gradient = mask.grad
    assert gradient is not None
    return -gradient


def difference(trials: Trials, coordinates: Coordinates) -> Tensor:
    """[J] how far a feature's part of x lies from its mean over all prompts, root mean square over means of prompts alike in the variable;
    the atoms of a feature are taken as orthogonal.

    Raises:
        InputError: a prompt whose value of the variable is not told.
    """
    prompts = np.concatenate([trials.base, trials.source])
    number, first = np.unique(prompts, return_index=True)
    everyone = [*(pair.base for pair in trials.pairs), *(pair.source for pair in trials.pairs)]
    variable = trials.pairs[0].variable
    known = [everyone[i].values.get(variable, "") for i in first]
    if "" in known:
        text = everyone[first[known.index("")]].text
        raise InputError(f"select='difference' needs each prompt's value of {variable!r}, and {text!r} has none; use select='attribution'")
    names, label = np.unique(known, return_inverse=True)
    share = torch.from_numpy(np.bincount(label) / len(label)).to(coordinates.vectors)  # [C]
    means = torch.stack([coordinates.mean(number[label == i]) for i in range(len(names))])  # [C, U]
    spread = (share[:, None] * (means - share @ means).square()).sum(0) * coordinates.vectors.square().sum(1)  # [U]
    return coordinates.none().index_add(0, coordinates.unit, spread).sqrt()
