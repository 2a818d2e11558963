"""Moments: exact merging in any order, and no loss of digits far from the origin."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from armillary.core.moments import Moments
from armillary.errors import InputError

BOTH = pytest.mark.parametrize("covariance", [False, True])


def sample(n: int = 500, d: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=generator) * torch.arange(1.0, d + 1) + 2


@BOTH
def test_moments_agree_with_numpy(covariance: bool) -> None:
    x = sample()
    moments, wide = Moments.of(x, covariance=covariance), x.double().numpy()
    assert moments.n == 500
    assert np.allclose(moments.mean, wide.mean(0), rtol=1e-13)
    assert np.allclose(moments.variance, wide.var(0), rtol=1e-12)
    assert moments.total == pytest.approx(((wide - wide.mean(0)) ** 2).sum(), rel=1e-12)
    if covariance:
        assert np.allclose(moments.covariance, np.cov(wide.T), rtol=1e-12)


@BOTH
@pytest.mark.parametrize("seed", range(3))
def test_parts_merge_in_any_order_and_grouping(covariance: bool, seed: int) -> None:
    x = sample()
    rng = np.random.default_rng(seed)
    cuts = sorted(rng.integers(0, 500, size=6))
    parts = [Moments.of(part, covariance=covariance) for part in np.split(x, cuts)]
    rng.shuffle(parts)  # type: ignore[arg-type]
    while len(parts) > 1:
        i = int(rng.integers(len(parts) - 1))
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    whole = Moments.of(x, covariance=covariance)
    assert parts[0].n == 500
    assert torch.allclose(parts[0].mean, whole.mean, rtol=1e-12)
    assert torch.allclose(parts[0].scatter, whole.scatter, rtol=1e-10)


def test_far_from_the_origin_no_digit_is_lost() -> None:
    """With mean 1e4 and deviation 1, the mean of squares minus the square of the mean in float32 has nothing right."""
    generator = torch.Generator().manual_seed(1)
    x = 1e4 + torch.randn(4096, 8, generator=generator)
    merged = sum((Moments.of(part) for part in x.split(100)), Moments.empty(8))
    assert torch.allclose(merged.variance, x.double().var(0, correction=0), rtol=1e-9)
    naive = x.square().mean(0) - x.mean(0).square()
    assert not torch.allclose(naive.double(), merged.variance, rtol=0.5)


def test_millions_of_small_steps_do_not_drift() -> None:
    x = 100 + sample(4000, 2)
    merged = Moments.empty(2)
    for row in x.split(1):
        merged = merged + Moments.of(row)
    assert torch.allclose(merged.variance, x.double().var(0, correction=0), rtol=1e-10)


@BOTH
def test_nothing_is_neutral(covariance: bool) -> None:
    nothing, some = Moments.empty(5, covariance=covariance), Moments.of(sample(), covariance=covariance)
    for merged in (nothing + some, some + nothing):
        assert torch.equal(merged.mean, some.mean)
        assert torch.equal(merged.scatter, some.scatter)
    assert Moments.of(sample()[:0], covariance=covariance).n == 0
    assert (nothing + nothing).total == 0.0
    assert not nothing.variance.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_rows_are_summed_in_float64(dtype: torch.dtype) -> None:
    x = sample().to(dtype)
    moments = Moments.of(x)
    assert moments.mean.dtype == moments.scatter.dtype == torch.float64
    assert np.allclose(moments.variance, x.double().numpy().var(0), rtol=1e-12)


def test_state_is_the_whole_of_it() -> None:
    moments = Moments.of(sample(), covariance=True)
    again = Moments(**moments.state())  # type: ignore[arg-type]
    assert again.n == moments.n
    assert torch.equal(again.covariance, moments.covariance)


def test_covariance_must_have_been_asked_for() -> None:
    with pytest.raises(InputError, match="covariance=True"):
        _ = Moments.of(sample()).covariance
