"""Edits: what can be done to an activation with the regions of a mixture.

    toward     x + a (mu - x)                                        to a region's centroid; a = 1 puts every token there
    offset     x + z W                                               along a region's loadings, z in standard deviations
    Place      x + a (mu - x) + z W                                  both: into a region, at a place of it
    Transport  x + a (mu_t + C_t^1/2 C_s^-1/2 (x - mu_s) - x)        from one region to the same place of another
    Guarded    as much of another edit as leaves a token typical: with a log-likelihood that the data has

Square roots are symmetric in units of the noise, where C = I + U S U^T, so that C^p = I + U ((1 + S)^p - 1) U^T costs D R per token
(the optimal transport between Gaussians of one noise whose loadings span the same axes).

Letters: B sequences, T positions, D width, R rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from armillary.core.decomposition import Decomposition
from armillary.core.edits import Add, Strength, Toward
from armillary.core.model import At, Edit, Where
from armillary.core.rows import as_rows
from armillary.core.site import Site
from armillary.errors import InputError
from armillary.methods.mfa.encoder import MFAEncoder
from armillary.methods.mfa.mixture import Mixture
from armillary.methods.mfa.regions import check_regions, mixture_of

#: Shares of an edit that a guard tries, the largest first.
SHARES = tuple(i / 16 for i in range(16, -1, -1))


def toward(
    fit: Decomposition, region: int, strength: Strength = 0.5, *, site: Site | str | None = None, where: Where | None = None
) -> Toward:
    """Move activations toward a region's centroid.

    Args:
        fit: the mixture.
        region: whose centroid.
        strength: 0 leaves activations, 1 puts them there; one for all sequences or one per sequence.
        site: where; the fit's by default.
        where: which tokens; None for all.

    Raises:
        InputError: another kind of fit, a region that is not there, or no site.
    """
    m = mixture_of(fit)
    check_regions(m, region)
    return Toward(_site(fit, site), m.centroids[region], strength, where)


def offset(
    fit: Decomposition, region: int, z: Sequence[float] | Tensor, *, site: Site | str | None = None, where: Where | None = None
) -> Add:
    """Move activations along a region's loadings.

    Args:
        fit: the mixture.
        region: whose loadings.
        z: [R] standard deviations along each; fewer numbers leave the last loadings alone.
        site: where; the fit's by default.
        where: which tokens; None for all.

    Raises:
        InputError: another kind of fit, a region that is not there, more numbers than loadings, or no site.
    """
    return Add(_site(fit, site), _along(mixture_of(fit), region, z), 1.0, where)


def _along(m: Mixture, region: int, z: Sequence[float] | Tensor) -> Tensor:
    """[D] z W."""
    check_regions(m, region)
    told = torch.as_tensor(z, dtype=m.loadings.dtype).flatten()
    if len(told) > m.rank:
        raise InputError(f"a region of rank {m.rank} has as many coordinates, got {len(told)}")
    return told @ m.loadings[region, : len(told)]


def _site(fit: Decomposition, site: Site | str | None) -> Site:
    found = fit.site if site is None else Site.parse(site)
    if found is None:
        raise InputError(f"{fit!r} names no site to edit; pass site=")
    return found


@dataclass(frozen=True)
class Place(Edit):
    """Into a region, at a place of it: x + strength (mu - x) + z W.

    Args:
        site: where.
        centroid: mu [D].
        shift: z W [D].
        strength: 0 leaves what x has of its own, 1 nothing of it.
        where: which tokens; None for all.
    """

    site: Site | str
    centroid: Tensor
    shift: Tensor
    strength: Strength = 0.5
    where: Where | None = None

    def apply(self, x: Tensor, at: At) -> Tensor:
        return Toward(self.site, self.centroid, self.strength).apply(x, at) + self.shift.to(x.device, torch.float32)


def place(
    fit: Decomposition,
    region: int,
    z: Sequence[float] | Tensor,
    strength: Strength = 0.5,
    *,
    site: Site | str | None = None,
    where: Where | None = None,
) -> Place:
    """Toward a region's centroid, by `strength`, and along its loadings, by z [R] standard deviations whatever the strength; see `Place`.

    Raises:
        InputError: another kind of fit, a region that is not there, more numbers than loadings, or no site.
    """
    m = mixture_of(fit)
    shift = _along(m, region, z)
    return Place(_site(fit, site), m.centroids[region], shift, strength, where)


@dataclass(frozen=True)
class Transport(Edit):
    """From one region to the same place of another: what deviates in the one deviates as much, in standard deviations, in the other.

    Args:
        site: where.
        mixture: the regions.
        source, target: their numbers.
        strength: 0 leaves x, 1 transports it; scalar or [B].
        where: which tokens; None for all.
    """

    site: Site | str
    mixture: Mixture
    source: int
    target: int
    strength: Strength = 1.0
    where: Where | None = None

    def apply(self, x: Tensor, at: At) -> Tensor:
        moved = self.moved(x.reshape(-1, x.shape[-1]).float()).reshape(x.shape)
        return Toward(self.site, moved, self.strength).apply(x, at)

    def moved(self, x: Tensor) -> Tensor:
        """Rows [n, D] in the other region."""
        m = self.mixture
        one, other = (m.noise[k % len(m.noise)].float().sqrt().to(x.device) for k in (self.source, self.target))
        white = (x - m.centroids[self.source].to(x)) / one
        for axes, factor in self._factors:
            white = white + (white @ axes.to(x).T * factor.to(x)) @ axes.to(x)
        return m.centroids[self.target].to(x) + white * other

    @cached_property
    def _factors(self) -> list[tuple[Tensor, Tensor]]:
        """Axes U^T [R, D] and (1 + S)^p - 1 [R], of the source with p = -1/2 and of the target with p = 1/2."""
        found = []
        for k, power in ((self.source, -0.5), (self.target, 0.5)):
            w = self.mixture.loadings[k].double() / self.mixture.noise[k % len(self.mixture.noise)].double().sqrt()
            _, size, axes = torch.linalg.svd(w, full_matrices=False)
            found.append((axes.float(), ((1 + size.square()) ** power - 1).float()))
        return found


def transport(
    fit: Decomposition, source: int, target: int, strength: Strength = 1.0, *, site: Site | str | None = None, where: Where | None = None
) -> Transport:
    """Move activations of one region to the same place of another; see `Transport`.

    Raises:
        InputError: another kind of fit, regions that are not there or the same, or no site.
    """
    m = mixture_of(fit)
    check_regions(m, source, target)
    return Transport(_site(fit, site), m, source, target, strength, where)


# ---------------------------------------------------------------- typicality


@dataclass(frozen=True)
class Guarded(Edit):
    """As much of another edit as leaves a token's log-likelihood at least at a level: all of it, or a share of the way.

    A token that was below the level before may stay there, but no edit takes it further down.

    Args:
        edit: what is guarded.
        fit: the mixture.
        level: nats, such as the first percentile of the data; see `typical`.
    """

    edit: Edit
    fit: Decomposition
    level: float

    @property
    def site(self) -> Site | str:  # type: ignore[override]
        return self.edit.site

    @property
    def where(self) -> Where | None:  # type: ignore[override]
        return self.edit.where

    @property
    def reads(self) -> tuple[Site, ...]:
        return self.edit.reads

    def apply(self, x: Tensor, at: At) -> Tensor:
        before = x.reshape(-1, x.shape[-1]).float()
        change = self.edit.apply(x, at).reshape(before.shape).float() - before
        encoder = self.fit.encoder
        assert isinstance(encoder, MFAEncoder)
        level = encoder.log_likelihood(before).clamp_max(self.level)  # [n]
        share = before.new_zeros(len(before))
        left = torch.arange(len(before), device=before.device)
        for one in SHARES[:-1]:
            fine = encoder.log_likelihood(before[left] + one * change[left]) >= level[left]
            share[left[fine]] = one
            left = left[~fine]
            if len(left) == 0:
                break
        return (before + share[:, None] * change).reshape(x.shape)


def guarded(edit: Edit, fit: Decomposition, level: float) -> Guarded:
    """As much of an edit as leaves tokens typical; see `Guarded`.

    Raises:
        InputError: another kind of fit.
    """
    mixture_of(fit)
    return Guarded(edit, fit, level)


def typical(fit: Decomposition, rows: Any, shares: tuple[float, float] = (0.01, 0.99), n: int = 20_000) -> tuple[float, float]:
    """The log-likelihoods between which rows lie but for these shares, of at most n rows in a drawn order.

    Raises:
        InputError: another kind of fit, or no rows.
    """
    mixture_of(fit)
    encoder, found = fit.encoder, list[Tensor]()
    assert isinstance(encoder, MFAEncoder)
    for batch in as_rows(rows).batches(min(n, 4096), seed=0):
        found.append(encoder.log_likelihood(batch.x))
        if sum(map(len, found)) >= n:
            break
    if not found:
        raise InputError("there are no rows to be typical of")
    low, high = torch.cat(found)[:n].double().quantile(torch.tensor(shares, dtype=torch.float64)).tolist()
    return low, high
