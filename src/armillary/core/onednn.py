"""float32 products through oneDNN: twice the rate of torch's own on many CPUs, plain tensors in and out."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias for x [..., D] and weight [M, D], through oneDNN where it may be used (CPU, float32, no gradient wanted)."""
    wants_gradient = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    is_plain = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and x.numel() > 0
    if is_plain and not wants_gradient and agrees():
        return _onednn(x, weight, bias)
    return F.linear(x, weight, bias)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


@cache
def agrees() -> bool:
    """Whether torch's private oneDNN operator exists here and gives what `F.linear` gives. Tried once per process."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((33, 48), (70, 48), (70,)))
    try:
        with torch.no_grad():
            found = _onednn(x, weight, bias)
    except (AttributeError, RuntimeError):  # the build has no oneDNN, or the operator changed
        return False
    return torch.allclose(found, F.linear(x, weight, bias), rtol=1e-5, atol=1e-5)
