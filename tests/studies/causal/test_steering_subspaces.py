"""Steering features of several atoms: along what they add to the rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import armillary as arm
from armillary.core.dictionary import Dictionary
from armillary.core.edits import Add
from armillary.core.encoders import LinearEncoder
from armillary.studies.causal import steering
from armillary.studies.causal.steering_aims import Aimer
from armillary.studies.causal.steering_evidence import Gather, principal
from steered import SMALL, planted, report, rows, subject, world
from toys import ReluEncoder


def subspace(turn: torch.Tensor) -> arm.Decomposition:
    """The topics' directions, and one that rows hardly have, as one feature in a basis turned by a matrix [3, 3]."""
    fit = planted()
    encoder = fit.encoder
    assert isinstance(encoder, ReluEncoder)
    dictionary = replace(Dictionary.of_directions(turn @ fit.dictionary.atoms), group=torch.zeros(3, dtype=torch.int64))
    return replace(fit, dictionary=dictionary, encoder=LinearEncoder(turn @ encoder.weight, torch.zeros(fit.dictionary.d)))


def test_the_principal_direction_is_that_of_what_is_added() -> None:
    rng = torch.Generator().manual_seed(0)
    basis, c = torch.randn(3, 8, generator=rng).double(), torch.randn(500, 3, generator=rng).double() * torch.tensor([0.1, 2.0, 0.5])
    c = c - torch.tensor([0.0, 1.0, 0.0])
    parts = c @ basis
    _, size, axes = torch.linalg.svd(parts, full_matrices=False)
    found = principal(basis, c.T @ c / 500, c.mean(0))
    assert float(found.norm()) == pytest.approx(float(size[0]) / 500**0.5)
    assert abs(float(torch.nn.functional.cosine_similarity(found, axes[0], dim=0))) == pytest.approx(1)
    assert float(parts.mean(0) @ found) > 0 and float(basis[1] @ found) < 0
    assert float(principal(basis, torch.zeros(3, 3).double(), torch.zeros(3).double()).norm()) == 0


def test_subspaces_are_steered_along_what_they_add_whatever_their_basis() -> None:
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2)))[0]
    aims = []
    for fit in (subspace(torch.eye(3)), subspace(turn)):
        consumer = Gather(fit, rows(), [0], n=8, n_others=16, batch_size=500, seed=0)
        arm.core.run.drive([consumer], rows())
        aims.append(Aimer(fit, world()[0], consumer.finish(), 6, 10, 0.5, 0).aim(0))
    one, other = (aim.families["feature"].make(1.0, None) for aim in aims)
    assert isinstance(one, Add) and isinstance(other, Add)
    torch.testing.assert_close(one.direction, other.direction, rtol=1e-4, atol=1e-5)
    first = subspace(turn).dictionary.atoms[0]
    assert abs(float(torch.nn.functional.cosine_similarity(one.direction, first, dim=0))) < 0.99
    _, tokens, x = world()
    parts = subspace(turn).contributions(x[consumer._is_first(np.arange(len(x))) & ~tokens.is_special], [0])[:, 0]
    _, size, axes = torch.linalg.svd(parts, full_matrices=False)
    assert float(one.direction.norm()) == pytest.approx(float(size[0]) / len(parts) ** 0.5, rel=1e-3)
    assert abs(float(axes[0] @ one.direction / one.direction.norm())) == pytest.approx(1, abs=1e-4)
    assert float(parts.mean(0) @ one.direction) > 0


def test_how_subspaces_are_steered_is_said() -> None:
    some = SMALL.model_copy(update={"features": (0,), "least_auroc": 0.5})
    found = steering.run(subject(what=subspace(torch.eye(3))), config=some)
    assert found.tables["features"]["kind"] == ["subspace"]
    assert any("principal direction of what they add" in note for note in found.notes)
    assert {"feature", "against it", "random direction"} <= set(found.tables["strengths"]["along"])
    bare = steering.run(subject(what=subspace(torch.eye(3)), rows=None), config=some)
    assert any("along their first atom" in note for note in bare.notes)
    assert not any("ubspaces" in note for note in report().notes)
