"""Encoders that choose atoms greedily, so as to rebuild a row best. They serve any dictionary:

    fit.with_encoder(OrthogonalPursuit(k=32))

All of them take the dictionary's base off the target first and work on atoms of length one, so that a long atom has no advantage.

- Orthogonal pursuit: Pati, Rezaiifar & Krishnaprasad 1993. Its non-negative form is the active-set method of Lawson & Hanson (1974,
  chapter 23) stopped at k atoms: atoms that leave the support are replaced until k are in use or none helps.
- Matching pursuit: Mallat & Zhang 1993.
- Gradient pursuit: Blumensath & Davies 2008, one line search along the gradient per atom.

Letters: N rows, D width, M atoms, K slots of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from armillary.core.codes import Codes, sparse_codes
from armillary.core.config import Config
from armillary.core.dictionary import Dictionary
from armillary.core.encoders import Encoder, EncoderRule
from armillary.errors import InputError, ShapeError

#: Entries of the largest temporary array, 128 MB in float32; rows are worked on in groups of this size.
CHUNK = 1 << 25


# ---------------------------------------------------------------- rules and encoders


class Pursuit(Config, EncoderRule):
    """What greedy searches have in common. Abstract."""

    k: int | None = Field(default=None, ge=1)
    """Atoms per row; by default as many as the encoder it takes the place of gives each row."""
    nonnegative: bool = False
    """Whether coefficients must not be negative."""
    tolerance: float = Field(default=0.0, ge=0, lt=1)
    """Stop a row earlier, once the residual's norm is this share of the norm it began with."""

    def budget(self, encoder: Encoder | None) -> int | Encoder:
        """Atoms per row, or the encoder that tells.

        Raises:
            InputError: neither k nor an encoder of sparse codes to take its place.
        """
        if self.k is not None:
            return self.k
        if encoder is None or encoder.fires is None:
            raise InputError(f"{type(self).__name__} needs k, the atoms per row, as there is no sparse encoder to take the number from")
        return encoder


class OrthogonalPursuit(Pursuit):
    """Greedy choice of atoms, refitted by least squares after each."""

    def bind(self, dictionary: Dictionary, encoder: Encoder | None = None) -> OrthogonalPursuitEncoder:
        return OrthogonalPursuitEncoder(dictionary, self.budget(encoder), self.nonnegative, self.tolerance)


class GradientPursuit(Pursuit):
    """Greedy choice of atoms with one gradient step after each: cheaper than orthogonal pursuit, a little worse."""

    def bind(self, dictionary: Dictionary, encoder: Encoder | None = None) -> GradientPursuitEncoder:
        return GradientPursuitEncoder(dictionary, self.budget(encoder), self.nonnegative, self.tolerance)


class MatchingPursuit(Config, EncoderRule):
    """Greedy choice of one atom after the other, none ever refitted; an atom may be chosen again (Mallat & Zhang 1993)."""

    k: int = Field(ge=1)
    """Steps per row, and so the most atoms."""
    nonnegative: bool = False
    """Whether only atoms with a positive inner product are chosen."""
    tolerance: float = Field(default=0.0, ge=0, lt=1)
    """Stop a row earlier, once the residual's norm is this share of the norm it began with."""

    def bind(self, dictionary: Dictionary, encoder: Encoder | None = None) -> MatchingPursuitEncoder:
        return MatchingPursuitEncoder(dictionary, self.k, self.nonnegative, self.tolerance)


@dataclass(frozen=True)
class OrthogonalPursuitEncoder(Encoder):
    """Coefficients found by `orthogonal_pursuit` in the dictionary.

    Args:
        dictionary: what is searched.
        k: atoms per row at most, or an encoder: as many as it gives the row.
        nonnegative, tolerance: see `OrthogonalPursuit`.
    """

    dictionary: Dictionary
    k: int | Encoder
    nonnegative: bool = False
    tolerance: float = 0.0
    fires: float | None = 0.0

    def encode(self, x: Tensor, *, target: Tensor | None = None) -> Codes:
        y, k = above_base(self.dictionary, x, target), budget(self.k, x, target)
        return orthogonal_pursuit(y, self.dictionary.atoms, k, nonnegative=self.nonnegative, tolerance=self.tolerance)


