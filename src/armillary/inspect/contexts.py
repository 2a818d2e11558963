"""Contexts: where each feature fires, with the text around it. One streaming pass over the rows, exact.

For every feature the rows with its largest activations; and rows drawn uniformly from those it fires on, sorted by activation and cut into
equal groups (quantiles), because the largest activations alone show a feature at its most flattering. The draw keeps the rows with the
smallest keyed hash of (row, feature), so it needs one pass and does not depend on the order or the batches.

Letters: N rows, K slots, F features, f features asked for, n contexts kept per feature, p pairs of row and feature.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from armillary.core.codes import Codes
from armillary.core.decomposition import Decomposition
from armillary.core.rows import PRIORITIES, Rows, as_rows
from armillary.core.run import drive
from armillary.core.statistics import Floats
from armillary.core.tokens import Ints
from armillary.errors import InputError, unknown
from armillary.inspect.best import Best, Pairs
from armillary.inspect.search import Search
from armillary.inspect.windows import Surroundings, Window

#: Coefficients that are looked at together, which bounds the memory of dense codes.
CHUNK = 1 << 20


@dataclass(frozen=True)
class Contexts:
    """Contexts of some features of a fit; rows are -1 where a feature has fewer.

    Args:
        features: [f] which.
        top_row, top_value: [f, n] the largest activations, largest first; ties go to the lower row.
        sample_row, sample_value: [f, n] rows drawn uniformly from those the feature fires on, in the order of the draw.
        n_fires: [f] rows the feature fires on.
        n_rows: rows that were read, special tokens left out.
        n_quantiles: groups the sample is cut into.
        window: tokens shown to the left and to the right.
        fit, rows: what was read.
    """

    features: Ints
    top_row: Ints
    top_value: Floats
    sample_row: Ints
    sample_value: Floats
    n_fires: Ints
    n_rows: int
    n_quantiles: int
    window: tuple[int, int]
    fit: Decomposition = field(repr=False)
    rows: Rows = field(repr=False)

    def density(self, feature: int) -> float:
        """Share of the rows the feature fires on."""
        return int(self.n_fires[self._place(feature)]) / max(self.n_rows, 1)

    def top(self, feature: int) -> tuple[Ints, Floats]:
        """Rows and values of the largest activations, largest first."""
        place = self._place(feature)
        used = self.top_row[place] >= 0
        return self.top_row[place][used], self.top_value[place][used]

    def quantiles(self, feature: int) -> list[tuple[Ints, Floats]]:
        """Rows and values of the sample in groups of nearly equal size, from the lowest activations to the highest; each descends."""
        place = self._place(feature)
        used = self.sample_row[place] >= 0
        row, value = self.sample_row[place][used], self.sample_value[place][used]
        order = np.lexsort((-row, value))
        return [(row[part][::-1], value[part][::-1]) for part in np.array_split(order, self.n_quantiles)]

    def windows(self, feature: int) -> list[Window]:
        """The largest activations in their text, largest first."""
        return self._windows(feature, *self.top(feature))

    def quantile_windows(self, feature: int) -> list[list[Window]]:
        """The sample in its text, by quantile from lowest to highest."""
        return [self._windows(feature, *part) for part in self.quantiles(feature)]

    def _place(self, feature: int) -> int:
        if feature not in self._places:
            raise unknown("feature among the contexts", feature, map(str, self._places))
        return self._places[feature]

    @cached_property
    def _places(self) -> dict[int, int]:
        return {int(feature): place for place, feature in enumerate(self.features)}

    def _windows(self, feature: int, rows: Ints, values: Floats) -> list[Window]:
        around = Surroundings.of(self.fit, self.rows, feature, rows.tolist(), self.window)
        return [around.window(row, value, is_activation=True) for row, value in zip(rows.tolist(), values.tolist(), strict=True)]


def contexts(
    fit: Decomposition,
    rows: Rows,
    *,
    n_top: int = 20,
    n_quantiles: int = 10,
    per_quantile: int = 5,
    window: tuple[int, int] = (16, 8),
    features: Sequence[int] | None = None,
    one_per_document: bool = False,
    batch_size: int = 4096,
    seed: int = 0,
) -> Contexts:
    """Find the contexts of features in one pass over the rows.

    Args:
        fit: whose features. A feature's activation is its code (direction), responsibility (region) or norm (subspace).
        rows: where to look; special tokens are left out.
        n_top: contexts with the largest activation, per feature.
        n_quantiles, per_quantile: groups of the uniform sample, and contexts in each.
        window: tokens to show before and after.
        features: only these; all if None.
        one_per_document: at most one top context per document.
        batch_size: rows per batch.
        seed: of the sample.

    Raises:
        InputError: a feature that does not exist, or nothing to keep.
        ShapeError: the rows do not hold what the fit reads.
    """
    read = as_rows(rows)
    search = ContextSearch(
        fit, read, n_top=n_top, n_quantiles=n_quantiles, per_quantile=per_quantile, window=window, features=features,
        one_per_document=one_per_document, batch_size=batch_size, seed=seed,
    )  # fmt: skip
    with torch.no_grad():
        drive([search], read, title="contexts")
    return search.finish()


class ContextSearch(Search):
    """The search as a consumer, so that it can share a pass with fits and studies; arguments as of `contexts`."""

    def __init__(
        self,
        fit: Decomposition,
        rows: Rows,
        *,
        n_top: int,
        n_quantiles: int,
        per_quantile: int,
        window: tuple[int, int],
        features: Sequence[int] | None,
        one_per_document: bool,
        batch_size: int,
        seed: int,
    ) -> None:
        if min(n_top, per_quantile) < 0 or n_quantiles < 1 or n_top + per_quantile == 0:
            raise InputError(f"contexts needs something to keep: got n_top={n_top}, {n_quantiles} quantiles of {per_quantile}")
        every = np.arange(fit.n_features)
        super().__init__(fit, rows, every if features is None else _existing(features, fit), batch_size=batch_size, seed=seed)
        self.n_quantiles, self.window = n_quantiles, window
        f = len(self.features)
        self.best = {"largest": Best(f, n_top, one_per_group=one_per_document), "drawn": Best(f, n_quantiles * per_quantile)}

    def look(self, x: Tensor, row: Ints) -> None:
        for pairs in self._pairs(self.fit.activations(x), row):
            self.add(pairs.feature)
            self.best["largest"].offer(pairs)
            number = pairs.row * self.fit.n_features + self.features[pairs.feature]
            priority = self.priority(number % PRIORITIES).astype(np.float64)
            self.best["drawn"].offer(Pairs(pairs.feature, pairs.row, -priority, pairs.value, pairs.group))

    def _pairs(self, codes: Codes, row: Ints) -> Iterator[Pairs]:
        """The rows in which each feature asked for fires, a few rows of codes at a time."""
        threshold = -1.0 if self.fit.encoder.fires is None else self.fit.encoder.fires
        step = max(1, CHUNK // codes.value.shape[1])
        for start in range(0, len(codes), step):
            some = codes[start : start + step]
            which, slot = some.fires(threshold).nonzero(as_tuple=True)
            atom = slot if some.index is None else some.index[which, slot]
            feature = self.place[atom.cpu().numpy()]
            value = some.value[which, slot].double().cpu().numpy()
            rows = row[start : start + step][which.cpu().numpy()]
            pairs = Pairs(feature, rows, value, value, self._documents(rows))
            yield pairs[feature >= 0]

    def _documents(self, row: Ints) -> Ints:
        tokens = self.rows.tokens
        return np.full(len(row), -1, dtype=np.int64) if tokens is None else tokens.document[tokens.rows[row]]

    def finish(self) -> Contexts:
        self.settle()
        largest, drawn = self.best["largest"], self.best["drawn"]
        return Contexts(
            self.features,
            largest.row,
            largest.value,
            drawn.row,
            drawn.value,
            self.count.numpy(),
            self.n_rows,
            self.n_quantiles,
            self.window,
            self.fit,
            self.rows,
        )


def _existing(features: Sequence[int], fit: Decomposition) -> Ints:
    """The features as an array, checked and without repeats."""
    once = list(dict.fromkeys(int(feature) for feature in features))
    fit.dictionary.atoms_of(once)
    return np.asarray(once, dtype=np.int64)
