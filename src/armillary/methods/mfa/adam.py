"""Adam: gradient ascent on the likelihood, as the paper's code fits its mixtures; here for comparison, from the same start as EM.

    pi = softmax(a)    W_kr = softplus(s_kr) v_kr / |v_kr|    psi = softplus(p) + floor

with Adam (Kingma and Ba 2015) at a constant rate. Unlike EM it depends on the scale of the rows, which are brought near 1 beforehand.

Letters: n rows, D width, K regions, R rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from armillary.core import distributed
from armillary.methods.mfa.em import Shape
from armillary.methods.mfa.mixture import Mixture

NAMES = ("logits", "centroids", "directions", "scales", "noise")


class Ascent:
    """Parameters in the form above, and the optimiser's memory.

    Args:
        start: where to begin.
        shape: what noise may be.
        rate: Adam's learning rate.
    """

    def __init__(self, start: Mixture, shape: Shape, rate: float) -> None:
        length = start.loadings.norm(dim=2).clamp_min(1e-6)
        values = (
            start.log_weight,
            start.centroids,
            start.loadings / length[:, :, None],
            _unsoft(length),
            _unsoft(start.noise - shape.floor),
        )
        self.parameters = dict(zip(NAMES, (value.clone().requires_grad_() for value in values), strict=True))
        self.shape, self.optimiser = shape, torch.optim.Adam(self.parameters.values(), lr=rate)

    def mixture(self) -> Mixture:
        """The parameters as they are; gradients flow."""
        at = self.parameters
        loadings = F.normalize(at["directions"], dim=2) * F.softplus(at["scales"])[:, :, None]
        noise = F.softplus(at["noise"]) + self.shape.floor
        if self.shape.noise.startswith("isotropic"):
            noise = noise.mean(1, keepdim=True).expand_as(noise)
        return Mixture(F.log_softmax(at["logits"], 0), at["centroids"], loadings, noise)

    def step(self, x: Tensor) -> float:
        """One step on a batch of all ranks, of which x [n, D] are this one's rows; the mean log-likelihood before it."""
        with torch.enable_grad():
            total = torch.logsumexp(self.mixture().log_joint(x)[0], dim=1).sum()
            self.optimiser.zero_grad(set_to_none=False)
            (-total).backward()  # type: ignore[no-untyped-call]
        told = torch.tensor([float(total.detach()), len(x)], dtype=torch.float64)
        gradients = [value.grad for value in self.parameters.values() if value.grad is not None]
        distributed.sum_(told, *gradients)
        for gradient in gradients:
            gradient.div_(float(told[1]))
        self.optimiser.step()
        return float(told[0] / told[1])

    def state(self) -> dict[str, Any]:
        memory = {
            f"{name}.{key}": value for name, one in self.parameters.items() for key, value in self.optimiser.state.get(one, {}).items()
        }
        return {"parameters": {name: value.detach() for name, value in self.parameters.items()}, "memory": memory}

    def load(self, state: Mapping[str, Any]) -> None:
        for name, value in self.parameters.items():
            value.data.copy_(state["parameters"][name])
            kept = {key.partition(".")[2]: one for key, one in state["memory"].items() if key.partition(".")[0] == name}
            if kept:
                self.optimiser.state[value] = {name: one.to(value.device) if one.ndim else one for name, one in kept.items()}


def _unsoft(value: Tensor) -> Tensor:
    """The inverse of softplus."""
    value = value.clamp_min(1e-9)
    return value + torch.log(-torch.expm1(-value))
