"""The sums behind fidelity: resumable to the same bits, and the sum of their ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from armillary.core.artifact import read_state, write_state
from armillary.core.method import Consumer, Pass
from armillary.core.rows import TensorRows
from armillary.studies.quality.reconstruction import FitSums, TargetSums, row_sums
from armillary.studies.units import RowUnits
from toys import random_sae

ROWS = TensorRows(torch.randn(700, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 + 40)
UNITS = RowUnits.of(ROWS)


def target_sums() -> TargetSums:
    return TargetSums(slice(0, 6), 6, UNITS, Pass(100), n_sample=20, seed=3)


def fit_sums() -> FitSums:
    return FitSums(random_sae(ROWS), (slice(0, 6), slice(0, 6)), UNITS, Pass(100))


MAKERS = pytest.mark.parametrize("make", [target_sums, fit_sums])


def feed(consumer: Consumer, first: int, last: int, rank: int = 0, world: int = 1) -> Consumer:
    for i, batch in enumerate(ROWS.batches(100, rank=rank, world=world)):
        if first <= i < last:
            consumer.update(batch)
    return consumer


def same(one: Consumer, other: Consumer, rtol: float = 0.0) -> None:
    for name, value in one.state().items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, other.state()[name], rtol=rtol, atol=rtol)


@MAKERS
def test_killed_and_resumed_equals_uninterrupted(make: type[Consumer], tmp_path: Path) -> None:
    write_state(tmp_path / "state", feed(make(), 0, 3).state())
    resumed = make()
    resumed.load(read_state(tmp_path / "state"))
    same(feed(resumed, 3, 7), feed(make(), 0, 7))


@MAKERS
def test_ranks_add_up_to_one_process(make: type[Consumer]) -> None:
    ranks = [feed(make(), 0, 7, rank, 3) for rank in range(3)]
    ranks[1].merge([dict(rank.state()) for rank in ranks])
    same(ranks[1], feed(make(), 0, 7), rtol=1e-12)


def test_moments_equal_the_direct_ones() -> None:
    target = feed(target_sums(), 0, 7)
    assert isinstance(target, TargetSums)
    found = target.finish()
    mean = ROWS.x.mean(0)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-13)
    for unit, part in enumerate(ROWS.x.split(256)):
        assert found.variance[unit] == pytest.approx(float((part - mean).square().sum()), rel=1e-12)
    assert found.mean_cosine == pytest.approx(float(torch.nn.functional.cosine_similarity(ROWS.x, mean[None]).mean()))


def test_the_sample_is_uniform_and_independent_of_batches() -> None:
    def sample(size: int, seed: int) -> list[int]:
        sums = TargetSums(slice(0, 6), 6, UNITS, Pass(size), n_sample=20, seed=seed)
        for batch in ROWS.batches(size):
            sums.update(batch)
        found = sums.finish()
        torch.testing.assert_close(found.sample, ROWS.x[found.sample_row].float())
        return found.sample_row.tolist()

    assert sample(100, 3) == sample(17, 3) == sample(700, 3)
    drawn = np.concatenate([sample(350, seed) for seed in range(60)])
    assert len(set(drawn[:20].tolist())) == 20
    counts = np.histogram(drawn, bins=7, range=(0, 700))[0]
    assert counts.min() > 100
    assert counts.max() < 250  # 171 expected in each seventh of the rows


def test_rows_of_length_zero_have_no_direction() -> None:
    zero, one = torch.zeros(1, 3).double(), torch.ones(1, 3).double()
    rows, nonzero, error, _, norm, dot, ratio, cosine, relative = row_sums(zero, one, zero)[:, 0].tolist()
    assert (rows, nonzero, error, norm, dot, ratio, cosine, relative) == (1, 0, 3, pytest.approx(3), 0, 0, 0, 0)
    assert row_sums(one, zero, zero)[7, 0] == 0  # a reconstruction of length 0 has cosine 0


def test_flags_survive_a_checkpoint(tmp_path: Path) -> None:
    sums = fit_sums()
    sums.end_pass()
    write_state(tmp_path / "state", sums.state())
    other = fit_sums()
    other.load(read_state(tmp_path / "state"))
    assert other.next_pass() is None
    assert other.fired.dtype == torch.bool
