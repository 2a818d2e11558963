"""Codes: the coefficients of a decomposition, one type for every method.

Letters: N rows, K slots per row, M atoms, M0 base vectors, m chosen atoms.

    x_hat = base @ dictionary.base  +  sum over slots of value * dictionary.atoms[index]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from armillary.errors import ShapeError


@dataclass(frozen=True)
class Codes:
    """Sparse or dense coefficients.

    Args:
        value: [N, K] coefficients; K = M when dense.
        index: [N, K] int64 atom of each slot, or None when dense. An unused slot has value 0 and index 0; an atom fills one slot at most.
        base: [N, M0] coefficients of the base, which is never counted, matched or ablated.
        n_atoms: M.
    """

    value: Tensor
    index: Tensor | None
    base: Tensor
    n_atoms: int

    def __post_init__(self) -> None:
        if self.index is None and self.value.shape[1] != self.n_atoms:
            raise ShapeError(f"dense codes need {self.n_atoms} columns, got {self.value.shape[1]}")
        if self.index is not None and self.index.shape != self.value.shape:
            raise ShapeError(f"code values are {list(self.value.shape)} but their indices {list(self.index.shape)}")
        if len(self.base) != len(self.value):
            raise ShapeError(f"codes of {len(self.value)} rows have a base of {len(self.base)} rows")

    def __len__(self) -> int:
        return len(self.value)

    def __repr__(self) -> str:
        kind = "dense" if self.index is None else f"{self.value.shape[1]} slots"
        return f"Codes({len(self):,} rows, {self.n_atoms:,} atoms, {kind})"

    @property
    def is_dense(self) -> bool:
        return self.index is None

    def dense(self) -> Tensor:
        """[N, M] coefficients."""
        if self.index is None:
            return self.value
        return self.value.new_zeros(len(self), self.n_atoms).scatter_add(1, self.index, self.value)

    def columns(self, atoms: Sequence[int] | Tensor) -> Tensor:
        """[N, m] coefficients of the given atoms, without forming the dense matrix."""
        wanted = torch.as_tensor(atoms, device=self.value.device, dtype=torch.int64)
        if self.index is None:
            return self.value[:, wanted]
        different, column = torch.unique(wanted, return_inverse=True)
        slot = torch.full((self.n_atoms,), len(different), device=wanted.device)  # one spare column takes all other atoms
        slot[different] = torch.arange(len(different), device=wanted.device)
        out = self.value.new_zeros(len(self), len(different) + 1)
        return out.scatter_add(1, slot[self.index], self.value)[:, column]

    def fires(self, threshold: float = 0.0) -> Tensor:
        """[N, K] bool: slots whose coefficient is above `threshold` in magnitude."""
        return self.value.abs() > threshold

    def counts(self, threshold: float = 0.0) -> Tensor:
        """[M] int64: in how many rows each atom fires."""
        on = self.fires(threshold)
        return on.sum(0) if self.index is None else torch.bincount(self.index[on], minlength=self.n_atoms)

    def l0(self, threshold: float = 0.0) -> Tensor:
        """[N] int64: atoms that fire in each row."""
        return self.fires(threshold).sum(1)

    def with_base(self, base: Tensor) -> Codes:
        """The same coefficients over another base [N, M0]."""
        return replace(self, base=base)

    def __getitem__(self, rows: slice | Tensor) -> Codes:
        index = None if self.index is None else self.index[rows]
        return Codes(self.value[rows], index, self.base[rows], self.n_atoms)


def no_base(x: Tensor) -> Tensor:
    """[N, 0]: the base of codes that have none yet."""
    return x.new_zeros(len(x), 0)


def dense_codes(value: Tensor) -> Codes:
    """Codes of every atom, [N, M], without a base."""
    return Codes(value, None, no_base(value), value.shape[1])


def sparse_codes(value: Tensor, index: Tensor, n_atoms: int) -> Codes:
    """Codes of K slots per row, without a base; slots with value 0 are given index 0."""
    return Codes(value, index.masked_fill(value == 0, 0), no_base(value), n_atoms)
