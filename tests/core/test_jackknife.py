"""The delete-a-group jackknife against what it must be for a mean, and how often it covers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from armillary.core.jackknife import jackknife_interval, leave_out


def test_of_a_mean_it_is_the_t_interval() -> None:
    x = np.random.default_rng(0).normal(size=16)
    low, high = jackknife_interval(float(x.mean()), leave_out(np.arange(16), lambda kept: float(x[kept].mean())))
    expected = stats.t.interval(0.95, 15, loc=x.mean(), scale=stats.sem(x))
    assert (low, high) == pytest.approx(expected, rel=1e-12)


def test_it_covers_the_variance_of_normal_numbers() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        x, group = rng.normal(size=400), np.arange(400) % 16
        low, high = jackknife_interval(float(x.var()), leave_out(group, lambda kept, x=x: float(x[kept].var())))
        hits += low is not None and low <= 1 <= high
    assert 180 <= hits <= 199  # 95 % of 200 is 190, with a standard deviation of 3


def test_limits_and_what_has_no_interval() -> None:
    assert jackknife_interval(0.5, [0.1, 0.9], lowest=0, highest=1) == (0, 1)
    assert jackknife_interval(0.5, [0.5]) == (None, None)
    assert jackknife_interval(0.5, [0.5, float("nan")]) == (None, None)
