"""DiffMeans: what its atom, code and base stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from armillary.core.method import Labelled
from armillary.errors import InputError, ShapeError
from armillary.methods.diffmeans import DiffMeans
from conformance import planted

TWO = planted.classes()
MANY = planted.classes(n_classes=4, seed=1)


def mean(data: planted.Planted, number: int) -> torch.Tensor:
    return data.x[torch.from_numpy(data.labels == number)].mean(0)


def test_the_atom_carries_one_mean_onto_the_other() -> None:
    fit = DiffMeans().fit(Labelled.of(TWO.x, TWO.labels))
    assert fit.n_features == 1 and fit.provenance["classes"] == ["0", "1"]
    torch.testing.assert_close(mean(TWO, 0) + fit.dictionary.atoms[0], mean(TWO, 1), rtol=0, atol=1e-5)


def test_the_code_is_a_half_at_the_means_and_zero_between() -> None:
    fit = DiffMeans().fit(Labelled.of(TWO.x, TWO.labels))
    low, high = mean(TWO, 0), mean(TWO, 1)
    codes = fit.encode(torch.stack([low, (low + high) / 2, high])).value.flatten()
    torch.testing.assert_close(codes, torch.tensor([-0.5, 0.0, 0.5]), rtol=0, atol=1e-5)


def test_its_sign_classifies() -> None:
    fit = DiffMeans().fit(Labelled.of(TWO.x, TWO.labels))
    fresh = planted.classes(n=2000)  # the same means, other rows
    positive = fit.encode(fresh.x).value[:, 0].numpy() > 0
    assert np.mean(positive == (fresh.labels == 1)) > 0.99


def test_decoding_projects_onto_the_line_through_the_means() -> None:
    fit = DiffMeans().fit(Labelled.of(TWO.x, TWO.labels))
    got, direction = fit.reconstruct(TWO.x), fit.dictionary.atoms[0]
    middle = (mean(TWO, 0) + mean(TWO, 1)) / 2
    wanted = middle + ((TWO.x - middle) @ direction / direction.square().sum())[:, None] * direction
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


def test_many_classes_have_a_direction_each_against_the_rest() -> None:
    fit = DiffMeans().fit(Labelled.of(MANY.x, MANY.labels))
    for number in range(4):
        is_rest = torch.from_numpy(MANY.labels != number)
        torch.testing.assert_close(fit.dictionary.atoms[number], mean(MANY, number) - MANY.x[is_rest].mean(0), rtol=0, atol=1e-5)
        ends = fit.encode(torch.stack([mean(MANY, number), MANY.x[is_rest].mean(0)])).value[:, number]
        torch.testing.assert_close(ends, torch.tensor([0.5, -0.5]), rtol=0, atol=1e-5)
    assert np.mean(fit.encode(MANY.x).value.argmax(1).numpy() == MANY.labels) > 0.97


def test_names_of_classes_are_kept() -> None:
    texts = np.array(["cold", "warm"])[TWO.labels]
    fit = DiffMeans().fit(Labelled.of(TWO.x, texts))
    assert fit.provenance["classes"] == ["cold", "warm"]
    named = DiffMeans().fit(Labelled.of(TWO.x, TWO.labels.astype(bool), names=("no", "yes")))
    assert named.provenance["classes"] == ["no", "yes"]
    assert torch.equal(named.dictionary.atoms, fit.dictionary.atoms)


def test_class_numbers_need_not_be_consecutive() -> None:
    fit = DiffMeans().fit(Labelled.of(TWO.x, 5 + 4 * TWO.labels))
    assert fit.provenance["classes"] == ["5", "9"] and fit.n_features == 1


def test_equal_means_have_no_direction() -> None:
    fit = DiffMeans().fit(Labelled.of(torch.ones(6, 3), [0, 1] * 3))
    assert (fit.encode(torch.randn(5, 3)).value == 0).all()


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(InputError, match=r"DiffMeans is supervised: pass Labelled\.of"):
        DiffMeans().fit(TWO.x)
    with pytest.raises(InputError, match=r"all 1200 labels are \[1\]; at least two classes"):
        DiffMeans().fit(Labelled.of(TWO.x, np.ones(1200, int)))
    with pytest.raises(InputError, match="labels are float64 values where classes are needed"):
        DiffMeans().fit(Labelled.of(TWO.x, np.linspace(0, 1, 1200)))
    with pytest.raises(ShapeError, match="3 labels for 1200 rows"):
        Labelled.of(TWO.x, [0, 1, 0])
