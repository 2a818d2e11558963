"""The one law and what follows from it, for a fit of every shape."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from armillary.core.codes import Codes
from armillary.core.decomposition import Decomposition, feature_activations
from armillary.core.dictionary import ROLES, Dictionary
from armillary.core.encoders import LinearEncoder
from armillary.core.pursuit import OrthogonalPursuit
from armillary.core.site import Site, Source
from armillary.errors import InputError, ShapeError
from core_fits import FITS, SOURCE, D, fit_of, linear, nearest, random, regions, rows, soft_regions, sparse, subspaces

EVERY = pytest.mark.parametrize("name", FITS)


def rotation() -> Tensor:
    return torch.linalg.qr(random(D, D, seed=8))[0]


def close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-9)


# ---------------------------------------------------------------- the law


@EVERY
def test_decoding_needs_the_codes_only_and_is_base_plus_contributions(name: str) -> None:
    fit, x = FITS[name](), rows()
    codes = fit.encode(x)
    contributions = fit.contributions(x, range(fit.n_features))
    assert contributions.shape == (20, fit.n_features, fit.dictionary.d)
    assert close(fit.decode(codes), fit.base(codes) + contributions.sum(1))
    assert close(fit.reconstruct(x), fit.decode(codes))


@EVERY
def test_parts_are_sums_of_contributions(name: str) -> None:
    fit, x = FITS[name](), rows()
    codes = fit.encode(x)
    assert close(fit.part(codes, [2, 0]), fit.contributions(x, [0, 2]).sum(1))
    assert fit.contributions(x, []).shape == (20, 0, fit.dictionary.d)


@EVERY
def test_without_any_code_the_base_is_left(name: str) -> None:
    fit, x = FITS[name](), rows()
    codes = fit.encode(x)
    empty = Codes(torch.zeros_like(codes.value), codes.index, codes.base, codes.n_atoms)
    assert close(fit.decode(empty), fit.base(codes))


@EVERY
def test_no_rows_are_no_problem(name: str) -> None:
    fit = FITS[name]()
    assert fit.reconstruct(rows(0)).shape == (0, fit.dictionary.d)


# ---------------------------------------------------------------- one number per feature


def test_activations_of_directions_are_their_codes() -> None:
    for fit in (linear(), sparse()):
        assert torch.equal(fit.activations(rows()).dense(), fit.encode(rows()).dense())
        assert fit.activations(rows()).base.shape == (20, 0)


def test_activations_of_regions_are_their_centroids_codes() -> None:
    for fit in (regions(), soft_regions()):
        x = rows()
        found = fit.activations(x)
        assert torch.equal(found.dense(), fit.encode(x).dense()[:, ::3])
        assert found.is_dense == fit.encode(x).is_dense
        assert found.n_atoms == 3


def test_activations_of_subspaces_are_norms() -> None:
    fit, x = subspaces(), rows()
    codes = fit.encode(x).dense()
    expected = torch.stack([codes[:, [0, 2]].norm(dim=1), codes[:, 1], codes[:, 3]], dim=1)
    assert close(fit.activations(x).dense(), expected)
    assert (fit.activations(x).dense()[:, 1] < 0).any()  # a lone direction keeps its sign


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_activations_keep_the_codes_dtype(dtype: torch.dtype) -> None:
    fit = subspaces().to(dtype=dtype)
    assert feature_activations(fit.dictionary, fit.encode(rows())).value.dtype == dtype


# ---------------------------------------------------------------- the same fit, read otherwise


@EVERY
def test_a_subset_keeps_its_features_contributions_and_order(name: str) -> None:
    fit, x = FITS[name](), rows()
    part = fit.subset([2, 0])
    assert part.n_features == 2
    assert close(part.contributions(x, [0, 1]), fit.contributions(x, [2, 0]))
    assert close(part.base(part.encode(x)), fit.base(fit.encode(x)))
    assert close(part.activations(x).dense(), fit.activations(x).dense()[:, [2, 0]])
    assert part.dictionary.feature(0).kind == fit.dictionary.feature(2).kind


@EVERY
def test_subset_of_all_changes_nothing(name: str) -> None:
    fit = FITS[name]()
    assert close(fit.subset(range(fit.n_features)).reconstruct(rows()), fit.reconstruct(rows()))


@EVERY
def test_rotated_fits_reconstruct_rotated_rows_or_say_why_not(name: str) -> None:
    fit, x, turn = FITS[name](), rows(), rotation()
    if name in ("layer_norm", "skip"):
        with pytest.raises(InputError, match="its target must be its input and its base constant"):
            fit.rotate(turn)
        return
    rotated = fit.rotate(turn)
    assert close(rotated.reconstruct(x @ turn), fit.reconstruct(x) @ turn)
    assert close(rotated.encode(x @ turn).dense(), fit.encode(x).dense())
    assert close(rotated.rotate(turn.T).reconstruct(x), fit.reconstruct(x))


@EVERY
def test_through_a_linear_map_the_codes_stay_and_the_reconstruction_is_mapped(name: str) -> None:
    fit, x = FITS[name](), rows()
    readout = random(fit.dictionary.d, 3, seed=7)
    target = Source("toy", "1" * 40, Site("resid_mid", 0))
    carried = fit.through(readout, target)
    assert carried.targets == ((target, 3),)
    assert carried.inputs == fit.inputs
    assert torch.equal(carried.encode(x).dense(), fit.encode(x).dense())
    assert close(carried.reconstruct(x), fit.reconstruct(x) @ readout)
    assert close(carried.contributions(x, [1]), fit.contributions(x, [1]) @ readout)


def test_a_search_that_was_carried_elsewhere_still_searches_in_its_own_atoms() -> None:
    """What the carried fit rebuilds is in another space: as a target it would be of the wrong width, or the wrong thing."""
    fit, x = FITS["sparse"]().with_encoder(OrthogonalPursuit(k=2)), rows()
    for width in (3, fit.dictionary.d):
        carried = fit.through(random(fit.dictionary.d, width, seed=7))
        codes = carried.encode(x, target=carried.reconstruct(x))
        assert torch.equal(codes.dense(), fit.encode(x).dense())


@EVERY
def test_another_encoder_keeps_dictionary_and_base(name: str) -> None:
    fit, x = FITS[name](), rows()
    other = fit.with_encoder(OrthogonalPursuit(k=2))
    target = fit.reconstruct(x)
    codes = other.encode(x, target=target)
    assert other.dictionary is fit.dictionary
    assert torch.equal(codes.base, fit.encode(x).base)
    assert fit.with_encoder(fit.encoder) == fit


# ---------------------------------------------------------------- values


@EVERY
def test_moved_to_another_dtype_all_tensors_move_and_the_rest_stays(name: str) -> None:
    fit = FITS[name]()
    narrow = fit.to(dtype=torch.float32)
    assert narrow.dictionary.atoms.dtype == torch.float32
    assert narrow.dictionary.group.dtype == torch.int64
    assert narrow.reconstruct(rows()).dtype == torch.float32
    assert torch.allclose(narrow.reconstruct(rows()).double(), fit.reconstruct(rows()), atol=1e-3)
    assert narrow.inputs == fit.inputs
    assert dict(narrow.provenance) == {"method": "ByHand", "options": {"seed": 1}, "scores": (0.5, 1)}


def test_an_encoder_that_shares_the_dictionary_still_shares_it_after_a_move() -> None:
    moved = sparse().to(dtype=torch.float32)
    assert moved.encoder.dictionary.atoms is moved.dictionary.atoms  # type: ignore[attr-defined]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rows_of_any_dtype_are_encoded_in_the_fits_own(dtype: torch.dtype) -> None:
    fit, x = linear(), rows().to(dtype)
    assert torch.equal(fit.encode(x).value, fit.encode(x.double()).value)


def test_it_says_what_it_is() -> None:
    assert repr(nearest()) == "ByHand(5 features at resid_post.0, width 6)"
    assert linear().site == SOURCE.site
    assert fit_of(linear().dictionary, linear().encoder).inputs == ((SOURCE, D),)


def test_it_is_frozen() -> None:
    with pytest.raises(AttributeError, match="cannot assign"):
        linear().encoder = nearest().encoder  # type: ignore[misc]


def test_shapes_that_do_not_fit_are_named() -> None:
    fit = linear()
    with pytest.raises(ShapeError, match=r"ByHand\(4 features at resid_post.0, width 6\) encodes rows \[N, 6\], got \[20, 5\]"):
        fit.encode(rows()[:, :5])
    with pytest.raises(ShapeError, match="got \\[6\\]"):
        fit.encode(rows()[0])
    with pytest.raises(ShapeError, match="the dictionary is 6 wide but its targets 5"):
        Decomposition(fit.dictionary, fit.encoder, fit.inputs, ((SOURCE, 5),))
    with pytest.raises(InputError, match="feature 4 is out of range"):
        fit.contributions(rows(), [4])


def test_a_region_may_have_its_atoms_anywhere() -> None:
    """Atoms of a feature need not be neighbours, nor the centroid first."""
    group = torch.tensor([1, 0, 1, 0])
    role = torch.tensor([ROLES.index(role) for role in ("loading", "centroid", "centroid", "loading")])
    dictionary = Dictionary(random(4, D), group, role, random(0, D))
    fit = fit_of(dictionary, LinearEncoder(random(4, D, seed=1), random(D, seed=2)))
    x = rows()
    assert close(fit.activations(x).dense(), fit.encode(x).dense()[:, [1, 2]])
    assert close(fit.contributions(x, [0, 1]).sum(1), fit.reconstruct(x))
