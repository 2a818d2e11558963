"""Devices by name, with errors that say which there are."""

from __future__ import annotations

import torch

from armillary.errors import InputError


def device_of(name: str | torch.device) -> torch.device:
    """The device with this name.

    Raises:
        InputError: no such device here.
    """
    try:
        device = torch.empty(0, device=torch.device(name)).device  # with its number, so that it equals that of a tensor there
    except (RuntimeError, AssertionError, NotImplementedError):
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *(["mps"] if torch.backends.mps.is_available() else [])]
        raise InputError(f"device {str(name)!r} is not available here; there is: {', '.join(there)}") from None
    return device