@dataclass(frozen=True)
class GradientPursuitEncoder(Encoder):
    """Coefficients found by `gradient_pursuit` in the dictionary; see `OrthogonalPursuitEncoder`."""

    dictionary: Dictionary
    k: int | Encoder
    nonnegative: bool = False
    tolerance: float = 0.0
    fires: float | None = 0.0

    def encode(self, x: Tensor, *, target: Tensor | None = None) -> Codes:
        y, k = above_base(self.dictionary, x, target), budget(self.k, x, target)
        return gradient_pursuit(y, self.dictionary.atoms, k, nonnegative=self.nonnegative, tolerance=self.tolerance)


@dataclass(frozen=True)
class MatchingPursuitEncoder(Encoder):
    """Coefficients found by `matching_pursuit` in the dictionary.

    Args:
        dictionary: what is searched.
        k: steps per row at most.
        nonnegative, tolerance: see `MatchingPursuit`.
        residual: norm of the residual at which a row stops, in the rows' own units.
        stops_on_repeat: whether a row stops at the step that chooses an atom it has already.
    """

    dictionary: Dictionary
    k: int
    nonnegative: bool = False
    tolerance: float = 0.0
    residual: float = 0.0
    stops_on_repeat: bool = False
    fires: float | None = 0.0

    def encode(self, x: Tensor, *, target: Tensor | None = None) -> Codes:
        y = above_base(self.dictionary, x, target)
        stop = (self.tolerance * y.norm(dim=1)).clamp_min(self.residual)
        rule = {"nonnegative": self.nonnegative, "stops_on_repeat": self.stops_on_repeat}
        return matching_pursuit(y, self.dictionary.atoms, self.k, stop=stop, **rule)


def budget(k: int | Encoder, x: Tensor, target: Tensor | None) -> int | Tensor:
    """Atoms per row: the same for all, or [N] as many as an encoder gives each."""
    return k if isinstance(k, int) else k.encode(x, target=target).l0(k.fires or 0.0)


def above_base(dictionary: Dictionary, x: Tensor, target: Tensor | None) -> Tensor:
    """[N, D] what the atoms have to explain: the target (or x itself) less the base.

    Raises:
        ShapeError: the fit reads another space than it writes and no target was given.
    """
    y = x if target is None else target
    if y.shape[1] != dictionary.d:
        given = "x" if target is None else "target"
        raise ShapeError(
            f"a search in atoms of width {dictionary.d} needs a target that wide, got {given} of width {y.shape[1]}; pass target="
        )
    kind = search_dtype(dictionary)
    if not len(dictionary.base):
        return y.to(kind)
    return y.to(kind) - dictionary.base_codes(x).to(kind) @ dictionary.base.to(kind)


def search_dtype(dictionary: Dictionary) -> torch.dtype:
    """At least float32: half precision cannot tell nearly equal scores apart."""
    return torch.promote_types(dictionary.atoms.dtype, torch.float32)


def unit_atoms(atoms: Tensor) -> tuple[Tensor, Tensor]:
    """Atoms of length one, and their lengths [M]; an atom of length 0 stays 0 and is never chosen."""
    norm = atoms.norm(dim=1)
    norm = torch.where(norm > 0, norm, 1.0)
    return atoms / norm[:, None], norm


# ---------------------------------------------------------------- pursuits

#: New values [n, K] and which slots are in use, from rows, residuals, the chosen atoms [n, K, D] and the old values.
Update = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def orthogonal_pursuit(y: Tensor, atoms: Tensor, k: int | Tensor, *, nonnegative: bool = False, tolerance: float = 0.0) -> Codes:
    """Codes of at most k atoms per row, chosen greedily and refitted by least squares after each choice; without a base.

    Differentiable in y (the choice of atoms has no gradient).

    Args:
        y: [N, D] rows, the base taken off.
        atoms: [M, D] of any length.
        k: atoms per row, or [N] one number per row.
        nonnegative: allow positive coefficients only.
        tolerance: share of a row's norm at which its residual is small enough.
    """
    return _pursue(y, atoms, k, tolerance, _refit_nonnegative if nonnegative else _refit, nonnegative=nonnegative)


def gradient_pursuit(y: Tensor, atoms: Tensor, k: int | Tensor, *, nonnegative: bool = False, tolerance: float = 0.0) -> Codes:
    """Codes of at most k atoms per row, with a line search along the gradient after each choice; see `orthogonal_pursuit`."""
    return _pursue(y, atoms, k, tolerance, partial(_line_search, nonnegative=nonnegative), nonnegative=nonnegative)


