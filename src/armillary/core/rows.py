"""Rows: where batches of activation vectors come from, and how a shuffled order is drawn without an array of N.

Letters: N rows, D columns. A store, a tensor and a live model all satisfy `Rows`,
and give the same bits for the same rows, order and dtype.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from armillary.core.site import Source
from armillary.core.tokens import Tokens
from armillary.errors import InputError, NonFiniteError, ShapeError

#: One stretch of columns per site: ((Source, n_columns), ...) from left to right.
Layout = tuple[tuple[Source | None, int], ...]


@dataclass(frozen=True)
class Batch:
    """Rows of one step.

    Args:
        x: [n, D] activations, in the dtype of their source.
        row: [n] int64 index of each row in the stored order.
    """

    x: Tensor
    row: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.x)


@runtime_checkable
class Rows(Protocol):
    """What a fit or a study reads.

    `layout` gives the width of each site; `n_rows` is None for a stream of unknown length; `tokens` is None where rows have no text;
    `record` is plain JSON on where the rows come from (text fingerprint, token policy), kept in the provenance of every result.
    """

    @property
    def layout(self) -> Layout: ...

    @property
    def n_rows(self) -> int | None: ...

    @property
    def tokens(self) -> Tokens | None: ...

    @property
    def record(self) -> Mapping[str, Any]: ...

    def batches(
        self, size: int, *, seed: int | None = None, epoch: int = 0, skip: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """Batches of one pass over the rows.

        Args:
            size: rows per batch over all ranks; the last batch of a pass may be smaller.
            seed: None for the stored order, else the key of the shuffle.
            epoch: which pass; each has an order of its own.
            skip: batches to leave out at the beginning (what a resumed run has done already).
            rank, world: this process's share: rows rank, rank + world, ... of every batch.
        """
        ...


@runtime_checkable
class IndexedRows(Rows, Protocol):
    """Rows that can also be fetched one by one, in any order: a store and a tensor, not every stream."""

    def read(self, row: NDArray[np.int64]) -> Tensor:
        """[m, D] the rows at these indices of the stored order, in the given order."""
        ...


#: Priorities of a draw are a keyed permutation of so many, all of which a float64 holds exactly.
PRIORITIES = 1 << 52


def width(layout: Layout) -> int:
    """D, the columns of all sites together."""
    return sum(columns for _, columns in layout)


class Permutation:
    """A keyed bijection of 0..n-1, computed per index: a four-round alternating Feistel network on (row, column) of a near-square table.

    Args:
        n: size of the domain.
        key: integers that choose the order, for instance (seed, epoch).

    Memory is O(1) in n; the cost is a few vectorised integer operations per index.
    """

    ROUNDS = 4

    def __init__(self, n: int, *key: int) -> None:
        self.n = n
        self._height = np.uint64(math.isqrt(max(n - 1, 0)) + 1)
        self._width = np.uint64(-(-n // int(self._height)) or 1)
        self._keys = np.random.SeedSequence([part % (1 << 64) for part in key]).generate_state(self.ROUNDS, np.uint64)

    def __call__(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Image of each index [m] in 0..n-1."""
        value = self._network(index.astype(np.uint64))
        # The table has up to height - 1 cells more than n; walking the cycle until it is back below n keeps a bijection.
        outside = np.flatnonzero(value >= self.n)
        while len(outside):
            value[outside] = self._network(value[outside])
            outside = outside[value[outside] >= self.n]
        return value.astype(np.int64)

    def _network(self, value: NDArray[np.uint64]) -> NDArray[np.uint64]:
        row = value // self._width
        column = value - row * self._width
        for first, second in zip(self._keys[::2], self._keys[1::2], strict=True):
            row = _rotated(row, column + first, self._height)
            column = _rotated(column, row + second, self._width)
        return row * self._width + column


def _rotated(value: NDArray[np.uint64], noise: NDArray[np.uint64], size: np.uint64) -> NDArray[np.uint64]:
    """(value + a number below `size` drawn by `noise`) modulo `size`, for sizes below 2^32."""
    moved = value + ((_mix(noise) >> np.uint64(32)) * size >> np.uint64(32))
    return np.minimum(moved, moved - size)  # below `size` the difference wraps around to something huge


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser: every output bit depends on every input bit."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def batch_indices(n: int, size: int, *, seed: int | None, epoch: int, skip: int, rank: int, world: int) -> Iterator[NDArray[np.int64]]:
    """The row indices of every batch of one pass: stored order for seed None, else a keyed permutation."""
    if size < 1:
        raise InputError(f"batch size must be at least 1, got {size}")
    order = None if seed is None else Permutation(n, seed, epoch)
    for start in range(skip * size, n, size):
        index = np.arange(start, min(start + size, n))[rank::world]
        yield index if order is None else order(index)


