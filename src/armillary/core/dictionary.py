"""Dictionary: the atoms a method decodes with, the features they form, and the base they are added to.

Letters: M atoms, D width, F features, M0 base vectors, R atoms of one feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from armillary.core.codes import Codes
from armillary.errors import InputError, ShapeError

Role = Literal["direction", "centroid", "loading"]
FeatureKind = Literal["direction", "region", "subspace"]
#: How the base's coefficients come from x: 1 for every base vector; (std, mean) of the row, as for a layer-normalised input, over the
#: base vectors (bias, ones); the row's norm over sqrt(D), for an input scaled to one norm; or (1, x) over (bias, skip matrix).
BaseRule = Literal["constant", "layer_norm", "norm", "skip"]

ROLES: tuple[Role, ...] = ("direction", "centroid", "loading")


@dataclass(frozen=True)
class Feature:
    """One feature: a direction, a region (a centroid with loadings) or a subspace.

    Args:
        index: its number in the dictionary.
        kind: direction (one atom), region (a centroid and R >= 0 loadings) or subspace (R atoms through the origin).
        position: [D] centroid of a region, None otherwise.
        basis: [R, D] direction or loadings.
    """

    index: int
    kind: FeatureKind
    position: Tensor | None
    basis: Tensor

    @property
    def direction(self) -> Tensor:
        """[D] the vector that stands for the feature: its direction, its centroid, or its first basis vector."""
        return self.basis[0] if self.position is None else self.position


@dataclass(frozen=True)
class Dictionary:
    """Atoms grouped into features, and the base.

    Args:
        atoms: [M, D].
        group: [M] int64 feature of each atom, each of 0..F-1 used.
        role: [M] int64 index into `ROLES`.
        base: [M0, D] vectors added with the coefficients of `base_rule`.
        base_rule: see `BaseRule`.
    """

    atoms: Tensor
    group: Tensor
    role: Tensor
    base: Tensor
    base_rule: BaseRule = "constant"

    def __post_init__(self) -> None:
        n, d = self.atoms.shape
        if self.group.shape != (n,) or self.role.shape != (n,):
            raise ShapeError(f"{n} atoms need {n} groups and roles, got {len(self.group)} and {len(self.role)}")
        if self.base.ndim != 2 or self.base.shape[1] != d:
            raise ShapeError(f"base vectors must be [M0, {d}], got {list(self.base.shape)}")

    def __repr__(self) -> str:
        kinds = ", ".join(f"{int((self.role == i).sum())} {role}s" for i, role in enumerate(ROLES) if (self.role == i).any())
        return f"Dictionary({self.n_features:,} features of width {self.d}: {kinds})"

    @staticmethod
    def of_directions(atoms: Tensor, bias: Tensor | None = None) -> Dictionary:
        """One direction per feature, [M, D], over an optional constant bias [D]."""
        group = torch.arange(len(atoms), device=atoms.device)
        base = atoms.new_zeros(0, atoms.shape[1]) if bias is None else bias[None]
        return Dictionary(atoms, group, torch.zeros_like(group), base)

    @staticmethod
    def of_regions(centroids: Tensor, loadings: Tensor | None = None) -> Dictionary:
        """One region per centroid [F, D] with loadings [F, R, D]; the atoms of a region lie side by side, centroid first."""
        n, d = centroids.shape
        rank = 0 if loadings is None else loadings.shape[1]
        atoms = centroids[:, None] if loadings is None else torch.cat([centroids[:, None], loadings], dim=1)
        role = torch.tensor([ROLES.index("centroid"), *[ROLES.index("loading")] * rank], device=atoms.device)
        group = torch.arange(n, device=atoms.device).repeat_interleave(1 + rank)
        return Dictionary(atoms.reshape(-1, d), group, role.repeat(n), atoms.new_zeros(0, d))

    @property
    def d(self) -> int:
        """D, the width of an atom."""
        return self.atoms.shape[1]

    @property
    def n_atoms(self) -> int:
        return len(self.atoms)

    @cached_property
    def n_features(self) -> int:
        return int(self.group.max()) + 1 if len(self.group) else 0

    @cached_property
    def is_simple(self) -> bool:
        """Whether atom i is feature i, for every i."""
        return bool((self.group == torch.arange(self.n_atoms, device=self.group.device)).all())

    def atoms_of(self, features: Sequence[int] | Tensor) -> Tensor:
        """Indices of the atoms that belong to the given features, feature by feature.

        Raises:
            InputError: a feature outside 0..F-1, or one that is named twice.
        """
        wanted = torch.as_tensor(features, device=self.group.device, dtype=torch.int64).flatten()
        outside = wanted[(wanted < 0) | (wanted >= self.n_features)]
        if len(outside):
            raise InputError(f"feature {int(outside[0])} is out of range: there are {self.n_features} (0 to {self.n_features - 1})")
        times = torch.bincount(wanted, minlength=1)
        if times.max() > 1:
            raise InputError(f"feature {int(times.argmax())} is named {int(times.max())} times; name each feature once")
        if self.is_simple:
            return wanted
        return torch.cat([torch.nonzero(self.group == f).flatten() for f in wanted] or [wanted])

    def feature(self, index: int) -> Feature:
        """The feature with this number."""
        atoms = self.atoms_of([index])
        is_centroid = self.role[atoms] == ROLES.index("centroid")
        basis = self.atoms[atoms[~is_centroid]]
        if is_centroid.any():
            return Feature(index, "region", self.atoms[atoms[is_centroid]][0], basis)
        return Feature(index, "direction" if len(atoms) == 1 else "subspace", None, basis)

    def directions(self) -> Tensor:
        """[F, D] one vector per feature: its direction, its centroid, or its first basis vector."""
        return self.atoms if self.is_simple else self.atoms[self._leaders]

    @cached_property
    def _leaders(self) -> Tensor:
        """[F] the atom that stands for each feature: its centroid, or its first."""
        order = (2 * self.group + (self.role != ROLES.index("centroid"))).argsort(stable=True)
        return order[torch.searchsorted(self.group[order], torch.arange(self.n_features, device=order.device))]

    def base_codes(self, x: Tensor) -> Tensor:
        """[N, M0] coefficients of the base for inputs x [N, D_in]."""
        if self.base_rule == "constant":
            return x.new_ones(len(x), len(self.base))
        if self.base_rule == "layer_norm":
            if len(x) == 0:  # torch warns about the deviation of no rows
                return x.new_zeros(0, 2)
            return torch.stack([x.std(dim=1), x.mean(dim=1)], dim=1)
        if self.base_rule == "norm":
            norm: Tensor = x.norm(dim=1, keepdim=True)
            return norm.div(x.shape[1] ** 0.5)
        return torch.cat([x.new_ones(len(x), 1), x], dim=1)

    def decode(self, codes: Codes) -> Tensor:
        """[N, D] base plus the sum of atoms times coefficients; exact without x."""
        out = codes.base.to(self.atoms.dtype) @ self.base
        if codes.index is None:
            return torch.addmm(out, codes.value.to(self.atoms.dtype), self.atoms)
        value = codes.value.to(self.atoms.dtype)
        return out + F.embedding_bag(codes.index, self.atoms, per_sample_weights=value, mode="sum")

    def with_atoms(self, atoms: Tensor, base: Tensor) -> Dictionary:
        """The same features over other vectors, such as their images under a map."""
        return replace(self, atoms=atoms, base=base)

    def subset(self, atoms: Tensor) -> Dictionary:
        """Only the given atoms; features are renumbered in the order of their first atom."""
        group = self.group[atoms]
        kept, inverse = torch.unique(group, return_inverse=True)
        place = torch.arange(len(group), device=group.device)
        first = torch.full_like(kept, len(group)).scatter_reduce(0, inverse, place, "amin")
        return replace(self, atoms=self.atoms[atoms], group=first.argsort().argsort()[inverse], role=self.role[atoms])