def matching_pursuit(
    y: Tensor, atoms: Tensor, k: int, *, nonnegative: bool = False, stop: Tensor | None = None, stops_on_repeat: bool = False
) -> Codes:
    """Codes of k greedy steps per row, each of which takes the residual's part along one atom; an atom may be chosen again.

    Args:
        y: [N, D] rows, the base taken off.
        atoms: [M, D] of any length.
        k: steps.
        nonnegative: allow positive coefficients only.
        stop: [N] norm of the residual at which a row is done; by default none is.
        stops_on_repeat: whether a row is done after the step that chooses an atom it has already (that step counts).
    """
    unit, norm = unit_atoms(atoms.to(y.dtype))
    value, index, residual = y.new_zeros(len(y), k), torch.zeros(len(y), k, dtype=torch.int64, device=y.device), y
    done = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    for step in range(k):
        best, atom = _best_atom(residual, unit, nonnegative=nonnegative)
        if stop is not None and step:
            done = done | (residual.norm(dim=1) < stop)
        best = best.masked_fill(done, 0)
        same = (index[:, :step] == atom[:, None]) & (value[:, :step] != 0)
        seen = same.any(1)  # its coefficient grows; the slot of this step stays empty
        done = done | (seen if stops_on_repeat else done)
        value[:, :step] += same * best[:, None]
        value[:, step], index[:, step] = torch.where(seen, 0.0, best), torch.where(seen, 0, atom)
        residual = residual - best[:, None] * unit[atom]
    return sparse_codes(value / norm[index], index, len(unit))


