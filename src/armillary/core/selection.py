"""Selection: are a method's features found again by another seed, and which settings find most that holds? For any method.

    matched cosine      of each feature with its partner in the best one-to-one matching of two fits
    support Jaccard     |S and S'| / |S or S'| of the entries that are not 0 of a feature and its partner
    consensus           features whose partners in all other fits are nearer than a threshold

The null of each is the same matching against a fit whose atoms have their entries shuffled, which keeps how many there are and how large.

Letters: F features, D width, S seeds, U units.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from armillary.core.decomposition import Decomposition
from armillary.core.method import Method, fit_many
from armillary.core.report import Estimate, Report
from armillary.core.rows import Batch, as_rows
from armillary.core.run import drive
from armillary.core.statistics import Floats, Units, ratio_interval, wilson_interval
from armillary.core.summary import OnePass, Summary
from armillary.errors import ArmillaryWarning, InputError, ShapeError

#: Cosine from which on two features count as the same one.
SAME = 0.9
#: Rows whose scatter is below this share of their squares are all the same: it is the rounding of float64.
CONSTANT = 1e-12
#: Curveball trades per atom.
TRADES = 5
#: Consecutive rows that make a unit of the bootstrap of an error.
BLOCK = 256


@dataclass(frozen=True)
class Matching:
    """The best one-to-one matching of two sets of directions.

    Args:
        left, right: [F] indices of partners, F the smaller number.
        cosine: [F] of each pair.
    """

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    cosine: Floats


def match(ours: Tensor, theirs: Tensor, *, is_signed: bool = True) -> Matching:
    """Match directions [F, D] and [G, D] so that the cosines add up to the most (Kuhn 1955).

    Args:
        ours, theirs: directions; one of length 0 has cosine 0 with all.
        is_signed: whether opposite directions are different; if not, the size of the cosine counts.

    Raises:
        ShapeError: the widths differ.
    """
    if ours.shape[1] != theirs.shape[1]:
        raise ShapeError(f"directions of width {ours.shape[1]} cannot be matched with directions of width {theirs.shape[1]}")
    cosine = (F.normalize(ours.double(), dim=1) @ F.normalize(theirs.double(), dim=1).T).cpu().numpy()
    cosine = cosine if is_signed else np.abs(cosine)
    left, right = linear_sum_assignment(-cosine)
    return Matching(left, right, cosine[left, right])


# ---------------------------------------------------------------- stability


@dataclass(frozen=True)
class Stability:
    """Fits of one method by several seeds, and how far they agree.

    Args:
        fits: one per seed; the first is the reference.
        cosine: [S - 1, F] cosine of each reference feature with its partner in each other fit; -1 without a partner.
        report: matched cosine, support Jaccard and consensus, with their nulls.
    """

    fits: tuple[Decomposition, ...]
    cosine: Floats
    report: Report

    def consensus(self, threshold: float = SAME) -> Decomposition:
        """The features of the first fit that every other one has too.

        Raises:
            InputError: there is none.
        """
        kept = np.flatnonzero(self.cosine.min(0) >= threshold)
        if len(kept) == 0:
            raise InputError(
                f"no feature has a partner of cosine {threshold:g} in every fit; the largest is {self.cosine.min(0).max():.3g}"
            )
        return self.fits[0].subset(torch.from_numpy(kept))

    def __rich__(self) -> Any:
        return self.report


def stability(method: Method, data: Any, *, seeds: int | Sequence[int] = 3) -> Stability:
    """Fit a method with several seeds and compare what they find.

    Args:
        method: what is fitted.
        data: as of `Method.fit`.
        seeds: which, or how many of 0, 1, 2, ...

    Raises:
        InputError: fewer than two seeds.
    """
    chosen = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if len(set(chosen)) < 2:
        raise InputError(f"stability needs at least two different seeds, got {chosen}")
    began = time.monotonic()
    fits = [method.fit(data, seed=seed) for seed in chosen]
    return agreement(fits, title=f"stability of {type(method).__name__}", began=began)


def agreement(
    fits: Sequence[Decomposition], *, title: str = "stability", is_signed: bool | None = None, began: float | None = None
) -> Stability:
    """Compare fits of the same rows, such as those of several seeds, with the first.

    Args:
        fits: at least two, in one space.
        title: of the report.
        is_signed: whether opposite directions differ; by default they do where codes are sparse.
        began: `time.monotonic()` at which the work began.

    Raises:
        InputError: fewer than two fits.
    """
    if len(fits) < 2:
        raise InputError(f"at least two fits are compared, got {len(fits)}")
    began = time.monotonic() if began is None else began
    first, *others = [fit.dictionary.directions() for fit in fits]
    is_signed = fits[0].encoder.fires is not None if is_signed is None else is_signed
    found = [match(first, other, is_signed=is_signed) for other in others]
    shuffled = [shuffle(other, seed) for seed, other in enumerate(others)]
    chance = [match(first, other, is_signed=is_signed) for other in shuffled]
    aligned, by_chance = _aligned(found, len(first)), _aligned(chance, len(first))
    estimates = {
        "matched_cosine": _mean(_by_feature(aligned), _by_feature(by_chance)),
        "support_jaccard": _supports(first, others, found, shuffled, chance),
        "consensus": _consensus(aligned, by_chance),
    }
    columns = {"feature": list(range(len(first))), "matched_cosine": _by_feature(aligned).tolist(), "least": aligned.min(0).tolist()}
    notes = ["Null: the same matching against atoms whose entries are shuffled. Intervals: bootstrap over features."]
    figure = _figure(_by_feature(aligned), _by_feature(by_chance))
    seconds = time.monotonic() - began
    report = Report(
        title, estimates, {"features": columns}, {"matched cosine": figure}, notes, provenance=dict(fits[0].provenance), seconds=seconds
    )
    return Stability(tuple(fits), aligned, report)


def shuffle(atoms: Tensor, seed: int) -> Tensor:
    """Atoms [F, D] whose entries are permuted, each atom's by itself."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(atoms.shape, generator=generator).argsort(dim=1).to(atoms.device)
    return atoms.gather(1, order)


