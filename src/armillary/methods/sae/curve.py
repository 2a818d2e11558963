"""The training curve: what the batches of a stretch of steps had in common, at most `POINTS` stretches to a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from armillary.methods.sae.step import Active

POINTS = 100


@dataclass(frozen=True)
class Sums:
    """Sums over the rows of some batches, kept on their device so that no step waits for them.

    Args:
        values: [4] float64: rows, squared norm of the residuals, squared norm of the centred rows, codes that are not zero.
    """

    values: Tensor

    @staticmethod
    def of(x: Tensor, residual: Tensor, active: Active, *, counts_rows: bool = True) -> Sums:
        """Of rows x [n, D] in coordinates whose origin is the mean, their residuals [n, D] and their codes.

        Rows that another rank counts are left out, their codes are not.
        """
        n, on = x.new_tensor(len(x), dtype=torch.float64), (active.value != 0).sum()
        of_rows = torch.stack([n, residual.norm().double().square(), x.norm().double().square()])
        return Sums(torch.cat([of_rows * float(counts_rows), on.double()[None]]))

    @property
    def l0(self) -> Tensor:
        """Codes per row that are not zero."""
        return self.values[3] / self.values[0].clamp_min(1)

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.values + other.values)


class Curve:
    """Points of {step, rows, loss, fvu, l0, dead}: each the mean over the steps since the point before it.

    Args:
        n_steps: steps of the whole run.
        scale: what rows were multiplied by before training; `loss` (squared error per row) is given in the rows' own units. Of several
            sites it is the geometric mean of their scales, and the loss that of rows scaled alike.
    """

    def __init__(self, n_steps: int, scale: float) -> None:
        self.n_steps, self.scale = n_steps, scale
        self.points: list[dict[str, Any]] = []
        self._window: Sums | None = None
        self._rows = 0

    def add(self, step: int, sums: Sums, dead_share: Callable[[], float]) -> dict[str, Any] | None:
        """Take in step number `step` (from 1), and ask for the share of dead latents where a point is complete, which is returned."""
        self._window = sums if self._window is None else Sums(self._window.values.to(sums.values.device)) + sums
        if step % math.ceil(self.n_steps / POINTS) and step < self.n_steps:
            return None
        n, error, total, active = self._window.values.tolist()
        self._window = None
        self._rows += int(n)
        rows = max(1, n)
        point = {"loss": error / rows / self.scale**2, "fvu": error / total if total else float(error > 1e-9 * rows), "l0": active / rows}
        self.points.append({"step": step, "rows": self._rows, **point, "dead": dead_share()})
        return self.points[-1]

    def __str__(self) -> str:
        if not self.points:
            return ""
        last = self.points[-1]
        return f"fvu {last['fvu']:.4f}, l0 {last['l0']:.1f}, dead {last['dead']:.1%}"

    def state(self) -> dict[str, Any]:
        """What is needed to go on."""
        window = torch.zeros(0) if self._window is None else self._window.values
        return {"points": self.points, "window": window, "rows": self._rows}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.points, self._rows = [dict(point) for point in state["points"]], state["rows"]
        self._window = Sums(state["window"]) if len(state["window"]) else None