def _best_atom(residual: Tensor, unit: Tensor, *, nonnegative: bool) -> tuple[Tensor, Tensor]:
    """Inner product [N] with the atom [N] that fits each residual best; 0 where none is positive and it has to be."""
    parts = [part @ unit.T for part in torch.split(residual, max(1, CHUNK // max(1, len(unit))))]
    found = [(score if nonnegative else score.abs()).argmax(1) for score in parts]
    atom = torch.cat(found) if found else torch.zeros(0, dtype=torch.int64)
    best = torch.linalg.vecdot(residual, unit[atom])
    return (best.clamp_min(0) if nonnegative else best), atom


def _pursue(y: Tensor, atoms: Tensor, k: int | Tensor, tolerance: float, update: Update, *, nonnegative: bool) -> Codes:
    """Rows are taken in groups of about equal k, so that none waits long for the others."""
    unit, norm = unit_atoms(atoms.to(y.dtype))
    most = torch.as_tensor(k, device=y.device).expand(len(y)).clamp(0, len(unit))
    slots = max(1, int(most.max())) if len(y) else 1
    rows = max(1, CHUNK // max(1, len(unit) + 2 * slots * unit.shape[1]))
    order = most.argsort(stable=True)
    value, index = y.new_zeros(len(y), slots), torch.zeros(len(y), slots, dtype=torch.int64, device=y.device)
    for part in torch.split(order, rows):
        found, chosen = _pursue_chunk(y[part], unit, most[part], tolerance, update, nonnegative=nonnegative)
        pad = (0, slots - found.shape[1])
        value, index = value.index_copy(0, part, F.pad(found, pad)), index.index_copy(0, part, F.pad(chosen, pad))
    return sparse_codes(value / norm[index], index, len(unit))


def _pursue_chunk(y: Tensor, unit: Tensor, budget: Tensor, tolerance: float, update: Update, *, nonnegative: bool) -> tuple[Tensor, Tensor]:
    """Values [n, K] and atoms [n, K]; K grows by one slot per step up to the largest budget."""
    n, slots = len(y), int(budget.max()) if len(y) else 0
    value, index = y.new_zeros(n, 0), torch.zeros(n, 0, dtype=torch.int64, device=y.device)
    on = torch.zeros(n, 0, dtype=torch.bool, device=y.device)
    residual = y
    # Positive coefficients can fall to 0 and free their slot; refilling takes further steps, which four times k bounds.
    for _ in range(slots * (4 if nonnegative else 1)):
        atom, helps = _pick(residual, y, unit, index, on, nonnegative=nonnegative)
        grows = helps & (on.sum(1) < budget) & (residual.norm(dim=1) > tolerance * y.norm(dim=1))
        if not grows.any():
            break
        if index.shape[1] < slots:
            value, index, on = F.pad(value, (0, 1)), F.pad(index, (0, 1)), F.pad(on, (0, 1))
        index, on = _place(index, on, atom, grows)
        chosen = unit[index] * on[..., None]  # [n, K, D]
        moved, kept = update(y, residual, chosen, value, on)
        # A row that is done stays as it is, or its codes would depend on the rows beside it.
        value, on = torch.where(grows[:, None], moved, value), torch.where(grows[:, None], kept, on)
        residual = y - torch.einsum("nk,nkd->nd", value, chosen)
    return value, index


@torch.no_grad()
def _pick(residual: Tensor, y: Tensor, unit: Tensor, index: Tensor, on: Tensor, *, nonnegative: bool) -> tuple[Tensor, Tensor]:
    """The atom [n] that fits each residual best, among those not in use, and whether it helps at all.

    An atom whose inner product with the residual is below sqrt(eps) of its length lies, in this dtype, in the span of the chosen ones;
    taking it in would make their Gram matrix singular.
    """
    score = residual @ unit.T  # [n, M]
    score = score if nonnegative else score.abs()
    row, slot = on.nonzero(as_tuple=True)
    score[row, index[row, slot]] = -torch.inf
    best, atom = score.max(dim=1)
    eps, length = torch.finfo(y.dtype).eps, residual.norm(dim=1)
    return atom, (best > eps**0.5 * length) & (length > 32 * eps * y.norm(dim=1))


def _place(index: Tensor, on: Tensor, atom: Tensor, grows: Tensor) -> tuple[Tensor, Tensor]:
    """Put each row's atom into its first free slot, where the row grows."""
    slot = on.int().argmin(dim=1, keepdim=True)
    is_new = torch.zeros_like(on).scatter(1, slot, grows[:, None])
    return torch.where(is_new, atom[:, None], index), on | is_new


def _refit(y: Tensor, residual: Tensor, chosen: Tensor, value: Tensor, on: Tensor) -> tuple[Tensor, Tensor]:
    """Least squares on the support."""
    gram, b = _normal_equations(y, chosen)
    return _solve(gram, b, on), on


def _refit_nonnegative(y: Tensor, residual: Tensor, chosen: Tensor, value: Tensor, on: Tensor) -> tuple[Tensor, Tensor]:
    """Lawson and Hanson's inner loop: walk towards the least-squares solution and drop the coefficients that reach 0 first."""
    gram, b = _normal_equations(y, chosen)
    while True:
        wanted = _solve(gram, b, on)
        low = on & (wanted <= 0)
        if not low.any():
            return wanted, on
        share = torch.where(low, value / (value - wanted).clamp_min(torch.finfo(y.dtype).tiny), 1.0)
        step = share.amin(1, keepdim=True)
        on = on & ~(low & (share <= step))
        value = torch.where(on, value + step * (wanted - value), 0.0)


def _line_search(y: Tensor, residual: Tensor, chosen: Tensor, value: Tensor, on: Tensor, *, nonnegative: bool) -> tuple[Tensor, Tensor]:
    """Blumensath & Davies, eqs. 10-12: move along the gradient on the support, as far as is best."""
    gradient = torch.einsum("nkd,nd->nk", chosen, residual)
    image = torch.einsum("nk,nkd->nd", gradient, chosen)
    length = image.square().sum(1, keepdim=True)
    step = (residual * image).sum(1, keepdim=True) / torch.where(length > 0, length, 1.0)
    moved = value + step * gradient
    return (moved.clamp_min(0), on & (moved > 0)) if nonnegative else (moved, on)


def _normal_equations(y: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Gram matrices [n, K, K] of the chosen atoms and their inner products [n, K] with the rows."""
    return chosen @ chosen.mT, torch.einsum("nkd,nd->nk", chosen, y)


def _solve(gram: Tensor, b: Tensor, on: Tensor) -> Tensor:
    """[n, K] coefficients of least squares on the slots in use, 0 elsewhere."""
    both = on[:, :, None] & on[:, None, :]
    system = torch.where(both, gram, 0.0) + torch.diag_embed((~on).to(gram.dtype))
    factor, failed = torch.linalg.cholesky_ex(system)
    if failed.any():  # nearly dependent atoms whose Gram matrix rounding made indefinite: a ridge as large as that rounding mends it
        ridge = 4 * on.shape[1] * torch.finfo(gram.dtype).eps
        factor = torch.linalg.cholesky(system + ridge * torch.eye(on.shape[1], dtype=gram.dtype, device=gram.device))
    return torch.cholesky_solve(torch.where(on, b, 0.0)[..., None], factor)[..., 0]
