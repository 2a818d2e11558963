"""The method: streams, scales, starts and bad rows (experiments 4, 8 and the note's section on input)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from sklearn.metrics import adjusted_rand_score

import armillary as arm
from armillary.errors import ArmillaryWarning, InputError, ShapeError, TooFewRowsError
from armillary.methods.mfa.em import Shape
from armillary.methods.mfa.encoder import MFAEncoder
from armillary.methods.mfa.mixture import Mixture
from armillary.methods.mfa.solver import Run
from armillary.methods.mfa.start import first_mixture
from mixtures import dense, draw, log_likelihood

DATA = draw(6000, k=6, d=16, r=2)
X, HELD_OUT = DATA.x.float(), DATA.held_out.float()


def score(fit: arm.Decomposition, x: torch.Tensor = HELD_OUT) -> float:
    assert isinstance(fit.encoder, MFAEncoder)
    return float(fit.encoder.log_likelihood(x).double().mean())


@pytest.fixture(scope="module")
def whole() -> arm.Decomposition:
    return arm.MFA(n_regions=6, rank=2).fit(X, seed=0)


def test_planted_regions_are_found(whole: arm.Decomposition) -> None:
    assert score(whole) > DATA.oracle - 0.5
    assert isinstance(whole.encoder, MFAEncoder)
    assert adjusted_rand_score(DATA.held_out_region, whole.encoder.regions(HELD_OUT)) > 0.98
    weight = whole.encoder.mixture.log_weight
    assert (weight.diff() <= 0).all() and float(weight.logsumexp(0)) == pytest.approx(0, abs=1e-5)
    assert whole.n_features == 6 and whole.dictionary.feature(0).kind == "region" and whole.dictionary.feature(0).basis.shape == (2, 16)


@pytest.mark.parametrize("options", [{"solver": "stepwise"}, {"solver": "em"}, {"solver": "stepwise", "n_passes": 0}], ids=str)
def test_a_stream_ends_where_the_whole_in_memory_does(options: dict[str, Any], whole: arm.Decomposition) -> None:
    fit = arm.MFA(n_regions=6, rank=2, max_rows=1500, batch_size=1000, **options).fit(X, seed=0)
    assert fit.provenance["n_rows_in_memory"] == 1500
    assert score(fit) > score(whole) - (0.3 if options.get("n_passes") == 0 else 0.05)


def test_exact_passes_never_lower_the_log_likelihood() -> None:
    fit = arm.MFA(n_regions=6, rank=2, max_rows=500, batch_size=1000, n_iter=0, split_merge=False, n_passes=8, solver="em", tol=0).fit(X)
    curve = [point["log_likelihood"] for point in fit.provenance["curve"]][-8:]
    assert curve == sorted(curve) and curve[-1] > curve[0] + 0.01


@pytest.mark.parametrize("seed", range(3))
def test_one_stepwise_pass_is_as_good_as_four_exact_ones(seed: int) -> None:
    """Experiment 8, from the same start on few rows."""
    data = draw(20_000, k=12, d=24, r=3, apart=2.0)
    told: dict[str, Any] = {"n_regions": 12, "rank": 3, "max_rows": 600, "n_iter": 0, "split_merge": False, "tol": 0}
    stepwise = arm.MFA(**told, solver="stepwise", n_passes=0).fit(data.x.float(), seed=seed)
    exact = arm.MFA(**told, solver="em", n_passes=4).fit(data.x.float(), seed=seed)
    assert score(stepwise, data.held_out.float()) >= score(exact, data.held_out.float())


def test_gradients_lead_there_too_but_later(whole: arm.Decomposition) -> None:
    told: dict[str, Any] = {"n_regions": 6, "rank": 2, "solver": "adam", "step_size": 256}
    short, longer = (arm.MFA(**told, n_passes=n).fit(X, seed=0) for n in (2, 12))
    curve = [point["log_likelihood"] for point in longer.provenance["curve"]]
    assert score(short) < score(longer) < score(whole) + 0.02 and len(curve) == 13 and curve[-1] > curve[0]
    assert score(longer) > curve[0] + 1


def test_a_step_of_adam_is_torchs_on_the_dense_likelihood() -> None:
    """One step by hand: the sign of the gradient times the rate."""
    from armillary.methods.mfa.adam import Ascent
    from armillary.methods.mfa.em import Shape

    data = draw(50, k=3, d=6, r=2)
    start = Mixture(*(one.float() for one in (data.mixture.log_weight, data.mixture.centroids, data.mixture.loadings, data.mixture.noise)))
    ascent = Ascent(start, Shape(3, 2, "diagonal", 1e-6), 0.01)
    torch.testing.assert_close(ascent.mixture().log_joint(data.x.float())[0], start.log_joint(data.x.float())[0], rtol=1e-4, atol=1e-4)
    centroids = data.mixture.centroids.clone().requires_grad_()
    moved = Mixture(data.mixture.log_weight, centroids, data.mixture.loadings, data.mixture.noise)
    densities = torch.stack([dense(moved, k).log_prob(data.x) + data.mixture.log_weight[k] for k in range(3)], 1)
    densities.logsumexp(1).mean().backward()
    assert ascent.step(data.x.float()) == pytest.approx(log_likelihood(data.mixture, data.x), abs=1e-4)
    step = ascent.mixture().centroids.detach() - start.centroids
    large = centroids.grad.abs() > 1e-4
    torch.testing.assert_close(step[large], 0.01 * centroids.grad[large].sign().float(), rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(("times", "plus"), [(1e-4, 0.0), (1e4, 0.0), (1.0, 300.0), (10.0, -50.0)])
def test_scale_and_shift_change_only_the_units(times: float, plus: float, whole: arm.Decomposition) -> None:
    """Experiment 4."""
    moved = arm.MFA(n_regions=6, rank=2).fit(times * X + plus, seed=0)
    assert score(moved, times * HELD_OUT + plus) + 16 * math.log(times) == pytest.approx(score(whole), abs=5e-3)


def test_rotations_of_rows_with_one_variance_change_nothing() -> None:
    turn = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))[0]
    told = arm.MFA(n_regions=6, rank=2, noise="isotropic")
    assert score(told.fit(X @ turn, seed=0), HELD_OUT @ turn) == pytest.approx(score(told.fit(X, seed=0)), abs=0.05)


def test_a_fit_goes_on_from_another(whole: arm.Decomposition) -> None:
    again = arm.MFA(n_regions=6, rank=2, n_iter=3, split_merge=False).fit(X, start=whole)
    assert score(again) == pytest.approx(score(whole), abs=0.02)
    from_clusters = arm.MFA(n_regions=6, rank=2).fit(X, start=arm.KMeans(n_features=6).fit(X))
    assert score(from_clusters) > DATA.oracle - 0.5
    with pytest.raises(ShapeError, match="start has 5 features of width 16, this fit 6"):
        arm.MFA(n_regions=6, rank=2).fit(X, start=arm.KMeans(n_features=5).fit(X))


def test_a_saved_fit_is_the_same(whole: arm.Decomposition, tmp_path: Any) -> None:
    loaded = arm.load(whole.save(tmp_path / "mfa"))
    assert isinstance(loaded.encoder, MFAEncoder)
    assert torch.equal(loaded.encoder.log_likelihood(X[:50]), whole.encoder.log_likelihood(X[:50]))  # type: ignore[attr-defined]
    double = loaded.to(dtype=torch.float64)
    assert isinstance(double.encoder, MFAEncoder) and double.encoder.log_likelihood(X[:50]).dtype == torch.float64


# ---------------------------------------------------------------- bad rows


HARD = ["constant dimensions", "duplicates", "a lone row far away", "few distinct", "small", "huge", "half", "flat"]


@pytest.mark.filterwarnings("ignore::armillary.errors.ArmillaryWarning")  # that rows are few
@pytest.mark.parametrize("noise", ["diagonal", "isotropic_per_region", "diagonal_per_region"])
@pytest.mark.parametrize("kind", HARD)
def test_hard_rows_end_in_a_finite_fit(kind: str, noise: Any) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(200, 8, generator=g)
    x = {
        "constant dimensions": torch.cat([x[:, :3], torch.full((200, 5), 7.0)], dim=1),
        "duplicates": x[:20].repeat(10, 1),
        "a lone row far away": torch.cat([x, torch.full((1, 8), 1e4)]),
        "few distinct": x[:3].repeat(60, 1),
        "small": 1e-12 * x,
        "huge": 1e12 * x,
        "half": x.half(),
        "flat": x[:, :2] @ torch.randn(2, 8, generator=g),
    }[kind]
    fit = arm.MFA(n_regions=5, rank=3, noise=noise).fit(x)
    assert isinstance(fit.encoder, MFAEncoder)
    assert fit.encoder.log_likelihood(x.float()).isfinite().all() and fit.reconstruct(x.float()).isfinite().all()
    assert fit.dictionary.atoms.isfinite().all() and (fit.encoder.mixture.noise > 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 16}, "rank must be below the width D=16, got 16; try rank=4"),
        ({"rank": 0}, "rank"),
        ({"n_regions": 0}, "n_regions"),
        ({"max_rows": 5}, "max_rows must be at least 6 for this fit, got 5"),
        ({"noise": "whole"}, "noise"),
        ({"tol": -1}, "tol"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        arm.MFA(**{"n_regions": 6, "rank": 2, **options}).fit(X)


def test_rows_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="whose squares float32 cannot hold; divide them by 1e-20 first"):
        arm.MFA(n_regions=2, rank=1).fit(1e-20 * torch.eye(4).repeat(20, 1) * 2.3)
    with pytest.raises(InputError, match="MFA needs rows that differ, got 50 rows that are all the same"):
        arm.MFA(n_regions=2, rank=1).fit(torch.ones(50, 4))
    with pytest.raises(TooFewRowsError, match="at least 6 rows, got 5"):
        arm.MFA(n_regions=6, rank=1).fit(X[:5])
    with pytest.warns(ArmillaryWarning, match="60 rows are few for 6 regions of rank 2: some 180 would hold them down"):
        arm.MFA(n_regions=6, rank=2).fit(X[:60])


@pytest.mark.parametrize("noise", ["diagonal", "diagonal_per_region"])
def test_a_few_rows_too_many_for_the_batches_change_little(noise: Any) -> None:
    """The last batch of a pass in random order may hold eight rows; it must not weigh as much as the others."""
    data = draw(16_392, k=24, d=16, r=2)
    method = arm.MFA(n_regions=24, rank=2, noise=noise, max_rows=2000, batch_size=8192, n_passes=0, n_iter=5)
    even, odd = (score(method.fit(data.x[:n].float(), seed=0), data.held_out.float()) for n in (16_384, 16_392))
    assert odd == pytest.approx(even, abs=0.1)


@pytest.mark.parametrize("noise", ["diagonal", "diagonal_per_region"])
def test_a_sweep_does_not_overrate_its_last_rows(noise: Any) -> None:
    data = draw(4097, k=16, d=16, r=2)
    x, shape = data.x.float(), Shape(16, 2, noise, 1e-4)
    start = first_mixture(x, shape, seed=0)
    found = []
    for n in (4096, 4097):
        run = Run(start, shape)
        run.sweep(x[:n], 512, seed=0)
        found.append(log_likelihood(run.mixture.to(torch.float64), data.held_out))
    assert found[1] == pytest.approx(found[0], abs=0.15)


def test_no_passes_of_gradients_are_the_start() -> None:
    assert len(arm.MFA(n_regions=3, rank=2, solver="adam", n_passes=0).fit(HELD_OUT, seed=0).provenance["curve"]) == 1


def test_a_region_beyond_all_regions_is_not_asked_for(whole: arm.Decomposition) -> None:
    n = whole.n_features
    for rows in (HELD_OUT[:5], HELD_OUT[:0]):
        share, region = whole.encoder.top(rows, n + 14)  # type: ignore[attr-defined]
        assert share.shape == region.shape == (len(rows), n) and region.dtype == torch.int64
