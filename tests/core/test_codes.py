"""Codes: sparse and dense say the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from armillary.core.codes import Codes, dense_codes, no_base, sparse_codes
from armillary.errors import ShapeError

N, K, M = 40, 3, 11


def pair(seed: int = 0) -> tuple[Codes, Codes]:
    """The same random coefficients as sparse and as dense codes; about a third of the slots are empty."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.rand(N, M, generator=generator).argsort(1)[:, :K]
    value = torch.randn(N, K, generator=generator) * (torch.rand(N, K, generator=generator) > 0.3)
    sparse = sparse_codes(value, index, M)
    dense = torch.zeros(N, M)
    for row in range(N):
        for slot in range(K):
            dense[row, index[row, slot]] += value[row, slot]
    return sparse, dense_codes(dense)


def test_sparse_and_dense_hold_the_same_coefficients() -> None:
    sparse, dense = pair()
    assert torch.equal(sparse.dense(), dense.value)
    assert dense.dense() is dense.value
    assert dense.is_dense
    assert not sparse.is_dense


@pytest.mark.parametrize("atoms", [[0], [3, 1, 10], list(range(M)), []])
def test_columns_are_those_of_the_dense_matrix(atoms: list[int]) -> None:
    sparse, dense = pair(1)
    expected = dense.value[:, torch.tensor(atoms, dtype=torch.int64)]
    assert torch.equal(sparse.columns(atoms), expected)
    assert torch.equal(dense.columns(torch.tensor(atoms, dtype=torch.int64)), expected)


def test_empty_slots_point_at_atom_0_and_count_nowhere() -> None:
    sparse, dense = pair(2)
    assert sparse.index is not None
    assert (sparse.index[sparse.value == 0] == 0).all()
    assert torch.equal(sparse.counts(), dense.counts())
    assert torch.equal(sparse.counts(), (dense.value != 0).sum(0))
    assert torch.equal(sparse.l0(), (dense.value != 0).sum(1))


def test_counting_starts_above_the_threshold_in_magnitude() -> None:
    codes = dense_codes(torch.tensor([[0.5, -0.5, 0.6, 0.0]]))
    assert codes.fires(0.5).tolist() == [[False, False, True, False]]
    assert codes.counts(0.1).tolist() == [1, 1, 1, 0]
    assert codes.l0().tolist() == [3]


@pytest.mark.parametrize("rows", [slice(5, 9), torch.tensor([7, 2, 2])])
def test_rows_can_be_taken(rows: slice | Tensor) -> None:
    for codes in pair(3):
        based = codes.with_base(torch.arange(float(N))[:, None])
        part = based[rows]
        assert torch.equal(part.dense(), based.dense()[rows])
        assert torch.equal(part.base, based.base[rows])


def test_base_is_not_a_coefficient() -> None:
    sparse, _ = pair()
    based = sparse.with_base(torch.ones(N, 2))
    assert torch.equal(based.l0(), sparse.l0())
    assert no_base(torch.ones(N, 2)).shape == (N, 0)
    assert len(based) == N
    assert repr(based) == "Codes(40 rows, 11 atoms, 3 slots)"


def test_shapes_that_do_not_fit_are_refused() -> None:
    value = torch.ones(4, 2)
    with pytest.raises(ShapeError, match="dense codes need 3 columns, got 2"):
        Codes(value, None, no_base(value), 3)
    with pytest.raises(ShapeError, match=r"indices \[4, 1\]"):
        Codes(value, torch.zeros(4, 1, dtype=torch.int64), no_base(value), 3)
    with pytest.raises(ShapeError, match="base of 3 rows"):
        Codes(value, None, torch.ones(3, 0), 2)


def test_a_column_may_be_asked_for_twice() -> None:
    codes = sparse_codes(torch.tensor([[2.0, 3.0]]), torch.tensor([[1, 3]]), 5)
    assert codes.columns([3, 3, 0, 1]).tolist() == [[3.0, 3.0, 0.0, 2.0]] == codes.dense()[:, [3, 3, 0, 1]].tolist()
