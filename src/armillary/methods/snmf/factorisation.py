"""Factorisation: what semi-NMF and NMF are told, and the checks that both make.

Letters: n rows, D neurons, F features, s entries of an atom.
"""

from __future__ import annotations

import warnings
from dataclasses import fields
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from armillary.core.decomposition import Decomposition
from armillary.core.method import Consumer, Method
from armillary.core.rows import Rows, width
from armillary.errors import InputError, NotIdentifiableWarning, ShapeError
from armillary.methods.snmf.fit import Fit
from armillary.methods.snmf.solver import Plan, Solver
from armillary.methods.snmf.start import Init
from armillary.methods.snmf.updates import Budget

#: A count, or a share of all neurons.
Neurons = Annotated[int, Field(strict=True, ge=1)] | Annotated[float, Field(gt=0, le=1)]

#: Rows that are factorised in memory by default: at least so many, and so many per feature.
MAX_ROWS, ROWS_PER_FEATURE = 8192, 10


class Factorisation(Method):
    """What every factorisation is told. Abstract; see `SemiNMF`.

    Raises:
        InputError: more neurons per feature than there are, or code_l1 and target_l0 together.
    """

    invariances: ClassVar[frozenset[Literal["scale", "shift", "rotation"]]] = frozenset({"scale"})
    #: Whether atoms, and so rows, may have negative entries.
    is_signed: ClassVar[bool]

    n_features: int = Field(ge=1)
    """F, how many features."""
    neurons_per_feature: Neurons | None = 0.01
    """Neurons with a weight in a feature, at most: a count, or a share of all; None for any number."""
    code_l1: float = Field(default=0.0, ge=0, lt=1)
    """Price of a code's size, as a share of the median feature's largest inner product with a row; codes are solved again without it."""
    target_l0: float | None = Field(default=None, gt=0)
    """Codes above 0 that a row shall have, on average: the price is steered to it."""
    solver: Solver = "hals"
    """Exact updates of one feature after the other, accelerated gradients for codes, or the paper's multiplicative rule."""
    init: Init = "als"
    """How codes begin: at random with least squares for the first atoms, at random, on clusters, or on principal axes."""
    n_init: int = Field(default=1, ge=1)
    """How often it is begun, each time with other random numbers; the one that explains most is kept."""
    n_iter: int = Field(default=200, ge=1)
    """Iterations at most over the rows held in memory; 200 or 20, they go through the same schedule."""
    tol: float = Field(default=1e-4, ge=0)
    """Stop when four iterations lower the objective by less than this share of it."""
    ridge: float = Field(default=1e-6, ge=0)
    """Of the least squares for the first atoms, as a share of the codes' mean square."""
    max_rows: int | None = Field(default=None, ge=1)
    """Rows that are factorised in memory; what is more streams by.  [default: ten per feature, at least 8,192]"""
    n_passes: int = Field(default=1, ge=1)
    """Passes over the rows: atoms move with every batch of the first, and at the end of each that follows."""
    batch_size: int = Field(default=4096, ge=1)
    """Rows per batch, over all ranks."""

    def consumer(self, data: Rows, *, seed: int, start: Decomposition | None) -> Consumer:
        shape = (self.n_features, width(data.layout))
        if start is not None and start.dictionary.atoms.shape != shape:
            raise ShapeError(f"start has atoms {list(start.dictionary.atoms.shape)}, this fit needs {list(shape)}")
        plan = self.plan(shape[1])
        if self.is_signed and plan.budget.n_entries == shape[1] and not plan.is_priced:
            warnings.warn(UNIDENTIFIABLE, NotIdentifiableWarning, stacklevel=4)
        return Fit(self, plan, data.layout, seed, None if start is None else start.dictionary.atoms)

    def min_rows(self, d: int) -> int:
        return self.n_features

    @property
    def n_in_memory(self) -> int:
        """Rows that are factorised in memory, at most."""
        return max(MAX_ROWS, ROWS_PER_FEATURE * self.n_features) if self.max_rows is None else self.max_rows

    def plan(self, d: int) -> Plan:
        """The numbers of a solution, for rows of width d."""
        if self.n_in_memory < self.n_features:
            raise InputError(
                f"max_rows must be at least n_features, {self.n_features}, got {self.max_rows}; leave it out for ten times that"
            )
        if self.code_l1 and self.target_l0 is not None:
            raise InputError(f"give code_l1 or target_l0 and not both, got {self.code_l1:g} and {self.target_l0:g}")
        if self.target_l0 is not None and self.target_l0 > self.n_features:
            raise InputError(f"target_l0 must be at most n_features, {self.n_features}, got {self.target_l0:g}")
        if self.target_l0 is not None and self.solver == "multiplicative":
            raise InputError("the multiplicative rule leaves every code above 0, so there is no number to steer to; use solver='hals'")
        told = {one.name: getattr(self, one.name) for one in fields(Plan) if one.name in type(self).model_fields}
        return Plan(budget=Budget.of(self.neurons_per_feature, d, is_signed=self.is_signed), code_price=self.code_l1, **told)

    def check(self, x: Tensor) -> None:
        """Refuse rows [n, D] that this method cannot take apart.

        Raises:
            InputError: all are 0, or, where atoms are not signed, an entry is negative.
        """
        if not bool((x != 0).any()):
            raise InputError(f"{type(self).__name__} needs rows that are not all 0, got {len(x)} rows of nothing else")
        self.check_signs(x)

    def check_signs(self, x: Tensor) -> None:
        """Refuse rows [n, D] with a negative entry where atoms cannot have any.

        Raises:
            InputError: there is one.
        """
        if not self.is_signed and bool((x < 0).any()):
            name, least = type(self).__name__, float(x.min())
            raise InputError(f"{name} takes rows without a negative entry apart, the smallest here is {least:.4g}; use SemiNMF")


UNIDENTIFIABLE = (
    "with any number of neurons per feature and no price on codes a semi-nonnegative factorisation is not identifiable: other seeds may "
    "find other features at the same error; set neurons_per_feature, code_l1 or target_l0, and compare seeds (armillary.stability)"
)
