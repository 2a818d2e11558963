"""The products and selections a sparse autoencoder spends its time in, from plain torch operators.

Letters: N rows, D width, M latents, K kept per row, E active codes in all (N * K for TopK), g group size.

A dense step costs six products of N x D x M; only the encoder's is needed, the rest touch E rows of a matrix:
decoding and both weight gradients are embedding bags (Gao et al. 2024, "Scaling and evaluating sparse autoencoders", appendix D.2).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from armillary.core.onednn import linear

#: Rows whose pre-activations are formed at once: on a CPU few enough to stay in cache (8 MB at M = 8192) and to come from reused memory.
CPU_ROWS = 256
#: On an accelerator, pre-activations of at most this many numbers (1 GiB in float32) are formed at once.
DEVICE_NUMBERS = 2**28
#: Rows up to this long are given to torch.topk as they are.
SHORT = 512


def row_chunk(x: Tensor, m: int) -> int:
    """How many rows of x to multiply with M = `m` latents at once."""
    return CPU_ROWS if x.device.type == "cpu" else max(CPU_ROWS, DEVICE_NUMBERS // m)


def topk_rows(p: Tensor, k: int, g: int = 8) -> tuple[Tensor, Tensor]:
    """The k largest entries of each row of p [N, M], unsorted: values and int64 indices [N, k].

    A tournament: the k largest entries lie in the k groups with the largest maxima, so the full width is read once, by a maximum.
    Exact; about half the time of torch.topk at M = 8192.
    """
    n, width = p.shape
    m = width // g
    if width <= SHORT or width % g or m < k:
        return torch.topk(p, k, dim=1, sorted=False)
    groups = p.view(n, g, m)  # group j holds columns j, j + m, j + 2m, ...
    _, best = topk_rows(groups.amax(1), k, g)  # [N, k]
    columns = (best[:, None, :] + torch.arange(0, width, m, device=p.device)[:, None]).view(n, g * k)
    value, place = p.gather(1, columns).topk(k, dim=1, sorted=False)  # [N, k]
    return value, columns.gather(1, place)


def topk_linear(x: Tensor, weight: Tensor, bias: Tensor, k: int, *, by_magnitude: bool = False) -> tuple[Tensor, Tensor]:
    """The k largest entries of each row of x @ weight.T + bias, without ever holding [N, M]: values and indices [N, k]."""
    chunks = torch.split(x, row_chunk(x, len(weight)))
    top = _top_magnitudes if by_magnitude else topk_rows
    parts = [top(linear(part, weight, bias), k) for part in chunks]
    return torch.cat([value for value, _ in parts]), torch.cat([index for _, index in parts])


def _top_magnitudes(p: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k entries of each row of p [N, M] that are largest in magnitude, with their signs: values and indices [N, k]."""
    _, index = topk_rows(p.abs(), k)
    return p.gather(1, index), index


def entries_above(x: Tensor, weight: Tensor, bias: Tensor, bound: float) -> tuple[Tensor, Tensor, Tensor]:
    """All entries of x @ weight.T + bias above `bound`, row after row, without ever holding [N, M]: value, row and column [E]."""
    parts, first = [], 0
    for part in torch.split(x, row_chunk(x, len(weight))):
        value, row, column = _above(linear(part, weight, bias), bound)
        parts.append((value, row + first, column))
        first += len(part)
    value, row, column = (torch.cat(each) for each in zip(*parts, strict=True))
    return value, row, column


def _above(p: Tensor, bound: float, g: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Entries of p [n, M] above `bound`: value, row (ascending) and column. Groups of g columns are screened by their maximum."""
    n, width = p.shape
    if width % g:
        row, column = (p > bound).nonzero(as_tuple=True)
        return p[row, column], row, column
    m = width // g
    row, group = (p.view(n, g, m).amax(1) > bound).nonzero(as_tuple=True)  # group j holds columns j, j + m, j + 2m, ...
    columns = group[:, None] + torch.arange(0, width, m, device=p.device)  # [hits, g]
    value = p[row[:, None], columns]
    hit = value > bound
    return value[hit], row[:, None].expand_as(hit)[hit], columns[hit]


def bag(table: Tensor, index: Tensor, start: Tensor, weight: Tensor) -> Tensor:
    """[B, D] sums of weight[e] * table[index[e]] over each bag's entries, which begin at start[b] and end where the next bag begins."""
    return F.embedding_bag(index, table, start, per_sample_weights=weight, mode="sum")


def column_order(latent: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """The codes sorted by latent: their order [E], and where each latent's begin [M].

    One stable sort of small integers turns the row-wise code matrix into its transpose: every weight gradient is then a bag in which
    each latent's row is written once, without atomics, so the sum is the same every time.
    """
    key = latent.to(torch.int16 if m <= 2**15 else torch.int32)
    order = key.sort(stable=True).indices
    count = torch.bincount(latent, minlength=m)
    return order, count.cumsum(0) - count
