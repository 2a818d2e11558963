"""Encoders: how coefficients are found for a given dictionary.

An encoder is a frozen value with tensors; a rule (`EncoderRule`) becomes one when it is bound to a dictionary:
`fit.with_encoder(OrthogonalPursuit(k=32))`.

Letters: N rows, D width, M atoms, K slots, F regions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from armillary.core.codes import Codes, dense_codes, no_base, sparse_codes
from armillary.core.dictionary import Dictionary

#: Entries of the largest temporary array of `nearest_centroid`.
CHUNK = 1 << 23


class Encoder(ABC):
    """Finds the coefficients of rows. Subclasses are frozen dataclasses of tensors, numbers and encoders.

    `fires` is the magnitude above which a coefficient counts as active (0 for sparse codes), or None where every coefficient is used
    and l0 and density do not apply.
    """

    fires: float | None

    @abstractmethod
    def encode(self, x: Tensor, *, target: Tensor | None = None) -> Codes:
        """Coefficients of x [N, D], without a base (the decomposition adds it).

        Args:
            x: [N, D] rows.
            target: [N, D_out] what is to be reconstructed where that is not x; encoders that search (pursuit, NNLS) use it.
        """


class EncoderRule(ABC):
    """A way to encode that serves any dictionary."""

    @abstractmethod
    def bind(self, dictionary: Dictionary, encoder: Encoder | None = None) -> Encoder:
        """The encoder of this rule for `dictionary`; `encoder` is the one whose place it takes, where there is one."""


class MixtureEncoder(Encoder):
    """An encoder of a probabilistic mixture: every region has a responsibility for every row."""

    @property
    @abstractmethod
    def weights(self) -> Tensor:
        """[F] share of the rows that each region is expected to hold; they add up to 1."""

    @abstractmethod
    def log_likelihood(self, x: Tensor) -> Tensor:
        """[N] log density of each row, in nats."""

    @abstractmethod
    def responsibilities(self, x: Tensor) -> Tensor:
        """[N, F] probability of each region given the row."""

    @abstractmethod
    def top(self, x: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """The n most responsible regions of each row, or as many as there are: their responsibilities [N, n], largest first, and numbers
        [N, n] int64."""

    @abstractmethod
    def regions(self, x: Tensor) -> Tensor:
        """[N] int64 most responsible region."""

    @abstractmethod
    def log_density(self, x: Tensor, region: Tensor) -> Tensor:
        """[N] log p(x | k) of each row in the given region [N], in nats."""

    @abstractmethod
    def distance(self, x: Tensor, region: Tensor) -> Tensor:
        """[N] squared Mahalanobis distance of each row to the given region [N]; chi-squared of D degrees if the model holds."""

    @abstractmethod
    def posterior(self, x: Tensor, region: Tensor) -> Tensor:
        """[N, R] posterior mean of the coordinates inside the given region [N]."""

    @abstractmethod
    def readings(self) -> dict[str, Encoder]:
        """Encoders of the same dictionary that read more or less of a row off it, by name: one region's centroid alone ("centroid"),
        with the place inside it ("hard"), several regions by responsibility ("soft") or as a sum ("additive")."""

    @abstractmethod
    def overlap(self, one: Tensor, other: Tensor) -> Tensor:
        """[p] Bhattacharyya coefficient, 0 to 1, of each pair of regions [p], [p]."""


@dataclass(frozen=True)
class LinearEncoder(Encoder):
    """Dense coefficients (x - center) @ weight.T + bias, as of PCA, ICA and probes.

    Args:
        weight: [M, D].
        center: [D].
        bias: [M], or None for 0.
    """

    weight: Tensor
    center: Tensor
    bias: Tensor | None = None
    fires: float | None = None

    def encode(self, x: Tensor, *, target: Tensor | None = None) -> Codes:
        value = (x.to(self.weight.dtype) - self.center) @ self.weight.T
        return dense_codes(value if self.bias is None else value + self.bias)


@dataclass(frozen=True)
class NearestEncoder(Encoder):
    """Coefficient 1 on the nearest centroid, as of k-means.

    Args:
        centroids: [F, D].
    """

    centroids: Tensor
    fires: float | None = 0.0

    def encode(self, x: Tensor, *, target: Tensor | None = None) -> Codes:
        index = nearest_centroid(x.to(self.centroids.dtype), self.centroids)
        return sparse_codes(self.centroids.new_ones(len(x), 1), index[:, None], len(self.centroids))


@dataclass(frozen=True)
class SubsetEncoder(Encoder):
    """Some atoms of another encoder.

    Args:
        inner: the encoder of the full dictionary.
        atoms: [m] int64 atoms that are kept.
    """

    inner: Encoder
    atoms: Tensor

    @property
    def fires(self) -> float | None:  # type: ignore[override]
        return self.inner.fires

    def encode(self, x: Tensor, *, target: Tensor | None = None) -> Codes:
        codes = self.inner.encode(x, target=target)
        if codes.index is None:
            return dense_codes(codes.columns(self.atoms))
        place = torch.full((codes.n_atoms,), -1, device=self.atoms.device)
        place[self.atoms] = torch.arange(len(self.atoms), device=self.atoms.device)
        index = place[codes.index]
        return sparse_codes(codes.value.masked_fill(index < 0, 0), index.clamp_min(0), len(self.atoms))


@dataclass(frozen=True)
class MappedEncoder(Encoder):
    """Encodes x @ matrix with another encoder, so that a fit can be read in rotated coordinates.

    Args:
        inner: the encoder of the original coordinates.
        matrix: [D_new, D] map from the new coordinates back to the original ones.
    """

    inner: Encoder
    matrix: Tensor

    @property
    def fires(self) -> float | None:  # type: ignore[override]
        return self.inner.fires

    def encode(self, x: Tensor, *, target: Tensor | None = None) -> Codes:
        return self.inner.encode(
            x.to(self.matrix.dtype) @ self.matrix, target=None if target is None else target.to(self.matrix.dtype) @ self.matrix
        )


@dataclass(frozen=True)
class CarriedEncoder(Encoder):
    """Encodes with the encoder of a dictionary that was carried into another space: what is rebuilt there is not what it searches in.

    Args:
        inner: the encoder of the original dictionary.
    """

    inner: Encoder

    @property
    def fires(self) -> float | None:  # type: ignore[override]
        return self.inner.fires

    def encode(self, x: Tensor, *, target: Tensor | None = None) -> Codes:
        return self.inner.encode(x)


@dataclass(frozen=True)
class NullEncoder(Encoder):
    """No coefficient at all: the base alone. The null of every comparison.

    Args:
        n_atoms: M of the dictionary it stands in for.
    """

    n_atoms: int
    fires: float | None = 0.0

    def encode(self, x: Tensor, *, target: Tensor | None = None) -> Codes:
        return Codes(x.new_zeros(len(x), 1), x.new_zeros(len(x), 1, dtype=torch.int64), no_base(x), self.n_atoms)


def nearest_centroid(x: Tensor, centroids: Tensor, chunk: int = 4096) -> Tensor:
    """[N] int64 index of the centroid [F, D] nearest to each row [N, D], in chunks so that [N, F] is never formed."""
    wide = torch.promote_types(centroids.dtype, torch.float32)  # squares overflow in float16
    points = centroids.detach().to(wide)
    half_norm = points.square().sum(1) / 2
    size = min(chunk, max(1, CHUNK // max(1, len(points))), len(x))
    found, score = x.new_zeros(len(x), dtype=torch.int64), points.new_empty(size, len(points))
    for start in range(0, len(x), max(1, size)):
        some = x[start : start + size].detach().to(wide)
        found[start : start + size] = torch.addmm(half_norm, some, points.T, beta=-1, out=score[: len(some)]).argmax(dim=1)
    return found
