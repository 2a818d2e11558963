"""Labels: do regions, and places inside them, go with what is known of the documents?

    agreement of regions    Vinh, Epps and Bailey's (2010) adjusted mutual information of regions and classes (numbers: their tenths)
    agreement of an axis    inside a region, of its coordinates z_j: classes: eta^2, the share of the variance between classes;
                            numbers: Spearman's correlation, by its size; of the axis where it is largest

Nulls give whole documents the labels of others, since all rows of a document share one: chance is well above 0 then, as topics differ too.
All of it on rows drawn at random.

Letters: n rows, K regions, R axes, L classes, S draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_mutual_info_score

from armillary.core.jackknife import GROUPS, jackknife_interval, leave_out
from armillary.core.report import Estimate
from armillary.core.statistics import Floats, benjamini_hochberg, permutation_p
from armillary.core.tokens import Bools, Ints, Tokens
from armillary.errors import InputError, unknown

#: More classes than this are names, of which hardly two documents have one; fewer different numbers than `FEW` are classes.
MANY, FEW = 50, 13
#: Rows of a region in the sample below which nothing is said of its axes.
FEWEST = 30


@dataclass(frozen=True)
class Label:
    """A label of rows.

    Args:
        name: of the label.
        kind: "classes" or "numbers".
        value: [documents] class number, or number, of the documents that have the label.
        document: [n] index into `value` of each row that has it.
        where: [n] place of these rows in the sample.
    """

    name: str
    kind: Literal["classes", "numbers"]
    value: Floats
    document: Ints
    where: Ints

    def drawn(self, n_draws: int, seed: int) -> list[Floats]:
        """[S] labels [documents] dealt to other documents."""
        rng = np.random.default_rng(seed)
        return [rng.permutation(self.value) for _ in range(n_draws)]


def labels_of(tokens: Tokens | None, row: Ints, wanted: str | None) -> list[Label]:
    """The labels of the documents that rows [n] belong to: the one wanted, or all that can be compared with regions.

    Raises:
        InputError: the label that is wanted is not there, or the same everywhere, or different everywhere.
    """
    if tokens is None or not tokens.documents:
        if wanted is not None:
            raise InputError(f"label={wanted!r}, but the rows have no documents with labels; harvest text that has them")
        return []
    number = tokens.document[tokens.rows[row]]
    there, place = np.unique(number, return_inverse=True)
    told = [tokens.documents[int(i)].labels if i >= 0 else {} for i in there]
    names = list(dict.fromkeys(name for one in told for name in one))
    if wanted is not None and wanted not in names:
        raise unknown("label", wanted, names) if names else InputError(f"label={wanted!r}, but no document has a label")
    found = {name: _label(name, told, place) for name in ([wanted] if wanted is not None else names)}
    if wanted is not None and isinstance(why := found[wanted], str):
        raise InputError(f"label {wanted!r} cannot be compared with regions: {why}; name another of {', '.join(names)}")
    return [one for one in found.values() if isinstance(one, Label)]


def _label(name: str, told: Sequence[Mapping[str, str]], place: Ints) -> Label | str:
    """One label, or why nothing can be said of it."""
    has = np.array([name in one for one in told])
    texts = [one[name] for one in told if name in one]
    different = sorted(set(texts))
    index = np.cumsum(has) - 1
    where = np.flatnonzero(has[place])
    if len(different) < 2:
        return f"it is {different[0]!r} in every document"
    numbers = _numbers(texts)
    if numbers is not None and len(different) >= FEW:
        return Label(name, "numbers", numbers, index[place[where]], where)
    if len(different) > MANY:
        return f"it has {len(different)} values, more than {MANY}"
    classes = np.array([different.index(text) for text in texts], np.float64)
    return Label(name, "classes", classes, index[place[where]], where)


def _numbers(texts: Sequence[str]) -> Floats | None:
    try:
        found = np.array([float(text) for text in texts])
    except ValueError:
        return None
    return found if np.isfinite(found).all() else None


# ---------------------------------------------------------------- regions


def agreement(label: Label, region: Ints, unit: Ints, *, n_draws: int, seed: int) -> Estimate:
    """Adjusted mutual information of regions [n] with a label; `unit` [n] is what the jackknife leaves out by."""
    mine, group = region[label.where], unit[label.where] % GROUPS
    of = label.value if label.kind == "classes" else tenths(label.value)
    classes = of[label.document]
    value = float(adjusted_mutual_info_score(classes, mine))
    low, high = jackknife_interval(
        value, leave_out(group, lambda kept: float(adjusted_mutual_info_score(classes[kept], mine[kept]))), highest=1.0
    )
    rng = np.random.default_rng(seed)
    null = [float(adjusted_mutual_info_score(rng.permutation(of)[label.document], mine)) for _ in range(n_draws)]
    p = float(permutation_p(value, null))
    return Estimate(value, low, high, len(mine), null=float(np.mean(null)), ceiling=1.0, p=p, better="higher")


def tenths(value: Floats) -> Floats:
    """Numbers [m] as classes of about equally many."""
    found: Floats = np.searchsorted(np.quantile(value, np.arange(0.1, 1, 0.1)), value, side="right").astype(np.float64)
    return found


# ---------------------------------------------------------------- axes


@dataclass(frozen=True)
class Axes:
    """What the axes of regions have to do with a label.

    Args:
        estimate: mean over the rows of the regions that are told of, of their best axis.
        region, axis: [k] regions with rows enough, and their best axis.
        value: [k] eta^2, or Spearman's correlation with its sign.
        null: [k] mean size of the same under labels of other documents, of the axis that is best then.
        p, q: [k] p-values, and after false-discovery control over regions.
    """

    estimate: Estimate
    region: Ints
    axis: Ints
    value: Floats
    null: Floats
    p: Floats
    q: Floats


def axes(label: Label, region: Ints, z: Floats, unit: Ints, *, n_draws: int, seed: int) -> Axes | str:
    """What z [n, R] inside each region [n] has to do with a label, or why nothing can be said; the jackknife leaves out by `unit` [n]."""
    if z.shape[1] == 0:
        return "regions without axes"
    mine = region[label.where]
    size = np.bincount(mine)
    known = np.flatnonzero(size >= FEWEST)
    if len(known) == 0:
        return f"no region has {FEWEST} of the rows drawn"
    kept = np.isin(mine, known)
    place, document = np.searchsorted(known, mine[kept]), label.document[kept]
    inside, of_kind = z[label.where][kept], _eta if label.kind == "classes" else _spearman
    measure = of_kind(inside, place, len(known))
    found = measure(label.value[document])  # [k, R]
    best = np.abs(found).argmax(1)
    top = np.abs(found).max(1)
    chance = np.stack([np.abs(measure(drawn[document])).max(1) for drawn in label.drawn(n_draws, seed)])  # [S, k]
    weight = size[known] / size[known].sum()
    value, by_chance = float(top @ weight), chance @ weight

    def without(on: Bools) -> float:
        return float(np.abs(of_kind(inside[on], place[on], len(known))(label.value[document[on]])).max(1) @ weight)

    low, high = jackknife_interval(value, leave_out(unit[label.where][kept] % GROUPS, without), lowest=0.0, highest=1.0)
    p = float(permutation_p(value, by_chance))
    estimate = Estimate(value, low, high, int(kept.sum()), null=float(by_chance.mean()), ceiling=1.0, p=p, better="higher")
    each = permutation_p(top, chance)
    return Axes(estimate, known, best, found[np.arange(len(known)), best], chance.mean(0), each, benjamini_hochberg(each))


def _eta(z: Floats, region: Ints, n_regions: int) -> Callable[[Floats], Floats]:
    """eta^2 [K, R] of coordinates [n, R] by the classes [n] of a label, in each region [n]; 0 where coordinates are all equal."""
    centred = z - group_means(z, region, n_regions)[region]
    total = np.stack([np.bincount(region, weights=column**2, minlength=n_regions) for column in centred.T], axis=1)

    def measure(label: Floats) -> Floats:
        n_classes = int(label.max()) + 1
        cell = region * n_classes + label.astype(np.int64)
        n = np.maximum(np.bincount(cell, minlength=n_regions * n_classes), 1)
        between = np.stack([np.bincount(cell, weights=column, minlength=len(n)) ** 2 / n for column in centred.T], axis=1)
        return _over(between.reshape(n_regions, n_classes, -1).sum(1), total)

    return measure


def _spearman(z: Floats, region: Ints, n_regions: int) -> Callable[[Floats], Floats]:
    """Spearman's correlation [K, R] of coordinates [n, R] with the numbers [n] of a label, in each region; 0 where either is constant."""
    rank = np.stack([ranks_within(column, region) for column in z.T], axis=1)
    rank -= group_means(rank, region, n_regions)[region]
    squares = np.stack([np.bincount(region, weights=column**2, minlength=n_regions) for column in rank.T], axis=1)

    def measure(label: Floats) -> Floats:
        other = ranks_within(label, region)
        other -= group_means(other[:, None], region, n_regions)[region, 0]
        product = np.stack([np.bincount(region, weights=column * other, minlength=n_regions) for column in rank.T], axis=1)
        size = np.bincount(region, weights=other**2, minlength=n_regions)
        return _over(product, np.sqrt(squares * size[:, None]))

    return measure


def group_means(x: Floats, group: Ints, n_groups: int) -> Floats:
    """[K, c] means of rows [n, c] by group [n]."""
    n = np.maximum(np.bincount(group, minlength=n_groups), 1)
    return np.stack([np.bincount(group, weights=column, minlength=n_groups) / n for column in x.T], axis=1)


def ranks_within(value: Floats, group: Ints) -> Floats:
    """[n] rank of each value inside its group, ties sharing their mean rank; ranks of a group begin anywhere."""
    order = np.lexsort((value, group))
    starts = np.flatnonzero(np.diff(value[order], prepend=np.nan) != 0)
    starts = np.union1d(starts, np.flatnonzero(np.diff(group[order], prepend=-1)))  # each run of ties
    length = np.diff(np.append(starts, len(order)))
    out = np.empty(len(order))
    out[order] = np.repeat(starts + (length - 1) / 2, length)
    return out


def _over(above: NDArray[Any], below: NDArray[Any]) -> Floats:
    """Elementwise ratio, 0 where nothing varies."""
    found: Floats = np.divide(above, below, out=np.zeros_like(above), where=below > 1e-12)
    return found
