"""Recipes: every kind of method at one budget, on one store.

All read the residual stream of a layer but semi-NMF, whose neurons of that layer are carried to what the MLP writes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from armillary.app.subjects import labelled
from armillary.core.activations import Harvest, StoredRows
from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import Dictionary
from armillary.core.encoders import LinearEncoder
from armillary.core.method import one_to_one
from armillary.core.provenance import of_rows
from armillary.core.pursuit import OrthogonalPursuit
from armillary.core.rows import width
from armillary.core.site import Site
from armillary.errors import InputError
from armillary.lm.model import LanguageModel
from armillary.methods.diffmeans import DiffMeans
from armillary.methods.kmeans import KMeans
from armillary.methods.mfa.method import MFA
from armillary.methods.pca import PCA
from armillary.methods.sae.topk import TopKSAE
from armillary.methods.snmf.semi_nmf import SemiNMF

#: Share of the texts that methods are fitted to, and steps of the autoencoder.
FITTED, STEPS = 0.7, 2000


@dataclass(frozen=True)
class Budget:
    """What every method is allowed.

    Args:
        n_atoms: of the dictionary.
        n_active: of them for a row.
        label: of the documents, which differences of means are told.

    Raises:
        InputError: more atoms for a row than there are.
    """

    n_atoms: int
    n_active: int
    label: str

    def __post_init__(self) -> None:
        if self.n_active > self.n_atoms:
            raise InputError(f"{self.n_active} active atoms of {self.n_atoms} cannot be; ask for fewer active ones, or for more atoms")


@dataclass(frozen=True)
class Stored:
    """The activations of one layer.

    Args:
        store: of three sites.
        stream_site, neuron_site, written_site: the residual stream, the MLP's neurons, and what these write.
    """

    store: Harvest
    stream_site: Site
    neuron_site: Site
    written_site: Site

    @cached_property
    def stream(self) -> tuple[StoredRows, StoredRows]:
        """To fit, and to measure on."""
        return self.store[self.stream_site].split(FITTED)

    @cached_property
    def neurons(self) -> StoredRows:
        """To fit."""
        return self.store[self.neuron_site].split(FITTED)[0]

    @cached_property
    def mlp(self) -> StoredRows:
        """Neurons and what they write, to measure on."""
        return self.store[[str(self.neuron_site), str(self.written_site)]].split(FITTED)[1]

    def held_out(self, fit: Decomposition) -> StoredRows:
        """The rows to measure a fit on; those of all fits to the stream are one object, so that they share their readings."""
        return self.stream[1] if fit.site == self.stream_site else self.mlp


Make = Callable[[LanguageModel, Stored, Budget, int], Decomposition]


@dataclass(frozen=True)
class Recipe:
    """How a kind of method is fitted.

    Args:
        make: from a model, its activations, a budget and a seed.
        is_random: whether another seed gives another fit.
    """

    make: Make
    is_random: bool = True


def _dimensions(lm: LanguageModel, stored: Stored, budget: Budget, seed: int) -> Decomposition:
    """Every dimension of the residual stream as it is."""
    rows = stored.stream[0]
    d = width(rows.layout)
    encoder = LinearEncoder(torch.eye(d), torch.zeros(d), torch.zeros(d))
    told = {"method": "dimensions", "options": {}, **of_rows(rows)}
    return Decomposition(Dictionary.of_directions(torch.eye(d)), encoder, **one_to_one(rows.layout), provenance=told)


def _pca(lm: LanguageModel, stored: Stored, budget: Budget, seed: int) -> Decomposition:
    """The first principal axes, of which a row takes those that rebuild it best."""
    rows = stored.stream[0]
    fit = PCA(n_components=min(budget.n_atoms, width(rows.layout) - 1)).fit(rows, seed=seed)
    return fit.with_encoder(OrthogonalPursuit(k=budget.n_active))


def _kmeans(lm: LanguageModel, stored: Stored, budget: Budget, seed: int) -> Decomposition:
    return KMeans(n_features=budget.n_atoms).fit(stored.stream[0], seed=seed)


def _sae(lm: LanguageModel, stored: Stored, budget: Budget, seed: int) -> Decomposition:
    """Trained until more steps hardly help: on arm-small twice as many lower the error by 0.4 %."""
    return TopKSAE(n_features=budget.n_atoms, k=budget.n_active, n_steps=STEPS, batch_size=1024).fit(stored.stream[0], seed=seed)


def _snmf(lm: LanguageModel, stored: Stored, budget: Budget, seed: int) -> Decomposition:
    fit = SemiNMF(n_features=budget.n_atoms, target_l0=budget.n_active).fit(stored.neurons, seed=seed)
    return fit.through(lm.readout(stored.neuron_site).float().cpu(), lm.source(stored.written_site))


def _mfa(lm: LanguageModel, stored: Stored, budget: Budget, seed: int) -> Decomposition:
    """As many regions as there are atoms for, of a centroid and loadings each."""
    return MFA(n_regions=budget.n_atoms // budget.n_active, rank=budget.n_active - 1).fit(stored.stream[0], seed=seed)


def _diffmeans(lm: LanguageModel, stored: Stored, budget: Budget, seed: int) -> Decomposition:
    return DiffMeans().fit(labelled(stored.stream[0], budget.label), seed=seed)


#: Name of a column -> how it is made.
RECIPES = {
    "dimensions": Recipe(_dimensions, is_random=False),
    "pca": Recipe(_pca, is_random=False),
    "kmeans": Recipe(_kmeans),
    "sae": Recipe(_sae),
    "snmf": Recipe(_snmf),
    "mfa": Recipe(_mfa),
    "diffmeans": Recipe(_diffmeans, is_random=False),
}
