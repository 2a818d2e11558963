"""Intervals cover, tests are uniform under their null, and the oracles agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from armillary.core import statistics
from armillary.core.statistics import (
    Units,
    benjamini_hochberg,
    crossed_units,
    matched_directions,
    matched_draws,
    mean_interval,
    paired_difference,
    permutation_p,
    permutation_test,
    ratio_interval,
    wilson_interval,
)
from armillary.errors import InputError, ShapeError


def simulated_units(n: int, rng: np.random.Generator, *, rate: float = 1.0, kind: str = "document") -> Units:
    """Documents of very different lengths, each with a rate of its own around `rate`, which is the true ratio of totals."""
    length = rng.lognormal(4, 0.7, n)
    return Units(kind, np.arange(n), length * rng.gamma(2, rate / 2, n), length)


# ---------------------------------------------------------------- intervals


@pytest.mark.parametrize(("n_units", "least"), [(15, 0.89), (200, 0.92)])
def test_ratio_interval_covers_the_truth_about_95_times_in_100(n_units: int, least: float) -> None:
    rng = np.random.default_rng(1)
    intervals = [ratio_interval(simulated_units(n_units, rng), n_samples=400, seed=i) for i in range(400)]
    coverage = np.mean([low <= 1.0 <= high for low, high in intervals])
    assert least <= coverage <= 0.98


def test_ratio_interval_agrees_with_scipy_on_a_mean() -> None:
    values = np.random.default_rng(0).exponential(size=300)
    low, high = mean_interval(values, n_samples=8000)
    oracle = stats.bootstrap((values,), np.mean, n_resamples=8000, method="percentile", random_state=0).confidence_interval
    assert (low, high) == pytest.approx(tuple(oracle), abs=0.02)


def test_interval_contains_the_value_and_narrows_with_more_units() -> None:
    rng = np.random.default_rng(3)
    few, many = simulated_units(20, rng), simulated_units(2000, rng)
    widths = []
    for units in (few, many):
        low, high = ratio_interval(units)
        assert low < units.value < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 5


def test_grouping_many_units_leaves_the_interval_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    units = simulated_units(6000, np.random.default_rng(5))
    grouped = ratio_interval(units, n_samples=4000)
    monkeypatch.setattr(statistics, "MAX_UNITS", 10_000)
    assert grouped == pytest.approx(ratio_interval(units, n_samples=4000), abs=0.006)


def test_interval_does_not_depend_on_the_chunk_size_beyond_sampling_noise_and_repeats_by_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    units = simulated_units(50, np.random.default_rng(6))
    whole = ratio_interval(units, seed=4)
    assert whole == ratio_interval(units, seed=4) != ratio_interval(units, seed=5)
    monkeypatch.setattr(statistics, "CHUNK", 170)
    assert ratio_interval(units, seed=4) == pytest.approx(whole)


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_units_have_no_interval(n: int) -> None:
    units = Units.of_values("document", np.ones(n))
    assert ratio_interval(units) == (None, None)
    assert paired_difference(units, units)[1:] == (None, None)


def test_constant_units_have_a_point_interval_and_empty_denominators_none() -> None:
    assert ratio_interval(Units.of_values("seed", [2.0] * 9)) == (2.0, 2.0)
    nothing = Units("seed", np.arange(3), np.ones(3), np.zeros(3))
    assert np.isnan(nothing.value)
    assert np.isnan(ratio_interval(nothing)).all()


def test_documents_without_any_denominator_do_not_spoil_the_interval() -> None:
    units = Units("document", np.arange(4), np.array([0.0, 0, 1, 2]), np.array([0.0, 0, 2, 2]))
    low, high = ratio_interval(units)
    assert (low, high) == (0.5, 1.0)  # resamples of the two empty documents alone have no ratio and are left out


def test_units_of_unequal_lengths_are_refused() -> None:
    with pytest.raises(ShapeError, match="3 unit ids for 2 numerators"):
        Units("document", np.arange(3), np.ones(2), np.ones(3))


# ---------------------------------------------------------------- two units each


def crossed(rng: np.random.Generator, *, n: int = 40, per: int = 8, base: float = 0.0, source: float = 0.0, same: bool = False) -> Any:
    """(values [P], first, second) of things whose mean is 0: n bases with some sources each, of their own or the same population."""
    first = np.repeat(np.arange(n), per)
    second = (first + rng.integers(1, n, len(first))) % n
    values = base * rng.normal(size=n)[first] + source * rng.normal(size=n)[second] + rng.normal(size=len(first))
    return values, first, second if same else second + n


def units_of(values: Any, first: Any, second: Any) -> Units:
    return crossed_units("entity", values.mean(), (values - values.mean()) / len(values), first, second)


@pytest.mark.parametrize("same", [False, True])
def test_units_of_crossed_things_have_the_two_way_variance(same: bool) -> None:
    values, first, second = crossed(np.random.default_rng(0), base=0.5, source=1.0, same=same)
    part = (values - values.mean()) / len(values)
    units = units_of(values, first, second)
    sides = [(a[:, None] == b[None]) for a in (first, second) for b in (first, second)]
    by_hand = part @ (sides[0] | sides[1] | sides[2] | sides[3]) @ part
    of_first = np.bincount(first, part)
    assert by_hand > of_first @ of_first
    assert np.square(units.numerator - units.value).sum() / len(units) ** 2 == pytest.approx(by_hand)
    assert units.value == pytest.approx(values.mean())


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize(("base", "source"), [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.7, 0.7)])
def test_intervals_cover_whichever_side_varies(base: float, source: float, same: bool) -> None:
    rng, seen, of_base = np.random.default_rng(2), [], []
    for i in range(300):
        values, first, second = crossed(rng, base=base, source=source, same=same)
        one_way = Units("base", np.arange(40), np.bincount(first, values), np.bincount(first).astype(float))
        intervals = [ratio_interval(units, n_samples=400, seed=i) for units in (units_of(values, first, second), one_way)]
        seen.append(intervals[0][0] <= 0 <= intervals[0][1])
        of_base.append(intervals[1][0] <= 0 <= intervals[1][1])
    assert 0.9 <= np.mean(seen) <= 0.98
    if source == 1:
        assert np.mean(of_base) < 0.8, "units of bases alone know nothing of sources"


def test_differences_over_crossed_units_leave_out_what_both_share() -> None:
    rng, seen = np.random.default_rng(4), []
    for i in range(200):
        values, first, second = crossed(rng, base=3.0, source=3.0)
        theirs = values + 0.5 * rng.normal(size=80)[second]
        value, low, high = paired_difference(units_of(theirs, first, second), units_of(values, first, second), n_samples=400, seed=i)
        assert value == pytest.approx(theirs.mean() - values.mean()) and high - low < 0.6
        seen.append(low <= 0 <= high)
    assert 0.9 <= np.mean(seen) <= 0.99


def test_things_of_one_unit_are_that_unit_s() -> None:
    values, first, _ = crossed(np.random.default_rng(0), base=1.0)
    units, plain = units_of(values, first, first), np.bincount(first, values) / 8
    np.testing.assert_allclose(units.numerator, plain)


def test_pairs_of_units_that_meet_once_are_as_good_as_independent() -> None:
    values = np.random.default_rng(0).normal(size=50)
    units = units_of(values, np.arange(50), np.arange(50) + 50)
    assert np.square(units.numerator - units.value).sum() / len(units) ** 2 == pytest.approx(values.var() / 50)


def test_the_units_mean_is_the_estimate_though_some_things_have_one_unit_twice() -> None:
    values, first, second = crossed(np.random.default_rng(0), base=1.0, same=True)
    second = np.where(np.arange(len(first)) % 3 == 0, first, second)
    units = units_of(values + 5.0 * (first == second), first, second)
    assert units.value == pytest.approx(np.mean(values + 5.0 * (first == second)))


@pytest.mark.parametrize("value", [1.0, 0.0])
def test_crossed_things_that_do_not_differ_have_a_point_interval(value: float) -> None:
    units = crossed_units("entity", value, np.zeros(6), np.arange(6), np.arange(6) + 1)
    assert ratio_interval(units) == (value, value) and len(units) == 6


# ---------------------------------------------------------------- differences


def test_pairing_removes_the_variation_that_both_sides_share() -> None:
    rng = np.random.default_rng(0)
    ours = simulated_units(100, rng)
    theirs = Units("document", ours.ids, ours.numerator + 0.05 * ours.denominator, ours.denominator)
    value, low, high = paired_difference(theirs, ours)
    assert (value, low, high) == pytest.approx((0.05,) * 3)
    alone = ratio_interval(ours)
    assert alone[1] - alone[0] > 0.1


def test_paired_difference_uses_the_shared_documents_only() -> None:
    ours = Units("document", np.array([3, 1, 2]), np.array([30.0, 10, 20]), np.ones(3))
    theirs = Units("document", np.array([1, 2, 9]), np.array([9.0, 19, 1000]), np.ones(3))
    assert paired_difference(ours, theirs) == pytest.approx((1.0, 1.0, 1.0))


def test_paired_interval_covers_the_true_difference() -> None:
    rng = np.random.default_rng(2)
    hits = []
    for seed in range(300):
        ours = simulated_units(40, rng)
        theirs = Units("document", ours.ids, ours.numerator + ours.denominator * rng.normal(0.1, 0.3, 40), ours.denominator)
        _, low, high = paired_difference(theirs, ours, n_samples=400, seed=seed)
        hits.append(low <= 0.1 <= high)
    assert 0.9 <= np.mean(hits) <= 0.98


def test_features_of_different_dictionaries_are_resampled_apart() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = simulated_units(60, rng, kind="feature"), simulated_units(90, rng, rate=2.0, kind="feature")
    value, low, high = paired_difference(ours, theirs)
    assert value == ours.value - theirs.value
    assert low < value < high
    assert high - low > max(np.diff(ratio_interval(side))[0] for side in (ours, theirs))


def test_units_that_cannot_be_paired() -> None:
    one = Units.of_values("document", [1.0, 2.0])
    with pytest.raises(InputError, match="'document' cannot be paired with units of kind 'seed'"):
        paired_difference(one, Units.of_values("seed", [1.0]))
    assert paired_difference(one, Units.of_values("document", [5.0, 6.0], ids=[7, 8])) == (-4.0, None, None)


# ---------------------------------------------------------------- proportions and tests


@pytest.mark.parametrize(("successes", "n"), [(0, 5), (5, 5), (3, 17), (812, 1000)])
def test_wilson_interval_agrees_with_scipy(successes: int, n: int) -> None:
    oracle = stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson_interval(successes, n) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


def test_wilson_interval_of_no_trials_is_missing() -> None:
    assert wilson_interval(0, 0) == (None, None)


def test_benjamini_hochberg_by_hand_and_against_scipy() -> None:
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.02, 0.04, 0.04, 0.02])
    p = np.random.default_rng(0).uniform(size=200) ** 2
    assert benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p))


def test_benjamini_hochberg_leaves_tests_that_were_not_made_out_of_the_count() -> None:
    q = benjamini_hochberg([0.01, np.nan, 0.04])
    assert q == pytest.approx([0.02, np.nan, 0.04], nan_ok=True)
    assert len(benjamini_hochberg([])) == 0


def test_permutation_p_is_never_zero_and_counts_ties() -> None:
    null = np.arange(9.0)
    assert permutation_p(100.0, null) == pytest.approx(0.1)
    assert permutation_p(8.0, null) == pytest.approx(0.2)
    assert permutation_p(0.0, null, side="less") == pytest.approx(0.2)
    assert permutation_p(-7.0, null, side="two-sided") == pytest.approx(0.3)
    assert permutation_p([100.0, -1.0], np.stack([null, null], axis=1)) == pytest.approx([0.1, 1.0])


def test_permutation_test_is_uniform_under_the_null_and_finds_a_shift() -> None:
    rng = np.random.default_rng(0)
    p = [permutation_test(rng.normal(size=8), rng.normal(size=11), n_samples=200, seed=i)[1] for i in range(300)]
    assert stats.kstest(p, "uniform").pvalue > 0.01
    difference, shifted = permutation_test(rng.normal(2, 1, 20), rng.normal(0, 1, 20))
    assert 1 < difference < 3
    assert shifted < 0.002


def test_permutation_test_agrees_with_scipy() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(0.6, 1, 15), rng.normal(0, 1, 12)
    _, p = permutation_test(x, y, n_samples=6000)
    oracle = stats.permutation_test((x, y), lambda a, b: np.mean(a) - np.mean(b), n_resamples=6000, rng=1)
    assert p == pytest.approx(oracle.pvalue, abs=0.02)


# ---------------------------------------------------------------- nulls


def test_matched_directions_keep_lengths_and_nothing_else() -> None:
    atoms = torch.randn(200, 32, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 201)[:, None]
    null = matched_directions(atoms, seed=1)
    assert torch.allclose(null.norm(dim=1), atoms.norm(dim=1), rtol=1e-5)
    cosine = torch.cosine_similarity(null, atoms)
    assert cosine.mean().abs() < 0.04
    assert cosine.std() == pytest.approx(32**-0.5, rel=0.15)
    assert torch.equal(null, matched_directions(atoms, seed=1))
    assert null.dtype == atoms.dtype


def test_matched_directions_can_keep_the_covariance() -> None:
    covariance = torch.diag(torch.tensor([100.0, 1.0, 1.0, 1.0]))
    null = matched_directions(torch.ones(500, 4), covariance=covariance)
    assert null[:, 0].abs().mean() > 1.6
    assert torch.allclose(null.norm(dim=1), torch.full((500,), 2.0))


def test_matched_draws_are_near_in_key_and_never_the_feature_itself() -> None:
    key = np.random.default_rng(0).normal(size=400)
    drawn = matched_draws(key, n_samples=50, n_nearest=10)
    assert drawn.shape == (50, 400)
    assert (drawn != np.arange(400)).all()
    distance = np.abs(key[:, None] - key[None, :])
    eleventh = np.sort(distance, axis=1)[:, 10]
    assert (np.abs(key[drawn] - key) <= eleventh + 1e-12).all()
    assert len(np.unique(drawn[:, 7])) == 10


def test_matched_draws_from_another_pool_reach_every_neighbour() -> None:
    drawn = matched_draws([0.0, 10.0], [9.0, 1.0, -1.0, 11.0, 50.0], n_samples=64, n_nearest=2)
    assert [set(column) for column in drawn.T] == [{1, 2}, {0, 3}]


def test_matched_draws_among_ties_and_from_too_small_a_pool() -> None:
    same = np.zeros(30)
    assert (matched_draws(same, n_samples=40, n_nearest=5) != np.arange(30)).all()
    with pytest.raises(InputError, match="n_nearest=29"):
        matched_draws(same, n_nearest=30)


def test_an_undefined_statistic_has_an_undefined_p() -> None:
    null = np.array([[1.0, 2.0, np.nan], [0.5, 1.0, 3.0]])
    assert np.isnan(permutation_p([np.nan, 1.0, 1.0], null)).tolist() == [True, False, True]
