"""Candidates: a lower bound near the whole, the same fit, and rows that no candidate explains (experiment 3, gated)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

import armillary as arm
from armillary.errors import InputError
from armillary.methods.mfa.em import Shape, expect
from armillary.methods.mfa.encoder import MFAEncoder
from armillary.methods.mfa.gate import Gate, consider, gap, gate_for, within
from armillary.methods.mfa.solver import solve
from armillary.methods.mfa.start import around
from mixtures import dense, draw, log_likelihood

DATA = draw(4000, k=40, d=24, r=2, apart=2.5)
X = DATA.x


def test_the_mean_covariance_is_that_of_the_regions() -> None:
    wanted = sum(DATA.mixture.log_weight[k].exp() * dense(DATA.mixture, k).covariance_matrix for k in range(40))
    torch.testing.assert_close(within(DATA.mixture), wanted)


def test_in_the_sketch_the_mean_region_is_white() -> None:
    gate = Gate.of(DATA.mixture, 8)
    torch.testing.assert_close(gate.sketch.T @ within(DATA.mixture) @ gate.sketch, torch.eye(24).double(), rtol=1e-4, atol=1e-4)


def test_candidates_hold_the_region_of_nearly_every_row() -> None:
    found = Gate.of(DATA.mixture, 8).candidates(X)
    assert found.shape == (4000, 8) and all(len(set(row)) == 8 for row in found[:50].tolist())
    best = DATA.mixture.log_joint(X)[0].argmax(1)
    assert (found == best[:, None]).any(1).double().mean() > 0.97


def test_some_regions_are_worked_out_as_all_are() -> None:
    regions = Gate.of(DATA.mixture, 5).candidates(X[:100])
    value, white = DATA.mixture.log_joint_of(X[:100], regions)
    whole, inside = DATA.mixture.log_joint(X[:100])
    torch.testing.assert_close(value, whole.gather(1, regions))
    torch.testing.assert_close(white, inside.gather(1, regions[:, :, None].expand(-1, -1, 2)))


def test_what_is_computed_is_a_lower_bound_and_all_candidates_reach_it() -> None:
    data = draw(2000, k=40, d=24, r=4, apart=1.0)
    gaps = [gap(data.mixture, Gate.of(data.mixture, n), data.x) for n in (2, 20, 40)]
    assert all((one >= 0).all() for one in gaps)
    assert gaps[0].mean() > gaps[1].mean() > 0 and gaps[2].max() < 1e-9
    assert gaps[1].mean() < 0.05


def test_rows_that_no_candidate_explains_are_compared_with_more() -> None:
    gate = Gate.of(DATA.mixture, 6)
    wrong = replace(
        gate, weights=gate.weights.roll(7, 0), offset=gate.offset.roll(7), places=gate.places.roll(7, 0)
    )  # misleads all, of whom one in five is helped
    found = consider(DATA.mixture, X[:1000], wrong)
    whole = DATA.mixture.log_joint(X[:1000])[0]
    helped = (found.joint.logsumexp(1) - whole.topk(6, dim=1).values.logsumexp(1)).abs() < 1e-9
    assert 200 <= int(helped.sum()) <= 450
    narrow = replace(wrong, n_candidates=1)  # of whom one in five sees eight regions, and 2 in 100 all
    best = consider(DATA.mixture, X[:1000], narrow).joint[:, 0]
    reached = [(best >= whole.topk(n, dim=1).values[:, -1] - 1e-9).sum() for n in (1, 40)]
    assert 20 <= int(reached[0]) < int(reached[1]) == 1000
    assert found.regions is not None
    torch.testing.assert_close(found.joint, whole.gather(1, found.regions))


def test_candidates_are_doubled_until_the_bound_is_near() -> None:
    data = draw(2000, k=40, d=24, r=4, apart=1.0)
    gate = gate_for(data.mixture, 2, data.x[:300])
    assert gate is None or (gate.n_candidates > 2 and float(gap(data.mixture, gate, data.x[:300]).mean()) <= 0.01)
    easy = gate_for(DATA.mixture, 12, X[:300])
    assert easy is not None and easy.n_candidates == 12
    assert gate_for(DATA.mixture, None, X) is None and gate_for(DATA.mixture, 40, X) is None


@pytest.mark.parametrize("seed", range(3))
def test_from_one_start_gated_steps_end_where_whole_ones_do(seed: int) -> None:
    """Experiment 3, gated: within 0.05 nats."""
    x, shape = X.float(), Shape(40, 2, "diagonal", 1e-4)
    first = around(x, DATA.region, shape, torch.Generator().manual_seed(seed))
    first = replace(first, centroids=first.centroids + 0.5 * torch.randn(40, 24, generator=torch.Generator().manual_seed(seed)))
    ends = [
        log_likelihood(solve(x, first, shape, n_steps=30, tol=1e-4, moves=False, seed=0, n_candidates=n).mixture, DATA.held_out.float())
        for n in (None, 10)
    ]
    assert ends[1] == pytest.approx(ends[0], abs=0.05)


def test_gated_fits_find_planted_regions_too() -> None:
    fit = arm.MFA(n_regions=40, rank=2, gating=10).fit(X.float(), seed=2)
    assert isinstance(fit.encoder, MFAEncoder) and fit.encoder.gate is not None and fit.provenance["n_moves"] > 1
    assert log_likelihood(fit.encoder.mixture, DATA.held_out.float()) > DATA.oracle - 2  # as without a gate, on so few rows


def test_a_gated_stream_goes_on_to_the_same_bits(tmp_path: Any) -> None:
    method = arm.MFA(n_regions=20, rank=2, gating=6, max_rows=800, batch_size=300, n_passes=2)
    fit = method.fit(X.float(), seed=0)
    assert fit.provenance["n_rows_in_memory"] == 800
    assert torch.equal(method.fit(X.float(), seed=0).dictionary.atoms, fit.dictionary.atoms)
    loaded = arm.load(fit.save(tmp_path / "fit"))
    assert torch.equal(loaded.encode(X[:40].float()).dense(), fit.encode(X[:40].float()).dense())


def test_a_gated_encoder_reads_as_a_whole_one_does() -> None:
    mixture = DATA.mixture.to(torch.float32)
    whole, gated = MFAEncoder(mixture), MFAEncoder(mixture, gate=Gate.of(mixture, 16))
    x = X[:500].float()
    same = (whole.regions(x) == gated.regions(x)).double().mean()
    assert same > 0.99
    assert (gated.log_likelihood(x) <= whole.log_likelihood(x) + 1e-3).all()
    share = gated.responsibilities(x)
    assert share.shape == (500, 40) and torch.allclose(share.sum(1), torch.ones(500), atol=1e-5)
    assert (share - whole.responsibilities(x)).abs().mean() < 1e-3
    assert (gated.encode(x).dense() - whole.encode(x).dense()).abs().mean() < 1e-2
    top, region = gated.top(x, 3)
    torch.testing.assert_close(top, share.gather(1, region))


@pytest.mark.parametrize(
    ("gating", "n_regions", "wanted"), [("auto", 40, None), ("auto", 600, 16), (None, 600, None), (7, 40, 7), (50, 40, None)]
)
def test_who_is_gated(gating: Any, n_regions: int, wanted: int | None) -> None:
    assert arm.MFA(n_regions=n_regions, gating=gating).n_candidates == wanted


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="gating"):
        arm.MFA(n_regions=4, gating=0)
    assert math.isfinite(expect(DATA.mixture, X[:3], Gate.of(DATA.mixture, 4)).log_likelihood)
