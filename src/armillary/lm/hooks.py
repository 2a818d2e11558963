"""One forward pass with hooks: sites are kept, edits applied, and the pass is stopped once nothing more is needed.

Letters: B sequences, T positions, D width of a site.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from armillary.core.model import At, Edit
from armillary.core.site import Site
from armillary.errors import CapabilityError, InputError, ShapeError
from armillary.lm.sites import SiteMap, Spot


class _Stop(Exception):
    """Raised in a hook when every wanted site is kept: the rest of the model is not run."""


@dataclass(frozen=True)
class Frame:
    """The tokens of one forward pass; see `At` for the fields, all [B, T]."""

    where: Tensor
    position: Tensor
    row: Tensor
    generated: Tensor

    def columns(self, start: int) -> Frame:
        """The positions from `start` on, those that are run when the others are cached."""
        return Frame(self.where[:, start:], self.position[:, start:], self.row[:, start:], self.generated[:, start:])


@dataclass
class _Tap:
    """What happens at one tensor: edits in their order, then what is kept."""

    spot: Spot
    edits: list[tuple[Edit, Spot]] = field(default_factory=list)
    keep: list[tuple[Site, Spot]] = field(default_factory=list)


class Pass:
    """Hooks on a model, to be used as a context; `run` calls the model, once or several times.

    Args:
        root: the model whose modules are hooked.
        sites: where sites lie in it.
        keep: sites whose values are kept, canonical.
        edits: applied in order, each at its site; a site's kept value is the one after its edits.
        stop: whether a run ends as soon as all of `keep` is there.
    """

    def __init__(self, root: nn.Module, sites: SiteMap, *, keep: Sequence[Site], edits: Sequence[Edit] = (), stop: bool = False) -> None:
        self._root, self._sites = root, sites
        self._wanted, self._stop = set(keep), stop
        self._taps = self._plan(keep, edits)
        self._handles: list[RemovableHandle] = []
        self._frame: Frame | None = None
        self.kept: dict[Site, Tensor] = {}

    def _plan(self, keep: Sequence[Site], edits: Sequence[Edit]) -> list[_Tap]:
        taps: dict[tuple[str, str], _Tap] = {}

        def tap(site: Site) -> tuple[_Tap, Spot]:
            spot = self._sites.spot(site)
            return taps.setdefault((spot.module, spot.part), _Tap(replace(spot, head=None))), spot

        for edit in edits:
            here, spot = tap(edit.writes)
            here.edits.append((edit, spot))
        for site in dict.fromkeys([*keep, *(self._sites.canonical(read) for edit in edits for read in edit.reads)]):
            here, spot = tap(site)
            here.keep.append((site, spot))
        return list(taps.values())

    @property
    def only_captures(self) -> bool:
        """Whether the model's own output is of no interest."""
        return self._stop

    @property
    def modules(self) -> list[str]:
        """Paths of the hooked modules."""
        return [tap.spot.module for tap in self._taps]

    def __enter__(self) -> Pass:
        for tap in self._taps:
            module = self._root.get_submodule(tap.spot.module)
            if tap.spot.part == "input":
                self._handles.append(module.register_forward_pre_hook(self._before(tap), with_kwargs=True))
            else:
                self._handles.append(module.register_forward_hook(self._after(tap)))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def run(self, frame: Frame, forward: Callable[[], Any]) -> Any:
        """Call the model for the tokens of `frame`; its output, or None where it was stopped.

        Raises:
            CapabilityError: a wanted module was never called.
        """
        self._frame, self.kept = frame, {}
        output = None
        try:
            if not (self._stop and not self._wanted):
                output = forward()
        except _Stop:
            return None
        if missing := self._wanted - set(self.kept):
            raise CapabilityError(f"site '{min(missing)}' was not reached: the model did not call that module in this pass")
        return output

    def _before(self, tap: _Tap) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            if args:
                return (self._visit(tap, args[0]), *args[1:]), kwargs
            name = "hidden_states" if "hidden_states" in kwargs else _first_tensor(kwargs, tap.spot)
            return args, {**kwargs, name: self._visit(tap, kwargs[name])}

        return hook

    def _after(self, tap: _Tap) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            if isinstance(output, Tensor):
                return self._visit(tap, output)
            if isinstance(output, dict):  # a Hugging Face ModelOutput
                name = next(iter(output))
                output[name] = self._visit(tap, output[name])
                return output
            return (self._visit(tap, output[0]), *output[1:])

        return hook

    def _visit(self, tap: _Tap, value: Tensor) -> Tensor:
        """The value the model goes on with."""
        x = self._rows(tap.spot, value)
        if tap.spot.scale != 1:
            return self._visit_scaled(tap, value, x)
        if tap.edits:
            # An edit in place must not change what autograd kept of the value before.
            x = self._edited(tap, x.clone() if tap.spot.shared else x)
            value = value.copy_(x.reshape(value.shape)) if tap.spot.shared else x.reshape(value.shape)
        return self._kept(tap, x, value)

    def _visit_scaled(self, tap: _Tap, value: Tensor, x: Tensor) -> Tensor:
        """The same where the block multiplies the value by `scale` afterwards; what no edit touches stays bit for bit."""
        scaled = x * tap.spot.scale
        new = self._edited(tap, scaled)
        back = torch.where(new == scaled, x, new / tap.spot.scale)
        return self._kept(tap, new, back.reshape(value.shape) if tap.edits else value)

    def _kept(self, tap: _Tap, x: Tensor, value: Tensor) -> Tensor:
        """`value`, once x [B, T, D] is kept wherever it is wanted."""
        for site, spot in tap.keep:
            if site not in self.kept:
                self.kept[site] = x[..., _columns(spot, x)].clone()  # the model may change its tensor in place later
        if self._stop and self._wanted <= self.kept.keys():
            raise _Stop
        return value

    def _rows(self, spot: Spot, value: Tensor) -> Tensor:
        """The value as [B, T, D]; some modules see tokens flattened [B * T, D], or heads apart [B, T, H, D / H]."""
        batch, positions = self._current.where.shape
        per_token = value.shape[:2] == (batch, positions) if value.ndim > 2 else value.shape[:1] == (batch * positions,)
        if value.ndim < 2 or not per_token or not value.is_floating_point():
            raise ShapeError(
                f"{spot.part} of module '{spot.module}' has shape {list(value.shape)}, not one vector per token of "
                f"[{batch}, {positions}, D]; choose a site with one"
            )
        return value.reshape(batch, positions, -1)

    def _edited(self, tap: _Tap, x: Tensor) -> Tensor:
        at = self._at(x.device)
        for edit, spot in tap.edits:
            columns = _columns(spot, x)
            new = edit(x[..., columns], at)
            x = new if spot.head is None else torch.cat([x[..., : columns.start], new, x[..., columns.stop :]], dim=-1)
        return x

    def _at(self, device: torch.device) -> At:
        frame = self._current
        where, position, row, generated = (part.to(device) for part in (frame.where, frame.position, frame.row, frame.generated))
        return At(where, position, row, generated, read=lambda site: self._read(site).to(device))

    def _read(self, site: Site) -> Tensor:
        """The kept value of a site that an edit reads."""
        canonical = self._sites.canonical(site)
        if canonical not in self.kept:
            raise InputError(f"an edit reads '{canonical}', which is not there yet: it must be among its `reads` and come earlier")
        return self.kept[canonical]

    @property
    def _current(self) -> Frame:
        assert self._frame is not None, "hooks run only inside `run`"
        return self._frame


def _columns(spot: Spot, x: Tensor) -> slice:
    """The columns of a head, or all."""
    if spot.head is None:
        return slice(0, x.shape[-1])
    head, n_heads = spot.head
    width = x.shape[-1] // n_heads
    return slice(head * width, (head + 1) * width)


def _first_tensor(kwargs: dict[str, Any], spot: Spot) -> str:
    names: Iterable[str] = (name for name, value in kwargs.items() if isinstance(value, Tensor) and value.is_floating_point())
    name = next(iter(names), None)
    if name is None:
        raise CapabilityError(f"module '{spot.module}' is called without a tensor of activations; use its output instead")
    return name
