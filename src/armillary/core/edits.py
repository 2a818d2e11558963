"""The kinds of edit. All work on any decomposition, because all decode linearly.

In code space an edit is x + decode(c') - decode(c): what the decomposition does not explain stays as it is. Only `Splice` drops it.

Letters: B sequences, T positions, D width, m atoms.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from armillary.core.codes import Codes
from armillary.core.decomposition import Decomposition
from armillary.core.model import At, Edit, Where
from armillary.core.site import Site
from armillary.errors import InputError

#: One number, or one per sequence [B].
Strength = float | Tensor


def _per_sequence(strength: Strength, x: Tensor) -> Tensor:
    """Strength as [B or 1, 1, 1]."""
    return torch.as_tensor(strength, dtype=torch.float32, device=x.device).reshape(-1, 1, 1)


def _flat(x: Tensor) -> Tensor:
    """[B, T, D] as float32 rows [B * T, D]."""
    return x.reshape(-1, x.shape[-1]).float()


def _sources(fit: Decomposition) -> tuple[Site, ...]:
    """The site a transcoder (or a fit carried through a projection) reads; () where a fit reads what it writes."""
    return () if fit.inputs == fit.targets or fit.site is None else (fit.site,)


def _codes(fit: Decomposition, x: Tensor, at: At) -> Codes:
    """Codes [B * T, ...] of x, or of the site that the fit reads."""
    return fit.encode(_flat(at.read(_sources(fit)[0]) if _sources(fit) else x))


@dataclass(frozen=True)
class Add(Edit):
    """x + strength * direction.

    Args:
        site: where.
        direction: [D].
        strength: scalar or [B], in units of the direction's own length.
        where: which tokens; None for all.
    """

    site: Site | str
    direction: Tensor
    strength: Strength = 1.0
    where: Where | None = None

    def apply(self, x: Tensor, at: At) -> Tensor:
        return x + _per_sequence(self.strength, x) * self.direction.to(x.device, torch.float32)


@dataclass(frozen=True)
class Toward(Edit):
    """x + strength * (point - x): 0 leaves x, 1 puts it on the point, such as a region's centroid."""

    site: Site | str
    point: Tensor
    strength: Strength = 0.5
    where: Where | None = None

    def apply(self, x: Tensor, at: At) -> Tensor:
        return torch.lerp(x.float(), self.point.to(x.device, torch.float32).expand(x.shape), _per_sequence(self.strength, x))


@dataclass(frozen=True)
class Clamp(Edit):
    """Set the code of a direction to a value, keeping everything else of x.

    Args:
        site: where; must be the fit's target.
        fit: a decomposition with the feature.
        feature: a feature with one atom.
        value: scalar or [B], the new code.
        where: which tokens; None for all.

    Raises:
        InputError: the feature has several atoms; use `Toward` or `Interchange`.
    """

    site: Site | str
    fit: Decomposition
    feature: int
    value: Strength
    where: Where | None = None

    def __post_init__(self) -> None:
        n = len(self.fit.dictionary.atoms_of([self.feature]))
        if n != 1:
            raise InputError(f"Clamp sets one code but feature {self.feature} has {n} atoms; use Toward its position, or Interchange")

    @property
    def reads(self) -> tuple[Site, ...]:
        return _sources(self.fit)

    def apply(self, x: Tensor, at: At) -> Tensor:
        atoms = self.fit.dictionary.atoms_of([self.feature])
        old = _codes(self.fit, x, at).columns(atoms).reshape(*x.shape[:2], 1)  # [B, T, 1]
        return x + (_per_sequence(self.value, x) - old) * self.fit.dictionary.atoms[atoms]


@dataclass(frozen=True)
class Ablate(Edit):
    """Take out what some features add, leaving or replacing it by a mean.

    Args:
        site: where; must be the fit's target.
        fit: a decomposition.
        features: which features.
        mean: [m] codes of the features' atoms to put in their place (mean ablation); None for zero.
        where: which tokens; None for all.
    """

    site: Site | str
    fit: Decomposition
    features: tuple[int, ...]
    mean: Tensor | None = None
    where: Where | None = None

    @property
    def reads(self) -> tuple[Site, ...]:
        return _sources(self.fit)

    def apply(self, x: Tensor, at: At) -> Tensor:
        atoms = self.fit.dictionary.atoms_of(self.features)
        old = _codes(self.fit, x, at).columns(atoms)  # [B * T, m]
        new = torch.zeros_like(old) if self.mean is None else self.mean.expand_as(old)
        return x + ((new - old) @ self.fit.dictionary.atoms[atoms]).reshape(x.shape)


@dataclass(frozen=True)
class Interchange(Edit):
    """Give x the coordinates another activation has: in some features of a fit, in a subspace, or all of it.

    Args:
        site: where.
        source: [B, T, D] or [B, 1, D] activations to take from, of the site that the fit reads.
        fit: read the coordinates as codes of this decomposition.
        features: features to exchange, with `fit`.
        basis: [R, D] orthonormal rows that span the subspace to exchange, instead of `fit`.
        where: which tokens; None for all.
    """

    site: Site | str
    source: Tensor
    fit: Decomposition | None = None
    features: tuple[int, ...] = ()
    basis: Tensor | None = None
    where: Where | None = None

    def __post_init__(self) -> None:
        if self.fit is not None and self.basis is not None:
            raise InputError("Interchange takes a fit with features, or a basis, not both")

    @property
    def reads(self) -> tuple[Site, ...]:
        return () if self.fit is None else _sources(self.fit)

    def apply(self, x: Tensor, at: At) -> Tensor:
        source = self.source.to(x.device, torch.float32).expand(*x.shape[:2], -1)
        if self.fit is not None:
            atoms = self.fit.dictionary.atoms_of(self.features)
            theirs, ours = self.fit.encode(_flat(source)).columns(atoms), _codes(self.fit, x, at).columns(atoms)
            return x + ((theirs - ours) @ self.fit.dictionary.atoms[atoms]).reshape(x.shape)
        if self.basis is None:
            return source
        basis = self.basis.to(x.device, torch.float32)
        return x + (source - x.float()) @ basis.T @ basis


@dataclass(frozen=True)
class Splice(Edit):
    """Replace x by the fit's reconstruction: the one edit that drops the error. A transcoder reads one site and writes another.

    Args:
        site: where; must be the fit's target.
        fit: a decomposition.
        source: the site to encode, where that is neither `site` nor the one the fit was made from.
        where: which tokens; None for all.
    """

    site: Site | str
    fit: Decomposition
    source: Site | str | None = None
    where: Where | None = None

    @property
    def reads(self) -> tuple[Site, ...]:
        return _sources(self.fit) if self.source is None else (Site.parse(self.source),)

    def apply(self, x: Tensor, at: At) -> Tensor:
        read = at.read(self.reads[0]) if self.reads else x
        return self.fit.reconstruct(_flat(read)).reshape(x.shape)


@dataclass(frozen=True)
class Affine(Edit):
    """x @ matrix + offset.

    Args:
        site: where.
        matrix: [D, D], or None for the identity.
        offset: [D], or [B, T, D] for a value per token.
        where: which tokens; None for all.
    """

    site: Site | str
    matrix: Tensor | None
    offset: Tensor
    where: Where | None = None

    def apply(self, x: Tensor, at: At) -> Tensor:
        moved = x.float() if self.matrix is None else x.float() @ self.matrix.to(x.device, torch.float32)
        return moved + self.offset.to(x.device)
