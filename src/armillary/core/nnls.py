"""Non-negative least squares over all atoms of any dictionary: min ||y - c A||^2 over c >= 0.

    fit.with_encoder(NNLS(tolerance=1e-6))

Atoms count as of length one. Where many of them have no entry in common (the features of a factorisation with few neurons each), those
are updated together, group by group, which is exact (`sweeps`); elsewhere by accelerated projected gradients with restarts (Beck and
Teboulle 2009; O'Donoghue and Candes 2015).

Letters: N rows, D width, M atoms.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import embedding_bag

from armillary.core.codes import Codes, dense_codes
from armillary.core.config import Config
from armillary.core.dictionary import Dictionary
from armillary.core.encoders import Encoder, EncoderRule
from armillary.core.pursuit import above_base, search_dtype, unit_atoms
from armillary.core.sweeps import apart, sweep_groups

#: Entries of the largest temporary array, 128 MB in float32; rows are worked on in groups of this size.
CHUNK = 1 << 25
#: Rows that are swept together: what they need stays near the processor.
SWEPT = 2048
#: Atoms whose inner products are kept for sweeps, at most: 64 MB in float32.
MOST_SWEPT = 4096
#: Steps between two looks at which rows have converged.
STEPS, SWEEPS = 10, 6


class NNLS(Config, EncoderRule):
    """Non-negative least squares over all atoms."""

    tolerance: float = Field(1e-4, gt=0)
    """Largest violation of the optimality conditions, relative to the row's largest inner product with an atom."""
    max_steps: int = Field(2000, ge=1)
    """Steps, each over all coefficients, after which a row is taken as it is."""
    price: float = Field(0.0, ge=0)
    """Cost of a coefficient's size (an L1 penalty), in the units of the rows; atoms count as of length one."""
    debias: bool = True
    """Where there is a price: solve again, without it, among the atoms that it left in use."""

    def bind(self, dictionary: Dictionary, encoder: Encoder | None = None) -> NNLSEncoder:
        return NNLSEncoder(dictionary, self.tolerance, self.max_steps, self.price, self.debias)


@dataclass(frozen=True)
class NNLSEncoder(Encoder):
    """Dense non-negative coefficients; those at the bound are exactly 0.

    Args:
        dictionary: what is searched.
        tolerance, max_steps, price, debias: see `NNLS`.
    """

    dictionary: Dictionary
    tolerance: float = 1e-4
    max_steps: int = 2000
    price: float = 0.0
    debias: bool = True
    fires: float | None = 0.0

    def encode(self, x: Tensor, *, target: Tensor | None = None) -> Codes:
        y = above_base(self.dictionary, x, target)
        solve = partial(nonnegative_least_squares, y, self._known, tolerance=self.tolerance, max_steps=self.max_steps)
        found = solve(price=self.price)
        return dense_codes(solve(within=found > 0) if self.price and self.debias else found)

    @cached_property
    def _known(self) -> Quadratic:
        return Quadratic.of(self.dictionary.atoms.to(search_dtype(self.dictionary)))


# ---------------------------------------------------------------- the search


@dataclass(frozen=True)
class Quadratic:
    """What least squares needs to know of the atoms, whatever the rows: computed once per dictionary.

    Args:
        unit: [M, D] atoms of length one, and their lengths [M].
        norm: [M].
    """

    unit: Tensor
    norm: Tensor

    @staticmethod
    def of(atoms: Tensor) -> Quadratic:
        return Quadratic(*unit_atoms(atoms))

    @cached_property
    def groups(self) -> list[Tensor]:
        """Atoms that may be updated together; none where there are too many groups, or where a device does not wait for small steps."""
        is_small = len(self.unit) <= MOST_SWEPT and self.unit.device.type == "cpu"
        return apart(self.inner) if is_small else []

    @cached_property
    def inner(self) -> Tensor:
        """[M, M] unit @ unit.T."""
        return self.unit @ self.unit.T

    @cached_property
    def outer(self) -> Tensor:
        """[D, D] unit.T @ unit."""
        return self.unit.T @ self.unit

    def inner_products(self, y: Tensor) -> Tensor:
        """[M, N] unit @ y.T, from the few entries that atoms have."""
        if 4 * self.entries.shape[1] > y.shape[1]:
            return self.unit @ y.T
        weights = self.unit.gather(1, self.entries)
        return embedding_bag(self.entries, y.T.contiguous(), per_sample_weights=weights, mode="sum")

    @cached_property
    def entries(self) -> Tensor:
        """[M, S] where the atoms are not 0; shorter ones are filled up with places where they are."""
        n_entries = int((self.unit != 0).sum(1).max())
        return self.unit.abs().topk(n_entries, dim=1, sorted=False).indices

    @property
    def is_narrow(self) -> bool:
        """Whether there are no more atoms than dimensions."""
        return len(self.unit) <= self.unit.shape[1]

    @cached_property
    def lipschitz(self) -> Tensor:
        """The largest eigenvalue of either product."""
        gram = self.inner if self.is_narrow else self.outer
        largest: Tensor = torch.linalg.eigvalsh(gram)[-1]
        return largest.clamp_min(torch.finfo(gram.dtype).tiny)

    def times_gram(self, code: Tensor) -> Tensor:
        """[N, M] code @ unit @ unit.T."""
        return code @ self.inner if self.is_narrow else (code @ self.unit) @ self.unit.T