def trade(atoms: Tensor, seed: int) -> Tensor:
    """Atoms [F, D] that have traded neurons: each keeps as many entries, and each neuron as many atoms, as before.

    Curveball trades (Strona et al. 2014, doi 10.1038/ncomms5114): two atoms put what only one of them has on a heap and draw from it, so
    often that every atom has taken part some ten times. An atom's values are then dealt to its neurons at random.
    """
    rng = np.random.default_rng(seed)
    have = [set(row.nonzero().flatten().tolist()) for row in atoms]
    for _ in range(TRADES * len(have) if len(have) > 1 else 0):
        one, other = rng.choice(len(have), 2, replace=False)
        heap = rng.permutation(sorted(have[one] ^ have[other])).tolist()
        n, both = len(have[one] - have[other]), have[one] & have[other]
        have[one], have[other] = both | set(heap[:n]), both | set(heap[n:])
    out = torch.zeros_like(atoms)
    for row, values, neurons in zip(out, atoms, have, strict=True):
        row[torch.tensor(sorted(neurons), dtype=torch.int64)] = values[values != 0][torch.from_numpy(rng.permutation(len(neurons)))]
    return out


def _aligned(found: Sequence[Matching], n: int) -> Floats:
    """[S - 1, F] the cosine of each of n reference features, -1 where it has no partner."""
    out = np.full((len(found), n), -1.0)
    for row, matching in zip(out, found, strict=True):
        row[matching.left] = matching.cosine
    return out


def _by_feature(aligned: Floats) -> Floats:
    """[F] mean over the other fits [S - 1, F]; a feature without a partner counts 0."""
    mean: Floats = np.maximum(aligned, 0).mean(0)
    return mean


def _mean(values: Floats, chance: Floats) -> Estimate:
    units = Units.of_values("feature", values)
    low, high = ratio_interval(units)
    return Estimate(float(values.mean()), low, high, len(values), null=float(chance.mean()), ceiling=1.0, better="higher", units=units)


def _consensus(cosine: Floats, chance: Floats) -> Estimate:
    """Share of the features that every fit has."""
    same = cosine.min(0) >= SAME
    low, high = wilson_interval(int(same.sum()), len(same))
    null = float((chance.min(0) >= SAME).mean())
    return Estimate(float(same.mean()), low, high, len(same), null=null, ceiling=1.0, better="higher")


