"""Dictionary: atoms, their features, and decoding."""

from __future__ import annotations

import pytest
import torch

from armillary.core.codes import dense_codes, sparse_codes
from armillary.core.dictionary import ROLES, Dictionary
from armillary.errors import InputError, ShapeError
from core_fits import FITS, D, random, subspaces


def test_directions_are_one_atom_each() -> None:
    atoms = random(5, D)
    dictionary = Dictionary.of_directions(atoms, bias=torch.ones(D, dtype=torch.float64))
    assert dictionary.is_simple
    assert (dictionary.n_atoms, dictionary.n_features, dictionary.d) == (5, 5, D)
    feature = dictionary.feature(3)
    assert (feature.index, feature.kind, feature.position) == (3, "direction", None)
    assert torch.equal(feature.direction, atoms[3])
    assert torch.equal(dictionary.directions(), atoms)
    assert repr(dictionary) == "Dictionary(5 features of width 6: 5 directions)"


def test_regions_lie_centroid_first() -> None:
    centroids, loadings = random(3, D), random(3, 2, D, seed=1)
    dictionary = Dictionary.of_regions(centroids, loadings)
    assert not dictionary.is_simple
    assert dictionary.n_features == 3
    feature = dictionary.feature(1)
    assert feature.kind == "region"
    assert feature.position is not None
    assert torch.equal(feature.position, centroids[1])
    assert torch.equal(feature.basis, loadings[1])
    assert torch.equal(dictionary.directions(), centroids)
    assert [ROLES[role] for role in dictionary.role[:3]] == ["centroid", "loading", "loading"]


def test_regions_of_rank_0_are_their_centroids() -> None:
    feature = Dictionary.of_regions(random(3, D)).feature(2)
    assert feature.kind == "region"
    assert feature.basis.shape == (0, D)


def test_mixed_features_keep_their_own_atoms() -> None:
    dictionary = subspaces().dictionary
    assert [dictionary.feature(i).kind for i in range(3)] == ["subspace", "direction", "region"]
    assert torch.equal(dictionary.feature(0).basis, dictionary.atoms[[0, 2]])
    assert dictionary.atoms_of([2, 0]).tolist() == [3, 4, 0, 2]
    assert dictionary.atoms_of([]).tolist() == []


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([5], r"feature 5 is out of range: there are 3 \(0 to 2\)"),
        ([0, -1], "feature -1 is out"),
        ([1, 2, 1], "feature 1 is named 2 times"),
    ],
)
def test_features_that_do_not_exist_or_come_twice_are_refused(features: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        subspaces().dictionary.atoms_of(features)


def test_decoding_is_base_plus_atoms_for_sparse_and_dense_alike() -> None:
    dictionary = FITS["linear"]().dictionary
    value, index = random(8, 2), torch.tensor([[0, 3], [2, 1]]).repeat(4, 1)
    base = random(8, 1, seed=4)
    sparse = sparse_codes(value, index, 4).with_base(base)
    expected = base @ dictionary.base + sum(value[:, k, None] * dictionary.atoms[index[:, k]] for k in range(2))
    assert torch.allclose(dictionary.decode(sparse), expected)
    assert torch.allclose(dictionary.decode(dense_codes(sparse.dense()).with_base(base)), expected)


def test_base_codes_follow_the_rule() -> None:
    x = random(9, D)
    assert torch.equal(FITS["linear"]().dictionary.base_codes(x), torch.ones(9, 1, dtype=torch.float64))
    assert FITS["nearest"]().dictionary.base_codes(x).shape == (9, 0)
    norm = FITS["layer_norm"]().dictionary.base_codes(x)
    assert torch.allclose(norm, torch.stack([x.std(1), x.mean(1)], dim=1))
    skip = FITS["skip"]().dictionary
    assert torch.allclose(skip.base_codes(x) @ skip.base, skip.base[0] + x @ skip.base[1:])


def test_a_layer_normalised_base_puts_scale_and_mean_back() -> None:
    x = random(9, D) * 4 + 7
    normal = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)
    bias = random(D, seed=3)
    dictionary = Dictionary(random(0, D), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64),
                            torch.stack([bias, torch.ones(D, dtype=torch.float64)]), "layer_norm")  # fmt: skip
    back = dictionary.base_codes(x) @ dictionary.base
    assert torch.allclose(back, x.std(1, keepdim=True) * bias + x.mean(1, keepdim=True))
    assert torch.allclose(back + x.std(1, keepdim=True) * (normal - bias), x)


def test_subset_renumbers_features_in_the_order_given() -> None:
    dictionary = subspaces().dictionary
    part = dictionary.subset(dictionary.atoms_of([2, 0]))
    assert part.group.tolist() == [0, 0, 1, 1]
    assert part.feature(0).kind == "region"
    assert torch.equal(part.feature(1).basis, dictionary.feature(0).basis)
    assert torch.equal(part.base, dictionary.base)


def test_other_vectors_keep_the_features() -> None:
    dictionary = subspaces().dictionary
    other = dictionary.with_atoms(dictionary.atoms * 2, dictionary.base * 3)
    assert torch.equal(other.feature(1).direction, dictionary.feature(1).direction * 2)
    assert torch.equal(other.base, dictionary.base * 3)


def test_shapes_that_do_not_fit_are_refused() -> None:
    atoms, none = random(3, D), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ShapeError, match="3 atoms need 3 groups"):
        Dictionary(atoms, none[:2], none, random(0, D))
    with pytest.raises(ShapeError, match=r"base vectors must be \[M0, 6\], got \[1, 5\]"):
        Dictionary(atoms, none, none, random(1, 5))
