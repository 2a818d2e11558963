"""Rows in memory, and the shuffled order that is computed per index."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from armillary.core.rows import Batch, Permutation, Rows, TensorRows, as_rows, batch_indices, check_finite
from armillary.core.store.shuffle import BlockPermutation
from armillary.core.tokens import Document, Tokens
from armillary.errors import InputError, NonFiniteError, ShapeError


def tokens_of(n: int) -> Tokens:
    """One document of `n` one-byte tokens, all of them rows."""
    place = np.arange(n)
    flags = np.zeros(n, bool)
    return Tokens(place, np.array([0, n]), place * 0, place, np.stack([place, place + 1], 1), flags, ~flags, [Document("x" * n, "a.txt")])


@given(n=st.integers(1, 700), seed=st.integers(-5, 1 << 40), epoch=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_a_permutation_hits_every_index_once(n: int, seed: int, epoch: int) -> None:
    image = Permutation(n, seed, epoch)(np.arange(n))
    assert sorted(image) == list(range(n))


def test_a_permutation_is_a_function_of_its_key() -> None:
    index = np.arange(1000)
    first = Permutation(1000, 3, 0)(index)
    assert (first == Permutation(1000, 3, 0)(index)).all()
    assert (first[::7] == Permutation(1000, 3, 0)(index[::7])).all(), "the image of an index does not depend on its neighbours"
    for other in (Permutation(1000, 4, 0), Permutation(1000, 3, 1), Permutation(1000, 0, 3)):
        assert (first == other(index)).mean() < 0.02


def test_negative_seeds_have_orders_of_their_own() -> None:
    index = np.arange(1000)
    assert (Permutation(1000, 3)(index) == Permutation(1000, -3)(index)).mean() < 0.02


def test_a_permutation_looks_random() -> None:
    """Over many keys every index goes to every place about equally often, and neighbours are torn apart."""
    counts = np.zeros((8, 8))
    for seed in range(2000):
        counts[np.arange(8), Permutation(8, seed)(np.arange(8))] += 1
    assert np.abs(counts - 250).max() < 6 * np.sqrt(250)
    image = Permutation(100_000, 1)(np.arange(100_000))
    assert abs(np.corrcoef(image[:-1], image[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(np.arange(100_000), image)[0, 1]) < 0.02


def test_a_permutation_of_many_indices_costs_no_memory_for_them() -> None:
    order = Permutation(10**12, 0)
    image = order(np.array([0, 1, 10**12 - 1]))
    assert len(set(image)) == 3 and image.min() >= 0 and image.max() < 10**12


@given(n=st.integers(1, 500), block=st.integers(1, 40), blocks=st.integers(1, 6), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_a_block_permutation_hits_every_index_once(n: int, block: int, blocks: int, seed: int) -> None:
    image = BlockPermutation(n, block, block * blocks, seed, 0)(np.arange(n))
    assert sorted(image) == list(range(n))


def test_a_buffer_of_a_block_permutation_holds_few_blocks_well_mixed() -> None:
    order = BlockPermutation(10_000, 100, 1000, 5, 0)
    first, second = order(np.arange(1000)), order(np.arange(1000, 2000))
    assert len(np.unique(first // 100)) == 10 and not set(first // 100) & set(second // 100)
    assert np.mean(np.diff(first) == 1) < 0.01, "rows of a block do not stay together"
    assert np.ptp(np.unique(first // 100)) > 20, "the blocks of a buffer come from all over the store"
    assert (order(np.arange(900, 1100)) == np.concatenate([first[900:], second[:100]])).all(), "an index has one image, however it is asked"


@pytest.mark.parametrize("seed", [None, 7])
def test_batches_hold_every_row_once_and_can_be_skipped(seed: int | None) -> None:
    whole = list(batch_indices(103, 10, seed=seed, epoch=2, skip=0, rank=0, world=1))
    assert [len(batch) for batch in whole] == [10] * 10 + [3]
    assert sorted(np.concatenate(whole)) == list(range(103))
    later = list(batch_indices(103, 10, seed=seed, epoch=2, skip=4, rank=0, world=1))
    assert all((a == b).all() for a, b in zip(whole[4:], later, strict=True))


def test_ranks_share_every_batch() -> None:
    whole = list(batch_indices(50, 16, seed=1, epoch=0, skip=1, rank=0, world=1))
    parts = [list(batch_indices(50, 16, seed=1, epoch=0, skip=1, rank=rank, world=3)) for rank in range(3)]
    for step, batch in enumerate(whole):
        assert sorted(np.concatenate([part[step] for part in parts])) == sorted(batch)


def test_a_batch_has_at_least_one_row() -> None:
    with pytest.raises(InputError, match="at least 1, got 0"):
        next(batch_indices(10, 0, seed=None, epoch=0, skip=0, rank=0, world=1))


def test_tensor_rows_are_rows() -> None:
    x = torch.arange(12.0).reshape(6, 2)
    rows = TensorRows(x, tokens=tokens_of(6))
    assert isinstance(rows, Rows) and rows.n_rows == 6 and rows.layout == ((None, 2),)
    for batch in rows.batches(4, seed=0):
        assert torch.equal(batch.x, x[torch.from_numpy(batch.row)]) and len(batch) == len(batch.row)


@pytest.mark.parametrize("data", [[[1.0, 2.0], [3.0, 4.0]], np.ones((2, 2)), torch.ones(2, 2)])
def test_arrays_and_lists_become_rows(data: object) -> None:
    rows = as_rows(data)  # type: ignore[arg-type]
    assert rows.n_rows == 2 and as_rows(rows) is rows


@pytest.mark.parametrize("bad", [torch.ones(3), torch.ones(2, 2, 2), torch.ones(2, 2, dtype=torch.int64)])
def test_what_is_not_a_floating_matrix_is_refused(bad: torch.Tensor) -> None:
    with pytest.raises(ShapeError, match="floating"):
        TensorRows(bad)


def test_tokens_must_match_the_rows() -> None:
    with pytest.raises(ShapeError, match="3 rows but tokens with 6 rows"):
        TensorRows(torch.ones(3, 2), tokens=tokens_of(6))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_rows_are_named(value: float) -> None:
    x = torch.zeros(4, 3)
    x[2, 1] = value
    with pytest.raises(NonFiniteError, match=r"row 5 \(document 0, a.txt\)"):
        check_finite(Batch(x, np.array([0, 2, 5, 1])), TensorRows(torch.zeros(6, 3), tokens=tokens_of(6)))


def test_large_but_finite_rows_pass() -> None:
    check_finite(Batch(torch.full((4, 4), 3e38), np.arange(4)))


@pytest.mark.parametrize(("data", "words"), [({}, "choose a site"), ("runs/acts", "armillary.open")])
def test_what_holds_rows_but_is_none_is_refused(data: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        as_rows(data)
