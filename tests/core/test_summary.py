"""Summaries of one pass: sums of groups, moments, and samples that depend on nothing but the seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from armillary.core.method import Pass
from armillary.core.moments import Moments
from armillary.core.rows import Batch, TensorRows
from armillary.core.run import drive
from armillary.core.summary import GroupSums, MomentSums, OnePass, Reservoir, Summary, group_sums
from armillary.errors import TooFewRowsError

X = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
GROUP = np.arange(500) % 3
MAKERS: dict[str, Callable[[], Summary]] = {
    "moments": lambda: MomentSums(4, covariance=True),
    "groups": lambda: GroupSums(GROUP, 3, 4),
    "sample": lambda: Reservoir(50, 0),
}


def fill(summary: Summary, *, size: int = 64, seed: int | None = None, rank: int = 0, world: int = 1) -> Summary:
    for batch in TensorRows(X).batches(size, seed=seed, rank=rank, world=world):
        summary.update(batch)
    return summary


def values(summary: Summary) -> list[Tensor]:
    return [torch.as_tensor(value) for value in summary.state().values()]


@pytest.mark.parametrize("kind", MAKERS)
def test_batches_order_and_ranks_do_not_matter(kind: str) -> None:
    wanted = values(fill(MAKERS[kind]()))
    merged = MAKERS[kind]()
    merged.merge([fill(MAKERS[kind](), rank=rank, world=3).state() for rank in range(3)])
    for other in (fill(MAKERS[kind](), size=7), fill(MAKERS[kind](), seed=9), merged):
        assert other.n_rows == 500
        for one, two in zip(values(other), wanted, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("kind", MAKERS)
def test_an_empty_share_can_be_merged(kind: str) -> None:
    merged = MAKERS[kind]()
    merged.merge([MAKERS[kind]().state(), fill(MAKERS[kind]()).state()])
    assert merged.n_rows == 500
    merged.merge([MAKERS[kind]().state()])
    assert merged.n_rows == 0, "what it held is forgotten"


def test_group_sums_are_those_of_a_loop() -> None:
    sums, counts = group_sums(X, torch.from_numpy(GROUP), 4)
    for i in range(4):
        torch.testing.assert_close(sums[i], X[torch.from_numpy(i == GROUP)].double().sum(0))
    assert counts.tolist() == [167, 167, 166, 0] and sums.dtype == torch.float64


def test_moments_can_be_of_something_computed() -> None:
    summary = fill(MomentSums(1, covariance=False, columns=lambda batch: batch.x.sum(1, keepdim=True)))
    assert isinstance(summary, MomentSums)
    torch.testing.assert_close(summary.moments.mean, Moments.of(X.sum(1, keepdim=True)).mean)


def test_a_sample_holds_each_row_once_with_its_number() -> None:
    reservoir = Reservoir(50, 0)
    fill(reservoir)
    x, row = reservoir.sample()
    assert len(reservoir) == len(set(row.tolist())) == 50 and torch.equal(x, X[torch.from_numpy(row)])


def test_few_rows_are_all_kept_in_their_own_dtype() -> None:
    reservoir = Reservoir(50, 0)
    reservoir.update(Batch(X[:20].bfloat16(), np.arange(20)))
    x, row = reservoir.sample()
    assert sorted(row.tolist()) == list(range(20)) and x.dtype == torch.bfloat16
    with pytest.raises(TooFewRowsError, match="no row to sample from"):
        Reservoir(50, 0).sample()


def drawn(n_seeds: int, weight: np.ndarray | None) -> np.ndarray:
    """[10] how often each of ten rows was among the first two, and [10] how often it was the first."""
    counts = np.zeros((2, 10))
    for seed in range(n_seeds):
        reservoir = Reservoir(2, seed, 1)
        reservoir.update(Batch(torch.zeros(10, 1), np.arange(10)), weight)
        _, row = reservoir.sample()
        counts[0, row] += 1
        counts[1, row[0]] += 1
    return counts


def test_every_row_is_as_likely() -> None:
    kept, first = drawn(1500, None)
    assert np.abs(kept - 300).max() < 5 * np.sqrt(300) and np.abs(first - 150).max() < 5 * np.sqrt(150)


def test_weighted_rows_are_drawn_in_proportion_without_replacement() -> None:
    weight = np.array([0, 1, 2, 3, 4, 0, 0, 0, 0, 10.0])
    kept, first = drawn(1500, weight)
    p = weight / weight.sum()
    assert np.abs(first - 1500 * p).max() < 5 * np.sqrt(1500 * 0.25)
    second = np.array([sum(p[i] * p[j] / (1 - p[i]) for i in range(10) if i != j) for j in range(10)])
    assert np.abs(kept - 1500 * (p + second)).max() < 5 * np.sqrt(1500 * 0.25)
    assert not kept[weight == 0].any()


def test_a_reservoir_never_holds_much_more_than_its_size() -> None:
    reservoir = Reservoir(10, 0)
    for start in range(0, 500, 5):
        reservoir.update(Batch(X[start : start + 5], np.arange(start, start + 5)))
        assert sum(len(part) for *_, part in reservoir._parts) <= 25


def test_one_pass_reads_once_and_finishes_with_its_summary() -> None:
    consumer = OnePass(MomentSums(4, covariance=False), lambda sums: sums.moments.mean)
    assert consumer.next_pass() == Pass(4096)
    drive([consumer], TensorRows(X))
    assert consumer.next_pass() is None
    torch.testing.assert_close(consumer.finish(), X.double().mean(0))
