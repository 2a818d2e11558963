"""The forward passes of one block: windows of similar length together, their rows back in document order.

Letters: B windows of a forward pass, T positions, N rows of the block, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from armillary.core.site import Site
from armillary.core.store.shards import encode
from armillary.core.tokens import Tokens, concatenate
from armillary.errors import NonFiniteError
from armillary.lm.packing import Block, Harvested

#: Per site the columns of `shards.encode`.
Stored = dict[Site, dict[str, Tensor]]


def length_batches(lengths: NDArray[np.int64], batch_tokens: int) -> Iterator[NDArray[np.int64]]:
    """Windows grouped by similar length, the longest first, each group at most `batch_tokens` with its padding."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        count = max(1, batch_tokens // int(lengths[order[start]]))
        yield order[start : start + count]
        start += count


def capture_block(lm: Harvested, block: Block, sites: Sequence[Site], batch_tokens: int, dtype: str) -> Stored:
    """The rows of a block, per site as the store keeps them (see `shards.encode`), on the CPU and in stored order.

    Raises:
        NonFiniteError: NaN or infinity at a row, or a value that float16 cannot hold.
    """
    tokens = block.tokens
    out = {site: _room(tokens.n_rows, lm.width(site), dtype) for site in sites}
    first_row = np.concatenate([[0], np.cumsum(tokens.is_row)])[tokens.starts]  # [B + 1]
    for group in length_batches(tokens.lengths, batch_tokens):
        batch = concatenate([tokens.sequences(int(window), int(window) + 1) for window in group])
        stored = _captured(lm, batch, sites, dtype)
        for i, window in enumerate(group):
            low, high = tokens.starts[window], tokens.starts[window + 1]
            _place(stored, i, tokens.is_row[low:high], out, slice(first_row[window], first_row[window + 1]))
    for site, columns in out.items():
        _check_finite(columns, block, site, dtype)
    return out


def _room(n_rows: int, d: int, dtype: str) -> dict[str, Tensor]:
    """Uninitialised columns for `n_rows` rows of width `d`."""
    return {name: empty.new_empty(n_rows, *empty.shape[1:]) for name, empty in encode(torch.zeros(1, d), dtype).items()}


def _captured(lm: Harvested, batch: Tokens, sites: Sequence[Site], dtype: str) -> Stored:
    """One forward pass, as the store keeps it: columns [B, T, ...] on the CPU, padding included."""
    with torch.no_grad():
        captured = lm.capture(batch, sites)  # [B, T, D] each
    encoded = {site: encode(x.flatten(0, 1), dtype) for site, x in captured.items()}
    n, t = next(iter(captured.values())).shape[:2]
    return {site: {name: part.cpu().reshape(n, t, *part.shape[1:]) for name, part in columns.items()} for site, columns in encoded.items()}


def _place(stored: Stored, window: int, is_row: NDArray[np.bool_], out: Stored, rows: slice) -> None:
    """Copy the rows of one window to where they belong."""
    where = np.flatnonzero(is_row)
    is_run = int(where[-1]) - int(where[0]) + 1 == len(where)
    pick = slice(int(where[0]), int(where[-1]) + 1) if is_run else torch.from_numpy(where)
    for site, columns in stored.items():
        for name, part in columns.items():
            out[site][name][rows] = part[window, pick]


def _check_finite(columns: Mapping[str, Tensor], block: Block, site: Site, dtype: str) -> None:
    """Complain about NaN and infinity in stored rows; for int8 the scales tell. The extremes are finite exactly when all entries are."""
    told = columns.get("scale", columns["rows"])
    if len(told) == 0 or bool(torch.isfinite(torch.stack(torch.aminmax(told))).all()):
        return
    bad = int((~torch.isfinite(told)).reshape(len(told), -1).any(dim=1).nonzero()[0])
    cause = " or too large for fp16 (use dtype bf16)" if dtype == "fp16" else " (load the model in float32, or leave that text out)"
    raise NonFiniteError(f"{site} is NaN, infinite{cause}: first at {_where(block, bad)}")


def _where(block: Block, row: int) -> str:
    """Row, text and position of a row of the block; a special token is placed by the text around it."""
    tokens, token = block.tokens, int(block.tokens.rows[row])
    window = int(np.searchsorted(tokens.starts, token, side="right")) - 1
    number = int(tokens.document[tokens.starts[window] : tokens.starts[window + 1]].max())
    return f"row {block.n_rows_before + row:,}, text {block.name_of(number)}, position {tokens.position[token]}"