def _supports(
    first: Tensor, others: Sequence[Tensor], found: Sequence[Matching], shuffled: Sequence[Tensor], chance: Sequence[Matching]
) -> Estimate:
    if bool((first != 0).all()):
        return Estimate.missing("the atoms have no entry that is 0", better="higher")
    ours = np.mean([_jaccard(first, other, pair) for other, pair in zip(others, found, strict=True)], axis=0)
    null = np.mean([_jaccard(first, other, pair) for other, pair in zip(shuffled, chance, strict=True)], axis=0)
    return _mean(ours, null)


def _jaccard(ours: Tensor, theirs: Tensor, pairs: Matching) -> Floats:
    """[F] of the supports of partners; 0 without one."""
    left, right = ours[pairs.left] != 0, theirs[pairs.right] != 0
    shared, either = (left & right).sum(1).double(), (left | right).sum(1).clamp_min(1).double()
    out = np.zeros(len(ours))
    out[pairs.left] = (shared / either).cpu().numpy()
    return out


def _figure(found: Floats, chance: Floats) -> dict[str, Any]:
    bins = {"start": 0.0, "end": 1.02, "size": 0.02}
    traces = [
        {"type": "histogram", "x": values.tolist(), "name": name, "xbins": bins, "opacity": 0.7}
        for name, values in (("other seeds", found), ("shuffled entries", chance))
    ]
    axes = {"xaxis": {"title": {"text": "cosine with the partner, mean over fits"}}, "yaxis": {"title": {"text": "features"}}}
    return {"data": traces, "layout": {"title": {"text": "Are features found again?"}, **axes, "barmode": "overlay", "showlegend": True}}


# ---------------------------------------------------------------- selection


@dataclass(frozen=True)
class Selection:
    """Methods compared on rows they were not fitted to.

    Args:
        methods: as given.
        fits: for each method, one per seed.
        best: index of the method with the largest score.
        report: a row per method.
    """

    methods: tuple[Method, ...]
    fits: tuple[tuple[Decomposition, ...], ...]
    best: int
    report: Report

    @property
    def method(self) -> Method:
        return self.methods[self.best]

    @property
    def fit(self) -> Decomposition:
        """The first fit of the best method."""
        return self.fits[self.best][0]

    def __rich__(self) -> Any:
        return self.report


def select(methods: Sequence[Method], data: Any, held_out: Any, *, seeds: int | Sequence[int] = 2) -> Selection:
    """Which of several methods explains most of rows it has not seen, with features that other seeds find too.

        score = (1 - held-out error) x matched cosine between seeds        error: share of the rows' squares about their mean

    Args:
        methods: for instance `[SemiNMF(n_features=k) for k in (50, 100, 200)]`.
        data: what is fitted; all methods share the reading of one seed.
        held_out: rows for the error.
        seeds: which, or how many of 0, 1, 2, ...

    Raises:
        InputError: no method, fewer than two seeds, or held-out rows that are all the same.

    Warns:
        ArmillaryWarning: no method explains more than the held-out rows' mean.
    """
    chosen = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not methods or len(set(chosen)) < 2:
        raise InputError(f"select needs at least one method and two different seeds, got {len(methods)} and {chosen}")
    began = time.monotonic()
    by_seed = [fit_many(list(methods), data, seed=seed) for seed in chosen]
    fits = tuple(zip(*by_seed, strict=True))  # per method, one per seed
    errors = held_out_errors([one[0] for one in fits], held_out)
    stable = [agreement(one).report["matched_cosine"] for one in fits]
    scores = [_score(error, same) for error, same in zip(errors, stable, strict=True)]
    if max(scores) <= 0:
        warnings.warn("no method explains more of the held-out rows than their mean does", ArmillaryWarning, stacklevel=2)
    report = _compared(methods, errors, stable, scores, time.monotonic() - began)
    return Selection(tuple(methods), fits, int(np.argmax(scores)), report)


def _score(error: Estimate, same: Estimate) -> float:
    if error.value is None or same.value is None or not math.isfinite(error.value):
        why = error.reason or same.reason or f"the held-out error is {error.value}"
        raise InputError(f"methods cannot be compared on these rows: {why}; hold out others")
    return max(0.0, 1 - error.value) * max(0.0, same.value)


def held_out_errors(fits: Sequence[Decomposition], held_out: Any) -> list[Estimate]:
    """The squared error of each fit on the same rows, as a share of their squared distance from their mean.

    Intervals are over blocks of consecutive rows.
    """
    rows = as_rows(held_out)
    passes: list[OnePass[_Errors]] = [OnePass(_Errors(fit), lambda sums: sums.estimate()) for fit in fits]
    drive(passes, rows, title="held-out error")
    return [one.finish() for one in passes]


