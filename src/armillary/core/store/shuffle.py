"""BlockPermutation: a shuffled order for stores that do not fit in memory.

Letters: n rows, b block, B rows of a buffer.

Blocks of consecutive rows are dealt into buffers in a random order, and the rows of a buffer are shuffled, so that a reader fetches
whole blocks and holds one buffer. Like `Permutation` it is computed per index and holds no array of n.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from armillary.core.rows import Permutation


class BlockPermutation:
    """A keyed bijection of 0..n-1 whose positions i * B to (i + 1) * B - 1 lie in about B / b blocks.

    Args:
        n: rows.
        block: rows that are read together; the last n mod block rows are a short block that stays last.
        buffer: rows among which the order is uniform, a multiple of `block`.
        key: integers that choose the order, for instance (seed, epoch).
    """

    def __init__(self, n: int, block: int, buffer: int, *key: int) -> None:
        self.n, self.block, self.buffer, self.key = n, block, buffer, key
        self._n_whole = n // block
        self._blocks = Permutation(self._n_whole, *key, 0)

    def __call__(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Image of each index [m] in 0..n-1."""
        place = np.empty_like(index)
        for buffer in np.unique(index // self.buffer):
            here = index // self.buffer == buffer
            place[here] = self._within(int(buffer), index[here])
        return self._from_block(place)

    def _within(self, buffer: int, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Shuffle inside one buffer."""
        start = buffer * self.buffer
        size = min(self.buffer, self.n - start)
        return start + Permutation(size, *self.key, buffer + 1)(index - start)

    def _from_block(self, place: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row at each place of the dealt blocks; the short last block lies where it was."""
        block, offset = place // self.block, place % self.block
        whole = block < self._n_whole
        block[whole] = self._blocks(block[whole])
        return block * self.block + offset
