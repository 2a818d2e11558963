"""Convex NMF: features lie in the cone of the rows, and the error never rises."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy.optimize import nnls

import armillary as arm
from armillary.errors import InputError
from conformance import planted

DATA = planted.clusters(n=1500, m=6)
FIT = arm.ConvexNMF(n_features=6, n_points=200, max_rows=1500).fit(DATA.x)


def test_planted_centres_are_found() -> None:
    assert planted.match(FIT.dictionary.atoms, DATA.parts, signed=True) > 0.97


def test_every_feature_is_a_combination_of_rows_with_weights_that_are_not_negative() -> None:
    for atom in FIT.dictionary.atoms:
        _, distance = nnls(DATA.x.T.double().numpy(), atom.double().numpy())
        assert distance < 1e-4


def test_the_error_never_rises() -> None:
    errors = [point["relative_error"] for point in FIT.provenance["curve"]]
    assert len(errors) > 10 and all(after <= before * (1 + 1e-6) for before, after in itertools.pairwise(errors))
    residual = DATA.x - FIT.reconstruct(DATA.x)
    assert errors[-1] == pytest.approx(float(residual.square().sum() / DATA.x.square().sum()), rel=1e-2)


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="n_points must be at least n_features, 6, got 3"):
        arm.ConvexNMF(n_features=6, n_points=3).fit(DATA.x)
    with pytest.raises(InputError, match="rows that are not all 0"):
        arm.ConvexNMF(n_features=2).fit(torch.zeros(20, 4))