class _Errors(Summary):
    """Squared errors and moments of blocks of rows.

    Args:
        fit: what rebuilds them.
    """

    def __init__(self, fit: Decomposition) -> None:
        self.fit, self._n_rows = fit, 0
        self.blocks: dict[int, NDArray[np.float64]] = {}  # of each block: rows, squared error, squares; and the sums of its rows [D]

    @property
    def n_rows(self) -> int:
        return self._n_rows

    def update(self, batch: Batch) -> None:
        x = batch.x.float()
        error = (x - self.fit.reconstruct(x)).double().square().sum(1)  # [n]
        wide = torch.cat([torch.stack([torch.ones_like(error), error, x.double().square().sum(1)], 1), x.double()], 1).cpu().numpy()
        block = batch.row // BLOCK
        for number in np.unique(block):
            self.blocks[int(number)] = self.blocks.get(int(number), 0.0) + wide[block == number].sum(0)
        self._n_rows += len(x)

    def estimate(self) -> Estimate:
        ids = np.array(sorted(self.blocks))
        sums = np.stack([self.blocks[int(i)] for i in ids])  # [U, 3 + D]
        mean = sums[:, 3:].sum(0) / sums[:, 0].sum()  # [D]
        scatter = sums[:, 2] - 2 * sums[:, 3:] @ mean + sums[:, 0] * (mean @ mean)  # [U]
        if scatter.sum() <= CONSTANT * sums[:, 2].sum():
            return Estimate.missing("the held-out rows are all the same", better="lower")
        units = Units("block", ids, sums[:, 1], scatter)
        low, high = ratio_interval(units)
        return Estimate(units.value, low, high, self._n_rows, null=1.0, ceiling=0.0, better="lower", units=units)

    def state(self) -> dict[str, Any]:
        return {"n_rows": self._n_rows, "blocks": {str(i): torch.from_numpy(sums) for i, sums in self.blocks.items()}}

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        self._n_rows, self.blocks = sum(state["n_rows"] for state in states), {}
        for state in states:
            for i, sums in state["blocks"].items():
                self.blocks[int(i)] = self.blocks.get(int(i), 0.0) + sums.numpy()


def _compared(
    methods: Sequence[Method], errors: Sequence[Estimate], stable: Sequence[Estimate], scores: Sequence[float], seconds: float
) -> Report:
    """A row per method, and both measures over the methods."""
    names = told_apart(methods)
    table: dict[str, Any] = {"method": names, "score": list(scores)}
    for name, found in (("held_out_error", errors), ("matched_cosine", stable)):
        table |= {
            name: [one.value for one in found],
            f"{name} low": [one.low for one in found],
            f"{name} high": [one.high for one in found],
        }
    table["matched_cosine by chance"] = [one.null for one in stable]
    best = int(np.argmax(scores))
    estimates = {"held_out_error": errors[best], "matched_cosine": stable[best]}
    traces = [
        {"type": "scatter", "mode": "lines+markers", "x": names, "y": [one.value for one in found], "name": name}
        for name, found in (("held-out error", errors), ("matched cosine between seeds", stable))
    ]
    figure = {
        "data": traces,
        "layout": {"title": {"text": "Error and stability"}, "yaxis": {"title": {"text": "share"}}, "showlegend": True},
    }
    notes = [f"Best: {names[best]}. Score: (1 - held-out error) x matched cosine between seeds. Estimates are those of the best."]
    return Report("selection", estimates, {"methods": table}, {"error and stability": figure}, notes, seconds=seconds)


def told_apart(methods: Sequence[Method]) -> list[str]:
    """A name for each method: its class, and the options in which they differ."""
    options = [method.model_dump(mode="json") for method in methods]
    keys = [key for key in dict.fromkeys(key for one in options for key in one) if len({str(one.get(key)) for one in options}) > 1]
    kinds = [type(method).__name__ for method in methods]
    texts = [", ".join(f"{key}={one[key]}" for key in keys if key in one) for one in options]
    return [text if text and len(set(kinds)) == 1 else f"{kind} {text}".strip() for kind, text in zip(kinds, texts, strict=True)]
