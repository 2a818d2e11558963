"""One small fit of every shape core knows, in float64, over rows of width `D`, made by hand.

fit = FITS["regions"]()        x = rows(20)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import ROLES, Dictionary
from armillary.core.encoders import Encoder, LinearEncoder, NearestEncoder
from armillary.core.nnls import NNLSEncoder
from armillary.core.pursuit import GradientPursuitEncoder, OrthogonalPursuitEncoder
from armillary.core.site import Site, Source

D = 6
SOURCE = Source("toy", "1" * 40, Site("resid_post", 0))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows(n: int = 20, seed: int = 9) -> Tensor:
    """[n, D] rows that are far from centred."""
    return random(n, D, seed=seed) * 2 + 3


def fit_of(dictionary: Dictionary, encoder: Encoder, *, d_in: int = D) -> Decomposition:
    source = ((SOURCE, d_in),)
    target = source if d_in == dictionary.d else ((Source("toy", "1" * 40, Site("mlp_out", 0)), dictionary.d),)
    return Decomposition(dictionary, encoder, source, target, {"method": "ByHand", "options": {"seed": 1}, "scores": [0.5, 1]})


def linear() -> Decomposition:
    """Four directions that are not orthogonal, over a bias, read by a linear map."""
    dictionary = Dictionary.of_directions(random(4, D), bias=random(D, seed=1))
    return fit_of(dictionary, LinearEncoder(random(4, D, seed=2), dictionary.base[0], random(4, seed=3)))


def sparse() -> Decomposition:
    """Ten directions, three codes per row."""
    dictionary = Dictionary.of_directions(random(10, D), bias=random(D, seed=1))
    return fit_of(dictionary, OrthogonalPursuitEncoder(dictionary, 3))


def greedy() -> Decomposition:
    dictionary = Dictionary.of_directions(random(10, D))
    return fit_of(dictionary, GradientPursuitEncoder(dictionary, 4, nonnegative=True))


def nonnegative() -> Decomposition:
    dictionary = Dictionary.of_directions(random(5, D).abs(), bias=random(D, seed=1))
    return fit_of(dictionary, NNLSEncoder(dictionary, tolerance=1e-9))


def nearest() -> Decomposition:
    """Five regions of rank 0."""
    centroids = random(5, D) + 3
    return fit_of(Dictionary.of_regions(centroids), NearestEncoder(centroids))


def regions() -> Decomposition:
    """Three regions of rank 2 with sparse codes over centroids and loadings alike."""
    dictionary = Dictionary.of_regions(random(3, D), random(3, 2, D, seed=1))
    return fit_of(dictionary, OrthogonalPursuitEncoder(dictionary, 4))


def soft_regions() -> Decomposition:
    """Three regions of rank 2 with dense codes."""
    dictionary = Dictionary.of_regions(random(3, D), random(3, 2, D, seed=1))
    return fit_of(dictionary, LinearEncoder(random(9, D, seed=2), random(D, seed=3)))


def subspaces() -> Decomposition:
    """A plane, a single direction, and a region of rank 1, their atoms mixed up."""
    group, role = torch.tensor([0, 1, 0, 2, 2]), torch.tensor([0, 0, 0, ROLES.index("centroid"), ROLES.index("loading")])
    dictionary = Dictionary(random(5, D), group, role, random(1, D, seed=1))
    return fit_of(dictionary, LinearEncoder(random(5, D, seed=2), random(D, seed=3)))


def layer_norm() -> Decomposition:
    """A sparse fit over a bias and the all-ones vector, with the row's own standard deviation and mean as coefficients."""
    base = torch.stack([random(D, seed=1), torch.ones(D, dtype=torch.float64)])
    plain = Dictionary.of_directions(random(10, D))
    dictionary = Dictionary(plain.atoms, plain.group, plain.role, base, "layer_norm")
    return fit_of(dictionary, OrthogonalPursuitEncoder(dictionary, 3))


def skip() -> Decomposition:
    """A transcoder from width D to width 4 with a skip connection."""
    plain = Dictionary.of_directions(random(7, 4))
    dictionary = Dictionary(plain.atoms, plain.group, plain.role, random(1 + D, 4, seed=1), "skip")
    return fit_of(dictionary, LinearEncoder(random(7, D, seed=2), random(D, seed=3)))


FITS: dict[str, Callable[[], Decomposition]] = {
    make.__name__: make
    for make in (linear, sparse, greedy, nonnegative, nearest, regions, soft_regions, subspaces, layer_norm, skip)
}  # fmt: skip