class TensorRows:
    """Rows held in memory.

    Args:
        x: [N, D] floating tensor or array.
        source: where the rows come from, if known.
        tokens: their tokens, with N rows.
    """

    def __init__(self, x: Tensor | NDArray[Any], *, source: Source | None = None, tokens: Tokens | None = None) -> None:
        tensor = torch.as_tensor(x)
        if tensor.ndim != 2 or not tensor.is_floating_point():
            raise ShapeError(f"rows must be a floating [N, D] tensor or array, got {list(tensor.shape)} of {tensor.dtype}")
        if tokens is not None and tokens.n_rows != len(tensor):
            raise ShapeError(f"{len(tensor)} rows but tokens with {tokens.n_rows} rows")
        self.x, self._source, self._tokens = tensor, source, tokens

    def __repr__(self) -> str:
        return f"TensorRows({self.x.shape[0]:,} x {self.x.shape[1]}, {self.x.dtype})"

    @property
    def layout(self) -> Layout:
        return ((self._source, self.x.shape[1]),)

    @property
    def n_rows(self) -> int:
        return len(self.x)

    @property
    def tokens(self) -> Tokens | None:
        return self._tokens

    @cached_property
    def record(self) -> Mapping[str, Any]:
        """Also a hash of the numbers, as the tensor has no other name to be known by."""
        return {"dtype": str(self.x.dtype), "data_sha256": tensor_sha256(self.x)}

    def batches(
        self, size: int, *, seed: int | None = None, epoch: int = 0, skip: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """See `Rows.batches`."""
        for index in batch_indices(self.n_rows, size, seed=seed, epoch=epoch, skip=skip, rank=rank, world=world):
            yield Batch(self.x[torch.from_numpy(index).to(self.x.device)], index)

    def read(self, row: NDArray[np.int64]) -> Tensor:
        """See `IndexedRows.read`."""
        return self.x[torch.from_numpy(row).to(self.x.device)]


def tensor_sha256(x: Tensor) -> str:
    """A hash of a tensor's bytes, in the order of its entries."""
    return hashlib.sha256(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data).hexdigest()


def as_rows(data: Rows | Tensor | NDArray[Any] | Sequence[Sequence[float]]) -> Rows:
    """Rows from rows, a tensor, an array or nested lists."""
    if isinstance(data, list | tuple):
        return TensorRows(np.asarray(data, dtype=np.float32))
    if isinstance(data, Tensor | np.ndarray):
        return TensorRows(data)
    if isinstance(data, Mapping | str | os.PathLike):
        wanted = "a path is opened with armillary.open(path)[site]" if not isinstance(data, Mapping) else "choose a site, acts[site]"
        raise InputError(f"rows of activations are needed, got {type(data).__name__}; {wanted}")
    return data  # type: ignore[return-value]  # not asked isinstance(data, Rows), which would evaluate its properties


def check_finite(batch: Batch, rows: Rows | None = None) -> None:
    """Raise `NonFiniteError` naming the first bad row, and its document where tokens are known.

    The sum is finite unless an entry is not; a sum that overflowed by itself is told apart by looking at the entries.
    """
    if bool(torch.isfinite(batch.x.float().sum())):
        return
    bad = (~torch.isfinite(batch.x)).any(dim=1).nonzero().flatten()
    if len(bad) == 0:
        return
    row = int(batch.row[int(bad[0])])
    where = "" if rows is None else _where(row, rows.tokens)
    raise NonFiniteError(f"activations hold NaN or infinity, first at row {row}{where}; leave those tokens out or use float32")


def _where(row: int, tokens: Tokens | None) -> str:
    if tokens is None:
        return ""
    document = int(tokens.document[tokens.rows[row]])
    name = tokens.documents[document].name if 0 <= document < len(tokens.documents) else ""
    return f" (document {document}{f', {name}' if name else ''})"
