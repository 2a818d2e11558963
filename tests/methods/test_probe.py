"""Probes against scikit-learn's, and the meaning of their patterns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from armillary.core.decomposition import Decomposition
from armillary.core.method import Labelled
from armillary.errors import InputError
from armillary.methods.diffmeans import DiffMeans
from armillary.methods.probe import Probe
from conformance import planted

TWO = planted.classes(gap=2.0)
MANY = planted.classes(n_classes=3, gap=2.0, seed=1)
VALUES = planted.values()
#: A stretch and a shift per dimension, which standardising must undo.
STRETCH, SHIFT = torch.logspace(-2, 2, 8), torch.linspace(-5, 5, 8)


def scores(fit: Decomposition, x: torch.Tensor) -> np.ndarray:
    return fit.encode(x).value.numpy()


@pytest.mark.parametrize("data", [TWO, MANY], ids=["two classes", "three classes"])
def test_logistic_agrees_with_scikit_learn(data: planted.Planted) -> None:
    x = data.x * STRETCH + SHIFT
    oracle = make_pipeline(StandardScaler(), LogisticRegression(C=0.1)).fit(x.double().numpy(), data.labels)
    theirs = oracle.decision_function(x.double().numpy()).reshape(len(x), -1)
    np.testing.assert_allclose(scores(Probe(C=0.1).fit(Labelled.of(x, data.labels)), x), theirs, rtol=0, atol=2e-3)


@pytest.mark.parametrize("alpha", [1e-3, 10.0, 1e4])
def test_ridge_agrees_with_scikit_learn(alpha: float) -> None:
    x = VALUES.x * STRETCH + SHIFT
    oracle = make_pipeline(StandardScaler(), Ridge(alpha=alpha)).fit(x.double().numpy(), VALUES.labels)
    theirs = oracle.predict(x.double().numpy())[:, None]
    np.testing.assert_allclose(scores(Probe(kind="ridge", alpha=alpha).fit(Labelled.of(x, VALUES.labels)), x), theirs, rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", ["logistic", "ridge"])
def test_held_out_rows_are_ranked(kind: str) -> None:
    fresh = planted.classes(n=3000, gap=2.0)
    fit = Probe(kind=kind).fit(Labelled.of(TWO.x, TWO.labels))
    best = roc_auc_score(fresh.labels, fresh.x.numpy() @ (TWO.parts[1] - TWO.parts[0]).numpy())  # Bayes: equal round classes
    assert roc_auc_score(fresh.labels, scores(fit, fresh.x)[:, 0]) > best - 0.005


@pytest.mark.parametrize("kind", ["logistic", "ridge"])
def test_the_sign_classifies_and_classes_are_named(kind: str) -> None:
    fit = Probe(kind=kind).fit(Labelled.of(TWO.x, np.array(["cold", "warm"])[TWO.labels]))
    assert fit.n_features == 1 and fit.provenance["classes"] == ["cold", "warm"]
    assert np.mean((scores(fit, TWO.x)[:, 0] > 0) == (TWO.labels == 1)) > 0.9
    several = Probe(kind=kind).fit(Labelled.of(MANY.x, MANY.labels))
    assert several.n_features == 3 and np.mean(scores(several, MANY.x).argmax(1) == MANY.labels) > 0.8


@pytest.mark.parametrize("kind", ["logistic", "ridge"])
@pytest.mark.parametrize("data", [TWO, MANY], ids=["two classes", "three classes"])
def test_decoding_is_the_least_squares_estimate_from_the_scores(kind: str, data: planted.Planted) -> None:
    """Haufe et al. (2014): patterns are the forward model that belongs to the backward one."""
    fit = Probe(kind=kind).fit(Labelled.of(data.x, data.labels))
    design = np.concatenate([scores(fit, data.x), np.ones((len(data.x), 1))], axis=1).astype(np.float64)
    wanted = design @ np.linalg.lstsq(design, data.x.double().numpy(), rcond=1e-6)[0]
    np.testing.assert_allclose(fit.reconstruct(data.x).numpy(), wanted, rtol=0, atol=1e-3)


def test_an_atom_moves_its_own_score_by_one() -> None:
    fit = Probe(kind="ridge").fit(Labelled.of(TWO.x, TWO.labels))
    np.testing.assert_allclose(scores(fit, TWO.x + fit.dictionary.atoms[0]), scores(fit, TWO.x) + 1, atol=1e-5)
    x = TWO.x - fit.part(fit.encode(TWO.x), [0])
    np.testing.assert_allclose(scores(fit, x), 0, atol=1e-5)


def test_patterns_are_what_the_label_does_and_weights_are_not() -> None:
    """With a noise direction shared by all dimensions, weights turn against the noise and patterns do not."""
    generator = torch.Generator().manual_seed(0)
    signal, noise = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    s = torch.randn(5000, 1, generator=generator)
    x = s @ signal + torch.randn(5000, 1, generator=generator) @ noise + 0.05 * torch.randn(5000, 2, generator=generator)
    fit = Probe(kind="ridge").fit(Labelled.of(x, s[:, 0].double().numpy()))
    assert planted.match(fit.dictionary.atoms, signal, signed=True) > 0.99
    assert planted.match(fit.encoder.weight, signal) < 0.8


def test_without_a_penalty_the_pattern_is_the_difference_of_means() -> None:
    labelled = Labelled.of(TWO.x, TWO.labels)
    pattern = Probe(kind="ridge", alpha=1e-9).fit(labelled).dictionary.atoms
    assert planted.match(pattern, DiffMeans().fit(labelled).dictionary.atoms, signed=True) > 1 - 1e-6


@pytest.mark.parametrize("kind", ["logistic", "ridge"])
def test_constant_dimensions_are_left_alone(kind: str) -> None:
    """0.1 is no float: the mean of its copies is off by rounding, which must not be taken for a spread."""
    x = torch.cat([TWO.x, torch.full((len(TWO.x), 1), 0.1), torch.full((len(TWO.x), 1), -2000.7)], dim=1)
    fit = Probe(kind=kind).fit(Labelled.of(x, TWO.labels))
    assert fit.encoder.weight[:, -2:].abs().max() < 1e-3
    np.testing.assert_allclose(scores(fit, x), scores(Probe(kind=kind).fit(Labelled.of(TWO.x, TWO.labels)), TWO.x), atol=2e-3)


def test_logistic_fits_a_seeded_sample() -> None:
    labelled = Labelled.of(TWO.x, TWO.labels)
    fits = [Probe(max_rows=300).fit(labelled, seed=seed) for seed in (0, 0, 1)]
    assert fits[0].provenance["n_rows_fitted"] == 300
    assert torch.equal(fits[0].dictionary.atoms, fits[1].dictionary.atoms)
    assert not torch.equal(fits[0].dictionary.atoms, fits[2].dictionary.atoms)


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(InputError, match="labels are float64 values where classes are needed"):
        Probe().fit(Labelled.of(VALUES.x, VALUES.labels))
    with pytest.raises(InputError, match="NaN or infinity, first at row 3"):
        Probe(kind="ridge").fit(Labelled.of(TWO.x[:5], [0.0, 1.0, 2.0, float("nan"), 0.0]))
    rare = np.zeros(1200, int)
    rare[7] = 1
    with pytest.raises(InputError, match="class '1' has no row among the 50 sampled; raise max_rows=50"):
        Probe(max_rows=50).fit(Labelled.of(TWO.x, rare))
