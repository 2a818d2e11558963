"""Decomposition: what every fit returns. A dictionary, an encoder, and where they belong.

    x_hat = base_codes(x) @ base  +  codes(x) @ atoms          decode is linear for every method; only encoding differs

Letters: N rows, D width, M atoms, F features, f chosen features.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from armillary.core.codes import Codes, dense_codes
from armillary.core.dictionary import ROLES, Dictionary
from armillary.core.encoders import CarriedEncoder, Encoder, EncoderRule, MappedEncoder, MixtureEncoder, SubsetEncoder
from armillary.core.rows import Layout, width
from armillary.core.site import Site, Source
from armillary.errors import InputError, ShapeError


@final
@dataclass(frozen=True)
class Decomposition:
    """A fitted value; nothing in it changes.

    Args:
        dictionary: atoms, features and base, in the target's space.
        encoder: finds the coefficients of an input row.
        inputs: the sites the encoder reads, with their widths.
        targets: the sites that are reconstructed; equal to `inputs` unless the fit is a transcoder.
        provenance: method and options, model, revision, token policy, data hash, seed, versions.
    """

    dictionary: Dictionary
    encoder: Encoder
    inputs: Layout
    targets: Layout
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if width(self.targets) != self.dictionary.d:
            raise ShapeError(f"the dictionary is {self.dictionary.d} wide but its targets {width(self.targets)}")

    def __repr__(self) -> str:
        method = self.provenance.get("method", "Decomposition")
        where = ", ".join(str(source.site) for source, _ in self.inputs if source is not None)
        return f"{method}({self.n_features:,} features{f' at {where}' if where else ''}, width {self.dictionary.d})"

    def __rich__(self) -> Any:
        from rich.table import Table

        table = Table(title=repr(self), show_header=False)
        for key, value in self.provenance.items():
            table.add_row(key, str(value))
        return table

    @property
    def n_features(self) -> int:
        return self.dictionary.n_features

    @property
    def site(self) -> Site | None:
        """The input site, where the fit reads exactly one known site."""
        source = self.inputs[0][0]
        return source.site if len(self.inputs) == 1 and source is not None else None

    # ------------------------------------------------------------ the law

    def encode(self, x: Tensor, *, target: Tensor | None = None) -> Codes:
        """Coefficients of x [N, D_in], base included, so that `decode` needs nothing else."""
        self._check(x)
        rows = x.to(self.dictionary.atoms.dtype)
        return self.encoder.encode(rows, target=target).with_base(self.dictionary.base_codes(rows))

    def decode(self, codes: Codes) -> Tensor:
        """[N, D] reconstruction from codes."""
        return self.dictionary.decode(codes)

    def reconstruct(self, x: Tensor) -> Tensor:
        """[N, D] reconstruction of x's target."""
        return self.decode(self.encode(x))

    def contributions(self, x: Tensor, features: Sequence[int]) -> Tensor:
        """[N, f, D] what each feature adds: x_hat is the base plus the sum over all features.

        Raises:
            InputError: a feature outside 0..F-1.
        """
        codes = self.encode(x)
        parts = [self.part(codes, [feature]) for feature in features]
        return torch.stack(parts, dim=1) if parts else x.new_zeros(len(x), 0, self.dictionary.d)

    def part(self, codes: Codes, features: Sequence[int] | Tensor) -> Tensor:
        """[N, D] what the given features add together, without the base."""
        atoms = self.dictionary.atoms_of(features)
        return codes.columns(atoms).to(self.dictionary.atoms.dtype) @ self.dictionary.atoms[atoms]

    def base(self, codes: Codes) -> Tensor:
        """[N, D] the base's share of the reconstruction."""
        return codes.base @ self.dictionary.base

    def activations(self, x: Tensor) -> Codes:
        """One number per feature: a direction's code, a region's responsibility, a subspace's norm; sparse where the codes are."""
        return feature_activations(self.dictionary, self.encode(x))

    # ------------------------------------------------------------ the same fit, read otherwise

    def with_encoder(self, encoder: Encoder | EncoderRule) -> Decomposition:
        """The same dictionary and base with another encoder, or with a rule bound to this dictionary."""
        bound = encoder.bind(self.dictionary, self.encoder) if isinstance(encoder, EncoderRule) else encoder
        return replace(self, encoder=bound)

    def through(self, readout: Tensor, target: Source | None = None) -> Decomposition:
        """Carry the dictionary through a linear map [D, D_new], such as a down-projection; the encoder keeps reading the same input."""
        atoms, base = self.dictionary.atoms @ readout, self.dictionary.base @ readout
        encoder = self.encoder if isinstance(self.encoder, MixtureEncoder) else CarriedEncoder(self.encoder)
        return replace(self, dictionary=self.dictionary.with_atoms(atoms, base), encoder=encoder, targets=((target, readout.shape[1]),))

    def subset(self, features: Sequence[int] | Tensor) -> Decomposition:
        """Only the given features, renumbered 0..f-1 in the order given."""
        atoms = self.dictionary.atoms_of(features)
        return replace(self, dictionary=self.dictionary.subset(atoms), encoder=SubsetEncoder(self.encoder, atoms))

    def rotate(self, matrix: Tensor) -> Decomposition:
        """The fit in the coordinates x @ matrix, for an orthogonal matrix [D, D] and a fit whose target is its input.

        Raises:
            InputError: another target, or a base whose coefficients are read off the row's own coordinates.
        """
        if self.inputs != self.targets or self.dictionary.base_rule != "constant":
            raise InputError(f"{self!r} cannot be rotated: its target must be its input and its base constant")
        dictionary = self.dictionary.with_atoms(self.dictionary.atoms @ matrix, self.dictionary.base @ matrix)
        return replace(self, dictionary=dictionary, encoder=MappedEncoder(self.encoder, matrix.T))

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Decomposition:
        """A copy on another device or in another floating dtype."""
        from armillary.core.artifact import put_together, take_apart

        tensors: dict[str, Tensor] = {}
        tree = take_apart(self, tensors)
        moved = {k: v.to(device, dtype if v.is_floating_point() else None) for k, v in tensors.items()}
        moved_fit: Decomposition = put_together(tree, moved)
        return moved_fit

    def save(self, path: str | os.PathLike[str], *, log: list[dict[str, Any]] | None = None) -> Path:
        """Write a folder that `armillary.load` reads back bit for bit, with the curve of its training, if any, as log.jsonl.

        See `core.artifact.save`.
        """
        from armillary.core.artifact import save

        return save(self, path, log=list(self.provenance.get("curve", ())) if log is None else log)

    def _check(self, x: Tensor) -> None:
        if x.ndim != 2 or x.shape[1] != width(self.inputs):
            raise ShapeError(f"{self!r} encodes rows [N, {width(self.inputs)}], got {list(x.shape)}")