def nonnegative_least_squares(
    y: Tensor,
    atoms: Tensor | Quadratic,
    *,
    tolerance: float = 1e-4,
    max_steps: int = 2000,
    price: float = 0.0,
    within: Tensor | None = None,
) -> Tensor:
    """[N, M] the c >= 0 that minimises ||y - c @ atoms||^2 / 2 + price * sum of c, row by row; the price is of atoms of length 1.

    Args:
        y: [N, D] rows.
        atoms: [M, D], or what was computed of them before.
        tolerance: largest violation of the Karush-Kuhn-Tucker conditions, relative to the row's largest <y, atom> > 0 (atoms of length 1).
        max_steps: steps at most, each over all coefficients.
        price: of a coefficient's size.
        within: [N, M] bool, the coefficients that may differ from 0; all by default.
    """
    known = atoms if isinstance(atoms, Quadratic) else Quadratic.of(atoms.to(y.dtype))
    by_sweeps = bool(known.groups) and not (y.requires_grad or known.unit.requires_grad)
    n_rows = SWEPT if by_sweeps else max(1, CHUNK // max(1, 4 * len(known.unit)))
    found = []
    for first in range(0, len(y), n_rows):
        part = slice(first, first + n_rows)
        b = known.inner_products(y[part]) if by_sweeps else (y[part] @ known.unit.T).T
        b = b - price
        # A coefficient that may not differ from 0 is one that nothing speaks for.
        b = b if within is None else b.masked_fill(~within[part].T, -torch.inf)
        found.append(_swept(b, known, tolerance, max_steps) if by_sweeps else _fista(b.T, known, tolerance, max_steps))
    return torch.cat(found) / known.norm if found else y.new_zeros(0, len(known.unit))


def _swept(linear: Tensor, known: Quadratic, tolerance: float, max_steps: int) -> Tensor:
    """[N, M] minimiser of c G c / 2 - b c over c >= 0, by sweeps; rows leave the work once half of them have converged.

    Args:
        linear: b, as [M, N], as every update is of one atom's coefficients.
        known: of the atoms.
        tolerance, max_steps: see `nonnegative_least_squares`.
    """
    found, row = linear.new_zeros(linear.shape[::-1]), torch.arange(linear.shape[1])
    code = torch.zeros_like(linear)
    for _ in range(0, max_steps, SWEEPS):
        sweep_groups(code, linear, known.inner, known.groups, SWEEPS)
        left = violation(code.T, linear.T, (known.inner @ code).T) > tolerance
        if not left.any():
            break
        if 2 * int(left.sum()) <= len(row):
            found[row[~left]] = code.T[~left]
            row, linear, code = row[left], linear[:, left], code[:, left]
    found[row] = code.T
    return found


def _fista(b: Tensor, known: Quadratic, tolerance: float, max_steps: int) -> Tensor:
    """[N, M] minimiser of c G c / 2 - b c over c >= 0; rows leave the work as they converge."""
    found = torch.zeros_like(b)
    row = torch.arange(len(b), device=b.device)
    code, ahead, t = found, found, b.new_ones(len(b), 1)
    for step in range(1, max_steps + 1):
        new = (ahead - (known.times_gram(ahead) - b) / known.lipschitz).clamp_min(0)
        turns = ((ahead - new) * (new - code)).sum(1, keepdim=True) > 0  # the momentum points uphill: start it afresh
        t = torch.where(turns, 1.0, t)
        t_new = (1 + (1 + 4 * t.square()).sqrt()) / 2
        ahead = torch.where(turns, new, new + (t - 1) / t_new * (new - code))
        code, t = new, t_new
        if step % STEPS and step < max_steps:
            continue
        found = found.index_copy(0, row, code)
        left = violation(code, b, known.times_gram(code)) > tolerance
        if not left.any():
            break
        row, b, code, ahead, t = row[left], b[left], code[left], ahead[left], t[left]
    return found


def violation(code: Tensor, b: Tensor, gram_code: Tensor) -> Tensor:
    """[N] how far each row of codes is from the Karush-Kuhn-Tucker conditions of NNLS, relative to its largest b > 0.

    With g = code @ G - b, optimality is g = 0 where the code is positive and g >= 0 where it is 0.
    """
    gradient = gram_code - b
    wrong = torch.where(code > 0, gradient.abs(), (-gradient).clamp_min(0))
    largest = b.amax(1).clamp_min(0)
    return wrong.amax(1) / torch.where(largest > 0, largest, 1.0)
