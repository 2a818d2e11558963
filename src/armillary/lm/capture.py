"""The forward passes of one block: windows of similar length together, their rows back in document order.

Letters: B windows, T positions, N rows of the block, m rows of a forward pass, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from armillary.core.shards import encode
from armillary.core.site import Site
from armillary.core.tokens import Tokens, concatenate
from armillary.errors import NonFiniteError
from armillary.lm.packing import Block, Harvested


def length_batches(lengths: NDArray[np.int64], batch_tokens: int) -> Iterator[NDArray[np.int64]]:
    """Windows grouped by similar length, the longest first, each group at most `batch_tokens` with its padding."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        count = max(1, batch_tokens // int(lengths[order[start]]))
        yield order[start : start + count]
        start += count


def capture_block(lm: Harvested, block: Block, sites: Sequence[Site], batch_tokens: int, dtype: str) -> dict[Site, dict[str, Tensor]]:
    """The rows of a block, per site as the store keeps them (see `shards.encode`), on the CPU and in stored order.

    Raises:
        NonFiniteError: NaN or infinity at a row, or a value that float16 cannot hold.
    """
    tokens = block.tokens
    out = {site: _room(tokens.n_rows, lm.width(site), dtype) for site in sites}
    first_row = np.concatenate([[0], np.cumsum(tokens.is_row)])[tokens.starts]  # [B + 1]
    for group in length_batches(tokens.lengths, batch_tokens):
        batch = concatenate([tokens.sequences(int(window), int(window) + 1) for window in group])
        row = np.concatenate([np.arange(first_row[window], first_row[window + 1]) for window in group])
        for site, value in _captured_rows(lm, batch, sites).items():
            stored = encode(value, dtype)
            _check_finite(value, stored["rows"], _Place(block, batch, row, site))
            for name, part in stored.items():
                out[site][name][torch.from_numpy(row)] = part.cpu()
    return out


def _room(n_rows: int, d: int, dtype: str) -> dict[str, Tensor]:
    """Uninitialised columns for `n_rows` rows of width `d`."""
    return {name: empty.new_empty(n_rows, *empty.shape[1:]) for name, empty in encode(torch.zeros(1, d), dtype).items()}


def _captured_rows(lm: Harvested, batch: Tokens, sites: Sequence[Site]) -> Mapping[Site, Tensor]:
    """[m, D] per site: the vectors of the tokens that are rows."""
    with torch.no_grad():
        captured = lm.capture(batch, sites)  # [B, T, D] each
    where = torch.from_numpy(batch.spread(batch.is_row))  # [B, T]
    return {site: captured[site][where.to(captured[site].device)] for site in sites}


@dataclass(frozen=True)
class _Place:
    """Where captured rows come from, for a complaint about them."""

    block: Block
    batch: Tokens
    row: NDArray[np.int64]
    site: Site

    def error(self, bad: int, what: str) -> NonFiniteError:
        token = int(self.batch.rows[bad])
        text, position = self.block.name_of(int(self.batch.document[token])), int(self.batch.position[token])
        where = f"row {self.block.n_rows_before + int(self.row[bad]):,}, text {text}, position {position}"
        return NonFiniteError(f"{self.site} {what}, first at {where}")


def _check_finite(x: Tensor, stored: Tensor, place: _Place) -> None:
    """Complain about NaN and infinity in captured rows [m, D]; the sum is finite unless an entry is not."""
    if bool(torch.isfinite(x.float().sum())) and bool(torch.isfinite(stored.float().sum())):
        return
    if len(bad := (~torch.isfinite(x)).any(dim=1).nonzero()):
        raise place.error(int(bad[0]), "holds NaN or infinity (load the model in float32, or leave that text out)")
    if len(bad := (~torch.isfinite(stored)).any(dim=1).nonzero()):
        raise place.error(int(bad[0]), "is too large for fp16 (use dtype bf16)")