def feature_activations(dictionary: Dictionary, codes: Codes) -> Codes:
    """One number per feature from the coefficients of its atoms; the base is dropped."""
    if dictionary.is_simple:
        return codes.with_base(codes.value.new_zeros(len(codes), 0))
    loading, centroid = ROLES.index("loading"), ROLES.index("centroid")
    is_region = torch.zeros(dictionary.n_features, dtype=torch.bool, device=dictionary.role.device)
    is_region[dictionary.group[dictionary.role == centroid]] = True
    if codes.index is not None and is_region.all():
        keep = dictionary.role[codes.index] != loading
        index = dictionary.group[codes.index].masked_fill(~keep, 0)
        return Codes(codes.value.masked_fill(~keep, 0), index, codes.value.new_zeros(len(codes), 0), dictionary.n_features)
    # A region counts by its centroid's coefficient; a group without a centroid by the norm of its coefficients.
    dense = codes.dense()
    counts = torch.where(is_region[dictionary.group] & (dictionary.role == loading), 0.0, 1.0).to(dense)
    squares = (dense * counts).square()
    norm = dense.new_zeros(len(codes), dictionary.n_features).index_add(1, dictionary.group, squares).sqrt()
    lone = torch.bincount(dictionary.group, weights=counts, minlength=dictionary.n_features) == 1
    signed = dense.new_zeros(len(codes), dictionary.n_features).index_add(1, dictionary.group, dense * counts)
    return dense_codes(torch.where(lone, signed, norm))
