"""A model's weights: their hash, and a pass without gradients for them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No gradient reaches the weights: none is computed for them, and none is left behind in them."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def gain(norm: nn.Module, like: Tensor) -> Tensor:
    """[D] what a norm multiplies each entry of a row by, besides dividing by its size; `like` [..., D] is of its dtype and device."""
    signs = torch.ones_like(like.flatten(0, -2)[:1])
    signs[:, ::2] = -1  # size 1 and mean 0
    with torch.no_grad():
        found: Tensor = norm(signs) - norm(-signs)
    return (found / (2 * signs))[0]


def weights_hash(module: nn.Module) -> str:
    """40 hex digits that are equal exactly when names, shapes, dtypes and bytes of all parameters and buffers are."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:40]
