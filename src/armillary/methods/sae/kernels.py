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
#: Candidates beyond k that are scored again where pre-activations are formed in bfloat16.
SPARE = 8
#: How far below a bound they are looked for there, as a share of the bound and of the biases.
ROUNDING = 2**-6
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


def topk_linear(
    x: Tensor, weight: Tensor, bias: Tensor, k: int, *, by_magnitude: bool = False, bf16: bool = False
) -> tuple[Tensor, Tensor]:
    """The k largest entries of each row of x @ weight.T + bias, without ever holding [N, M]: values and indices [N, k].

    With `bf16` a few more than k are found in bfloat16, scored again in the dtype of x, and cut to k.
    """
    top = _top_magnitudes if by_magnitude else topk_rows
    read = (x.bfloat16(), weight.bfloat16(), bias.bfloat16()) if bf16 else (x, weight, bias)
    n_found = min(len(weight), k + SPARE) if bf16 else k
    parts = [top(linear(part, *read[1:]), n_found) for part in torch.split(read[0], row_chunk(x, len(weight)))]
    value, index = torch.cat([value for value, _ in parts]), torch.cat([index for _, index in parts])
    if not bf16:
        return value, index
    start = torch.arange(0, index.numel(), n_found, device=x.device)
    exact = scores(x, weight, bias, index.flatten(), start).view_as(index)
    place = (exact.abs() if by_magnitude else exact).topk(k, dim=1, sorted=False).indices
    return exact.gather(1, place), index.gather(1, place)


def scores(x: Tensor, weight: Tensor, bias: Tensor, column: Tensor, start: Tensor) -> Tensor:
    """[E] entries of x @ weight.T + bias at some columns [E] of each row, whose first is at start [N].

    Autograd's rule for the weights of an embedding bag takes such products without gathering rows.
    """
    free = x.new_zeros(len(column)).requires_grad_()
    with torch.enable_grad():
        (found,) = torch.autograd.grad(bag(weight, column, start, free), free, x)
    return found + bias[column]


def _top_magnitudes(p: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k entries of each row of p [N, M] that are largest in magnitude, with their signs: values and indices [N, k]."""
    _, index = topk_rows(p.abs(), k)
    return p.gather(1, index), index


def entries_above(x: Tensor, weight: Tensor, bias: Tensor, bound: float, *, bf16: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """All entries of x @ weight.T + bias above `bound`, row after row, without ever holding [N, M]: value, row and column [E].

    With `bf16` they are looked for in bfloat16, a little below the bound, and scored again in the dtype of x.
    """
    read = (x.bfloat16(), weight.bfloat16(), bias.bfloat16()) if bf16 else (x, weight, bias)
    lower = bound - ROUNDING * float(bias.abs().mean() + abs(bound)) if bf16 else bound
    parts, first = [], 0
    for part in torch.split(read[0], row_chunk(x, len(weight))):
        value, row, column = _above(linear(part, *read[1:]), lower)
        parts.append((value, row + first, column))
        first += len(part)
    value, row, column = (torch.cat(each) for each in zip(*parts, strict=True))
    if not bf16:
        return value, row, column
    count = torch.bincount(row, minlength=len(x))
    exact = scores(x, weight, bias, column, count.cumsum(0) - count)
    keep = exact > bound
    return exact[keep], row[keep], column[keep]


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
