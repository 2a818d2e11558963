"""Encoder: the readings of a mixture of factor analyzers as codes over its centroids and loadings.

    centroid   1 on the centroid of the most responsible region
    soft       r_k on the centroid and r_k z_k on the loadings of the most responsible regions: the posterior mean of x without noise
    hard       1 and z on the most responsible region alone: centroid + local offset
    additive   several regions at once, chosen one after the other and refitted together, each a centroid and a subspace: a mixture cannot
               hold two concepts in one token, but its subspaces can

Letters: n, N rows, D width, K regions, R rank, T regions with a code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from pydantic import Field
from torch import Tensor

from armillary.core.codes import Codes, sparse_codes
from armillary.core.config import Config
from armillary.core.dictionary import Dictionary
from armillary.core.encoders import Encoder, EncoderRule, MixtureEncoder
from armillary.errors import InputError
from armillary.methods.mfa.gate import CHUNK, Considered, Gate, consider, part_size
from armillary.methods.mfa.mixture import Mixture
from armillary.methods.mfa.overlap import coefficients

How = Literal["centroid", "hard", "soft", "additive"]

#: Responsibility from which on a region counts as active: every region has some.
FIRES = 0.01
#: Ridge of the additive reading, as a share of a loading's square.
RIDGE = 1e-6


@dataclass(frozen=True)
class MFAEncoder(MixtureEncoder):
    """Codes by responsibility.

    Args:
        mixture: the parameters, in the units of the rows.
        how: the reading; see the module.
        n_top: T, regions with a code per row at most; 1 where the reading is of one region.
        gate: finds the regions that are considered for a row, where there are too many for all; log-likelihoods are then lower bounds.
    """

    mixture: Mixture
    how: How = "soft"
    n_top: int = 8
    fires: float | None = FIRES
    gate: Gate | None = None

    def encode(self, x: Tensor, *, target: Tensor | None = None) -> Codes:
        return self._joined([self._encode(part) for part in self._parts(x)])

    @property
    def weights(self) -> Tensor:
        """[K] pi."""
        return self.mixture.log_weight.exp()

    def log_likelihood(self, x: Tensor) -> Tensor:
        """[N] log density of each row, in nats."""
        return self.evidence(x)[0]

    def evidence(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N] log density of each row, and [N] of each row together with its most responsible region, in nats."""
        joint = [self._considered(part).joint for part in self._parts(x)]
        return self._cat([one.logsumexp(1) for one in joint], x, ()), self._cat([one.amax(1) for one in joint], x, ())

    def responsibilities(self, x: Tensor) -> Tensor:
        """[N, K] probability of each region given the row."""
        return self._cat([self._responsibilities(part) for part in self._parts(x)], x, (self.mixture.n_regions,))

    def _responsibilities(self, x: Tensor) -> Tensor:
        found = self._considered(x)
        share = found.joint.softmax(dim=1)
        return share if found.regions is None else share.new_zeros(len(x), self.mixture.n_regions).scatter_(1, found.regions, share)

    def top(self, x: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """The n most responsible regions of each row, or as many as are considered: their responsibilities [N, n], largest first, and
        numbers [N, n]."""
        most = self.mixture.n_regions if self.gate is None else self.gate.n_candidates
        n = min(n, most)
        found = [self._top(self._considered(part), n) for part in self._parts(x)]
        share = self._cat([one for one, _ in found], x, (n,))
        return share, torch.cat([region for _, region in found]) if found else share.long()

    def _top(self, found: Considered, n: int) -> tuple[Tensor, Tensor]:
        share, slot = _shares(found.joint, n)
        row = torch.arange(len(slot), device=slot.device)[:, None].expand_as(slot)
        return share, found.region(row, slot)

    def regions(self, x: Tensor) -> Tensor:
        """[N] int64 most responsible region."""
        return self.top(x, 1)[1][:, 0]

    def log_density(self, x: Tensor, region: Tensor) -> Tensor:
        """[N] log p(x | k) of each row in the given region [N], in nats."""
        rows = x.to(self.mixture.centroids.dtype)
        return self.mixture.log_joint_at(rows, region)[0] - self.mixture.log_weight[region]

    def distance(self, x: Tensor, region: Tensor) -> Tensor:
        """[N] squared Mahalanobis distance of each row to the given region [N]."""
        m = self.mixture
        return 2 * (m.constant.to(m.centroids.dtype)[region] - m.log_joint_at(x.to(m.centroids.dtype), region)[0])

    def posterior(self, x: Tensor, region: Tensor) -> Tensor:
        """[N, R] posterior mean of the coordinates inside the given region [N]; its covariance is `mixture.covariance(k)` for every row."""
        white = self.mixture.log_joint_at(x.to(self.mixture.centroids.dtype), region)[1]
        return self.mixture.coordinates(white, region)

    def overlap(self, one: Tensor, other: Tensor) -> Tensor:
        """[p] Bhattacharyya coefficients of pairs of regions [p], [p], float64."""
        return coefficients(self.mixture, one, other)

    def readings(self) -> dict[str, Encoder]:
        """This encoder in every reading, by name."""
        return {how: replace(self, how=how) for how in get_args(How)}

    # ------------------------------------------------------------ one part of the rows

    def _parts(self, x: Tensor) -> Iterator[Tensor]:
        m = self.mixture
        size = part_size(m, self.gate)
        if self.how == "additive":  # which holds the atoms of every row
            size = max(1, CHUNK // max(m.n_regions * (1 + m.rank), self.n_top * (1 + m.rank) * m.d))
        return iter(torch.split(x.to(m.centroids.dtype), size)) if len(x) else iter(())

    def _considered(self, x: Tensor) -> Considered:
        """What the mixture makes of rows; regions that can matter are worked out again in a form that loses nothing to cancellation."""
        found = consider(self.mixture, x, self.gate)
        slot = found.joint.topk(min(self.n_top, found.joint.shape[1]), dim=1).indices  # [n, T]
        row = torch.arange(len(x), device=x.device)[:, None].expand_as(slot)
        found.joint[row, slot], found.white[row, slot] = self.mixture.log_joint_exactly(x, found.region(row, slot))
        return found

    def _encode(self, x: Tensor) -> Codes:
        if self.how == "additive":
            return self._additive(x)
        found = self._considered(x)
        share, slot = _shares(found.joint, self._n_coded)  # [n, T]
        share = share if self.how == "soft" else torch.ones_like(share)
        region = found.region(torch.arange(len(x), device=x.device)[:, None].expand_as(slot), slot)
        if self.how == "centroid":
            return sparse_codes(share, region * (1 + self.mixture.rank), self.mixture.n_regions * (1 + self.mixture.rank))
        inside = found.white.gather(1, slot[:, :, None].expand(-1, -1, self.mixture.rank))  # [n, T, R]
        z = self.mixture.coordinates(inside.flatten(0, 1), region.flatten()).view_as(inside)
        return self._codes(share, share[:, :, None] * z, region)

    @property
    def _n_coded(self) -> int:
        """T."""
        return min(self.n_top, self.mixture.n_regions) if self.how in ("soft", "additive") else 1

    def _codes(self, centroid: Tensor, loading: Tensor, region: Tensor) -> Codes:
        """Codes [n, T (1 + R)] of regions [n, T] from their centroids' [n, T] and loadings' [n, T, R] coefficients."""
        slots = 1 + self.mixture.rank
        value = torch.cat([centroid[:, :, None], loading], dim=2).flatten(1)
        index = (region[:, :, None] * slots + torch.arange(slots, device=region.device)).flatten(1)
        return sparse_codes(value, index, self.mixture.n_regions * slots)

    def _additive(self, x: Tensor) -> Codes:
        """Block orthogonal pursuit: of every region in turn the one whose centroid and loadings explain most of what is left."""
        m = self.mixture
        blocks = torch.cat([m.centroids[:, None], m.loadings], dim=1)  # [K, S, D]
        basis = torch.linalg.qr(blocks.mT)[0].mT * blocks.any(2)[:, :, None]  # [K, S, D] orthonormal; nothing where a loading is 0
        chosen = torch.zeros(len(x), 0, dtype=torch.int64, device=x.device)
        left, codes = x, x.new_zeros(len(x), 0, blocks.shape[1])
        for _ in range(min(self.n_top, m.n_regions)):
            gain = torch.einsum("ksd,nd->nks", basis, left).square().sum(2)  # [n, K]
            gain.scatter_(1, chosen, -1.0)
            chosen = torch.cat([chosen, gain.argmax(1, keepdim=True)], dim=1)
            atoms = blocks[chosen].flatten(1, 2)  # [n, T S, D]
            gram = atoms @ atoms.mT
            ridge = RIDGE * gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(gram.shape[1], dtype=x.dtype, device=x.device)
            value = torch.linalg.solve(gram + ridge, atoms @ x[:, :, None])[:, :, 0]  # [n, T S]
            left = x - torch.einsum("ns,nsd->nd", value, atoms)
            codes = value.view(len(x), chosen.shape[1], -1)
        return self._codes(codes[:, :, 0], codes[:, :, 1:], chosen)

    def _cat(self, parts: list[Tensor], x: Tensor, shape: tuple[int, ...]) -> Tensor:
        return torch.cat(parts) if parts else x.new_zeros(0, *shape, dtype=self.mixture.centroids.dtype)

    def _joined(self, parts: list[Codes]) -> Codes:
        n = self.mixture.n_regions * (1 + self.mixture.rank)
        if not parts:
            width = self._n_coded * (1 if self.how == "centroid" else 1 + self.mixture.rank)
            empty = self.mixture.centroids.new_zeros(0, width)
            return sparse_codes(empty, empty.long(), n)
        indices = [part.index for part in parts if part.index is not None]
        return sparse_codes(torch.cat([part.value for part in parts]), torch.cat(indices), n)


def _shares(joint: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The n largest responsibilities of each row [n, at most C] and their slots. Regions are ranked by joint densities, as float32 shows
    responsibilities a hundred nats behind the first as 0."""
    best, slot = joint.topk(min(n, joint.shape[1]), dim=1)
    return (best - joint.logsumexp(1, keepdim=True)).exp(), slot


class Reading(Config, EncoderRule):
    """Another reading of a mixture of factor analyzers: `fit.with_encoder(arm.mfa.Reading(how="hard"))`."""

    how: How = "soft"
    """The most responsible region's centroid, or with its local offset; several by responsibility; or several that add up."""
    n_top: int = Field(8, ge=1)
    """Regions with a code per row, at most."""

    def bind(self, dictionary: Dictionary, encoder: Encoder | None = None) -> MFAEncoder:
        if not isinstance(encoder, MFAEncoder):
            raise InputError(f"Reading is of a mixture of factor analyzers, got {type(encoder).__name__}; fit with arm.MFA")
        return replace(encoder, how=self.how, n_top=self.n_top)
