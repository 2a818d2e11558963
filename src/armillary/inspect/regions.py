"""Regions: what rows show of each region of a mixture. `region_search` finds them.

Letters: F regions, f regions asked for, n rows kept of each, R axes of a region.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from armillary.core.decomposition import Decomposition
from armillary.core.rows import Rows
from armillary.core.statistics import Floats
from armillary.core.tokens import Ints
from armillary.errors import InputError, unknown
from armillary.inspect.windows import Surroundings, Window


@dataclass(frozen=True)
class Ranked:
    """Rows in the order they were ranked in, best first; -1 where there are fewer.

    Args:
        row: [f, n] or, of axes, [f, R, n].
        value: the same shape, what each row was ranked by.
    """

    row: Ints
    value: Floats

    def of(self, *place: int) -> list[tuple[int, float]]:
        """Rows and values at a place."""
        found = zip(self.row[place].tolist(), self.value[place].tolist(), strict=True)
        return [(row, value) for row, value in found if row >= 0]


@dataclass(frozen=True)
class RegionWindows:
    """One region's rows in their text; see `RegionContexts` for what each is. A window's activations are responsibilities.

    Args:
        region: its number.
        likelihood, responsibility, border, drawn: windows, best first; `drawn` in the order of the draw.
        neighbors: the other region of every window of `border`.
        low, high: per axis, the windows of its lowest coordinates, lowest first, and of its highest, highest first.
    """

    region: int
    likelihood: tuple[Window, ...]
    responsibility: tuple[Window, ...]
    border: tuple[Window, ...]
    neighbors: tuple[int, ...]
    drawn: tuple[Window, ...]
    low: tuple[tuple[Window, ...], ...]
    high: tuple[tuple[Window, ...], ...]


@dataclass(frozen=True)
class RegionContexts:
    """Contexts of some regions of a mixture. A row is a member of its most responsible region.

    Args:
        regions: [f] which.
        likelihood: rows of largest log p(x | k) in nats, among those for which k is one of the few most responsible regions.
        responsibility: of largest log odds log r_k - log (1 - r_k), among the same rows; r_k itself is 1 in floating point for many.
        border: rows that k shares most evenly with another region, as their first or second: by the smaller of the two responsibilities.
        other: [f, n] that other region, -1 where there is no row.
        drawn: members drawn uniformly, in the order of the draw, with the region's responsibility.
        low, high: [f, R, n] members of lowest and of highest posterior coordinate z_j, in standard deviations.
        n_members: [f] rows that are members.
        n_rows: rows that were read, special tokens left out.
        n_drawn: drawn rows that `windows` shows; `tokens` counts all.
        window: tokens shown to the left and to the right.
        fit, rows: what was read.
    """

    regions: Ints
    likelihood: Ranked
    responsibility: Ranked
    border: Ranked
    other: Ints
    drawn: Ranked
    low: Ranked
    high: Ranked
    n_members: Ints
    n_rows: int
    n_drawn: int
    window: tuple[int, int]
    fit: Decomposition = field(repr=False)
    rows: Rows = field(repr=False)

    @property
    def n_axes(self) -> int:
        """R."""
        return int(self.low.row.shape[1])

    def share(self, region: int) -> float:
        """Share of the rows that are members."""
        return int(self.n_members[self.place(region)]) / max(self.n_rows, 1)

    def tokens(self, region: int, n: int = 10) -> list[tuple[str, int]]:
        """The most frequent tokens among the drawn members, and how often each is there; none where rows have no text."""
        tokens = self.rows.tokens
        if tokens is None:
            return []
        return Counter(tokens.text(tokens.rows[row]) for row, _ in self.drawn.of(self.place(region))).most_common(n)

    def windows(self, region: int) -> RegionWindows:
        """All of a region's rows in their text."""
        place = self.place(region)
        groups = {name: getattr(self, name).of(place) for name in ("likelihood", "responsibility", "border")}
        groups["drawn"] = self.drawn.of(place)[: self.n_drawn]
        axes = {side: [getattr(self, side).of(place, j) for j in range(self.n_axes)] for side in ("low", "high")}
        centres = {row for pairs in (*groups.values(), *axes["low"], *axes["high"]) for row, _ in pairs}
        around = Surroundings.of(self.fit, self.rows, region, sorted(centres), self.window)

        def shown(pairs: list[tuple[int, float]]) -> tuple[Window, ...]:
            return tuple(around.window(row, value) for row, value in pairs)

        return RegionWindows(
            region,
            neighbors=tuple(other for other in self.other[place].tolist() if other >= 0),
            **{name: shown(pairs) for name, pairs in groups.items()},
            low=tuple(shown(pairs) for pairs in axes["low"]),
            high=tuple(shown(pairs) for pairs in axes["high"]),
        )

    def place(self, region: int) -> int:
        """Where in the arrays a region is.

        Raises:
            UnknownNameError: it was not asked for.
        """
        if region not in self._places:
            raise unknown("region among the contexts", region, map(str, self._places))
        return self._places[region]

    @cached_property
    def _places(self) -> dict[int, int]:
        return {int(region): place for place, region in enumerate(self.regions)}


def chosen_regions(fit: Decomposition, regions: Sequence[int] | None) -> Ints:
    """The regions as an array, checked and without repeats."""
    if regions is None:
        return np.arange(fit.n_features)
    once = list(dict.fromkeys(int(region) for region in regions))
    outside = [region for region in once if not 0 <= region < fit.n_features]
    if outside:
        raise InputError(f"region {outside[0]} is out of range: there are {fit.n_features} (0 to {fit.n_features - 1})")
    return np.asarray(once, dtype=np.int64)
