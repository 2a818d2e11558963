"""Ranks: thin, safe-when-alone wrappers of torch.distributed, which torchrun sets up."""

from __future__ import annotations

import atexit
import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

#: Tensors up to this size are summed in one message.
SMALL_BYTES = 2**20
#: Entries that are sent at once where ranks put together what each holds a part of.
GATHERED = 1 << 24


def start() -> None:
    """Join the process group when started by torchrun (gloo on CPU, NCCL on GPU); does nothing otherwise or when joined already."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ and not is_on():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(_stop)


def _stop() -> None:
    if is_on():
        dist.destroy_process_group()


def is_on() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if is_on() else 0


def world() -> int:
    return dist.get_world_size() if is_on() else 1


def sum_(*tensors: Tensor) -> None:
    """Replace each tensor by its sum over all ranks, in place. Small ones of a dtype travel together."""
    if not is_on():
        return
    small = [tensor for tensor in tensors if tensor.nbytes <= SMALL_BYTES]
    for dtype in dict.fromkeys(tensor.dtype for tensor in small):
        alike = [tensor for tensor in small if tensor.dtype == dtype]
        joined = torch.cat([tensor.flatten() for tensor in alike])
        dist.all_reduce(joined)
        for tensor, part in zip(alike, torch.split(joined, [tensor.numel() for tensor in alike]), strict=True):
            tensor.copy_(part.view_as(tensor))
    for tensor in tensors:
        if tensor.nbytes > SMALL_BYTES:
            dist.all_reduce(tensor)


def summed(value: Tensor) -> Tensor:
    """The sum of all ranks' tensors."""
    found = value.clone()
    sum_(found)
    return found


def min_(tensor: Tensor) -> None:
    """Replace a tensor by its least over all ranks, entry by entry, in place."""
    if is_on():
        dist.all_reduce(tensor, op=dist.ReduceOp.MIN)


def largest(value: int) -> int:
    """The largest of all ranks' values; also a barrier."""
    if not is_on():
        return value
    # With a group of the caller's own that speaks NCCL only, the number has to travel by GPU.
    held = torch.tensor(value, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(held, op=dist.ReduceOp.MAX)
    return int(held)


def gather_rows(mine: Tensor) -> Tensor:
    """The rows of all ranks in the order of their batch, which dealt them to ranks in turn; on this rank's device."""
    if not is_on():
        return mine
    counts = gather(len(mine))
    padded = mine.new_zeros(max(counts), *mine.shape[1:])
    padded[: len(mine)] = mine
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    rows = mine.new_zeros(sum(counts), *mine.shape[1:])
    for number, (part, count) in enumerate(zip(parts, counts, strict=True)):
        rows[number :: len(parts)] = part[:count]
    return rows


def gather(value: Any) -> list[Any]:
    """Every rank's value, in rank order; [value] when alone."""
    if not is_on():
        return [value]
    found: list[Any] = [None] * world()
    dist.all_gather_object(found, value)
    return found


def share(n: int) -> tuple[int, int]:
    """First and last (exclusive) of n things that this rank holds, where ranks share them in order and as evenly as can be."""
    size, more = divmod(n, world())
    first = rank() * size + min(rank(), more)
    return first, first + size + (rank() < more)


def gather_shares(mine: Tensor, n: int) -> Tensor:
    """[n, ...] what all ranks hold, from this rank's `share` of it, in parts and on the CPU: it may be too large for one device."""
    own_first, own_last = share(n)
    found = torch.zeros(n, *mine.shape[1:], dtype=mine.dtype)
    step = max(1, GATHERED // max(1, found[0].numel()))
    for first in range(0, n, step):
        part = mine.new_zeros(min(step, n - first), *mine.shape[1:])
        begin, end = max(first, own_first), min(first + len(part), own_last)
        if begin < end:
            part[begin - first : end - first] = mine[begin - own_first : end - own_first]
        sum_(part)
        found[first : first + len(part)] = part.cpu()
    return found
