"""The same forward pass in fewer, better kernels: oneDNN products for linear layers, one kernel for GELU. CPU, float32, inference only.

A model is left as it was found: the layers' `forward` is replaced for the time of a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from armillary.core import onednn

#: Hugging Face's names for the tanh approximation of GELU, written there as a chain of eight kernels.
_TANH_GELU = {"NewGELUActivation", "GELUTanh", "FastGELUActivation", "BloomGelu"}


class Fast:
    """Faster layers for one model.

    Args:
        model: a module on the CPU in float32.
    """

    def __init__(self, model: nn.Module) -> None:
        self._forwards = [(module, forward) for module in model.modules() if (forward := _faster(module)) is not None]

    @property
    def n_layers(self) -> int:
        """How many layers have a faster forward."""
        return len(self._forwards)

    @contextmanager
    def on(self) -> Iterator[None]:
        """The faster layers are in place inside, and only there."""
        with in_place(self._forwards):
            yield


@contextmanager
def in_place(forwards: Sequence[tuple[nn.Module, Callable[..., Any]]]) -> Iterator[None]:
    """Other `forward` functions for some modules, inside; afterwards each has what it had, be it its class's or one of its own."""
    before = [(module, module.__dict__.get("forward")) for module, _ in forwards]
    for module, forward in forwards:
        module.__dict__["forward"] = forward
    try:
        yield
    finally:
        for module, forward_before in before:
            del module.__dict__["forward"]
            if forward_before is not None:
                module.__dict__["forward"] = forward_before


def _faster(module: nn.Module) -> Callable[..., Any] | None:
    """A drop-in `forward` for a layer, or None where there is none."""
    kind = type(module).__name__
    if "forward" in module.__dict__:  # somebody else's, such as one that moves tensors between devices
        return None
    if kind in _TANH_GELU:
        return partial(F.gelu, approximate="tanh")
    if not onednn.agrees():
        return None
    if type(module) is nn.Linear and _is_plain(module.weight):
        return partial(_linear, module.weight, module.bias)
    if kind == "Conv1D" and isinstance(module.weight, Tensor) and _is_plain(module.weight):
        return partial(_conv1d, module, {})
    return None


def _is_plain(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32


def _linear(weight: Any, bias: Any, x: Tensor) -> Tensor:
    return onednn.linear(x, weight, bias)


def _conv1d(module: Any, kept: dict[tuple[int, int], Tensor], x: Tensor) -> Tensor:
    """Conv1D keeps its weight as [D, M]; the transposed copy is made anew when that has changed."""
    state = (module.weight.data_ptr(), module.weight._version)
    if state not in kept:
        kept.clear()
        kept[state] = module.weight.detach().T.contiguous()
    return _linear(kept[state], module.bias, x)
