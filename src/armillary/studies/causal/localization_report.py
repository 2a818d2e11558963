"""The localization study's report: estimates from which pairs came out as expected, tables and figures.

Letters: P pairs of a variable's test, U units (base entities).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from armillary.core.pairs import CAUSE, ISOLATE, is_about_entities, kind_shares
from armillary.core.provenance import versions
from armillary.core.report import Estimate, Report
from armillary.core.statistics import Floats, Interval, Units, crossed_units, ratio_interval, wilson_interval
from armillary.core.tokens import Bools, Ints
from armillary.studies.causal.interchange import Bench, Trials, unit_id
from armillary.studies.causal.masks import Chosen, Coordinates

if TYPE_CHECKING:
    from armillary.studies.causal.localization import Config

#: Fewer kept pairs than this make an estimate of little worth.
FEW = 20
#: Features that a table names at most.
NAMED = 20
#: What a unit of the bootstrap is; the entities of sources are units as well.
UNIT = "base entity"
#: Deviations of units that are no more than rounding.
TINY = 1e-9
#: How features were chosen, in words.
HOW = {
    "mask": "Features were chosen by a mask learnt through the model on training pairs",
    "attribution": "Features were chosen by first-order attribution on training pairs",
    "difference": "Features were chosen by how much they differ between bases and sources of training pairs",
    "all": "All features were exchanged",
}


@dataclass(frozen=True)
class Found:
    """One position.

    Args:
        position: which.
        chosen: the features.
        coordinates: what they were chosen from.
        right: [P] whether each pair of the test came out as expected.
        everything: [P] the same with the source's whole activation.
    """

    position: str
    chosen: Chosen
    coordinates: Coordinates
    right: Bools
    everything: Bools


@dataclass(frozen=True)
class Located:
    """One variable; nothing is found where the model can do no pair, or none of a kind that matters, of the training or of the test.

    Args:
        variable: which.
        test: P pairs.
        drawn: kinds of the pairs that were drawn, whether or not the model can do one.
        reason: why nothing is found, or "".
        shared: what pairs that were learnt from and pairs held back have in common that they should not, or "".
        found: per position.
        nothing: [P] whether each pair comes out as expected without any change.
        random: [P] the share of random choices with which it does, at the best position.
    """

    variable: str
    test: Trials
    drawn: tuple[str, ...]
    reason: str = ""
    shared: str = ""
    found: tuple[Found, ...] = ()
    nothing: Bools = field(default_factory=lambda: np.zeros(0, bool))
    random: Floats = field(default_factory=lambda: np.zeros(0))

    @property
    def best(self) -> Found:
        """The position that was best on the pairs held back; the first of equals."""
        return max(self.found, key=lambda one: one.chosen.score)

    def with_random(self, random: Floats) -> Located:
        """The same with the null of random choices."""
        return replace(self, random=random)

    @property
    def kinds(self) -> list[str]:
        """Kinds of the pairs that are kept, in the order they are met."""
        return list(dict.fromkeys(pair.kind for pair in self.test.pairs))

    @property
    def is_about_entities(self) -> bool:
        """Whether the pairs that were drawn ask for changes and for none; what the model can do does not change what is asked."""
        return is_about_entities(self.drawn)

    def asks(self, measure: str) -> bool:
        """Whether the pairs that were drawn ask for a measure."""
        return measure == "iia" or self.is_about_entities

    def shares(self, measure: str) -> dict[str, float]:
        """How much each kind of pair counts in a measure; {} where the pairs do not ask for it."""
        if measure == "iia":
            return {kind: 1 / len(self.kinds) for kind in self.kinds}
        if not self.is_about_entities:
            return {}
        part = {CAUSE: [CAUSE], ISOLATE: [kind for kind in self.kinds if _isolates(kind)]}
        return kind_shares(part.get(measure, self.kinds))


def _isolates(kind: str) -> bool:
    return kind.partition(":")[0] == ISOLATE


def report(
    title: str, bench: Bench, located: Sequence[Located], config: Config, *, how: str, fit: Mapping[str, Any], seconds: float
) -> Report:
    """The report of one subject: of a fit, told by its provenance, or of a method that is fitted to each variable."""
    estimates: dict[str, Estimate] = {}
    for measure in ("disentangle", "cause", "isolate", "iia"):
        estimates |= _estimates(measure, located, config)
    estimates |= _kept(bench, config) | {f"n_features: {one.variable}": _n_features(one) for one in located}
    return Report(
        title,
        estimates,
        {"variables": _variables(located), "positions": _positions(located), "kept": _kept_table(bench)},
        {"score by position": _figure(located)},
        notes=_notes(how, config),
        warnings=_warnings(located, bench),
        provenance=_provenance(fit, bench, config),
        seconds=seconds,
    )


# ---------------------------------------------------------------- estimates


def _estimates(measure: str, located: Sequence[Located], config: Config) -> dict[str, Estimate]:
    """One measure of every variable, after its mean over variables where there are several."""
    asked = [one for one in located if one.asks(measure)]
    each = {f"{measure}: {one.variable}": _estimate(measure, [one], config) for one in asked}
    there = [one for one in asked if one.found]
    return {measure: _estimate(measure, there, config), **each} if len(asked) > 1 and there else each


def _estimate(measure: str, located: Sequence[Located], config: Config) -> Estimate:
    """A measure of one variable, or its mean over several."""
    if not located[0].found:
        return Estimate.missing(located[0].reason, better="higher")
    weight = np.concatenate([_weight(one, measure) / len(located) for one in located])
    kind = np.array([pair.kind for one in located for pair in one.test.pairs])
    base, source = (np.concatenate([getattr(one.test, name) for one in located]) for name in ("unit", "source_unit"))

    def joined(of: Callable[[Located], Any]) -> Floats:
        return np.concatenate([np.asarray(of(one), np.float64) for one in located])

    part = np.unique([f"{one.variable}, {pair.kind}" for one in located for pair in one.test.pairs], return_inverse=True)[1]
    found = _share(weight, joined(lambda one: one.best.right), part, (base, source), config)
    null, ceiling = _bounds(
        weight, kind, joined(lambda one: one.nothing), joined(lambda one: one.best.everything), joined(lambda one: one.random)
    )
    return replace(found, null=null, ceiling=ceiling)


def _weight(one: Located, measure: str) -> Floats:
    """[P] how much each pair counts; 0 for kinds that do not."""
    shares = one.shares(measure)
    kinds = [pair.kind for pair in one.test.pairs]
    return np.array([shares.get(kind, 0.0) / kinds.count(kind) for kind in kinds], np.float64)


def _share(weight: Floats, right: Floats, part: Ints, sides: tuple[Ints, Ints], config: Config) -> Estimate:
    """The share of pairs [P] that came out as expected, with units and an interval for bases and sources (the sides) alike.

    How many pairs a part (a kind of a variable) has is no accident, so pairs deviate from their part; from the whole where it has one.
    """
    some, value = weight > 0, round(float(weight @ right), 12)  # so that equal shares are equal
    n, total = np.bincount(part), np.bincount(part, right)
    deviation = weight * (right - np.where(n > 1, total / np.maximum(n, 1), value)[part])
    units = crossed_units(UNIT, value, deviation[some], *(side[some] for side in sides))
    fewer = min(len(np.unique(side[some])) for side in sides)
    low, high = _interval(units, value, fewer, config)
    return Estimate(value, low, high, int(some.sum()), better="higher", units=units)


def _interval(units: Units, value: float, fewer: int, config: Config) -> Interval:
    """By bootstrap. But where all units agree, resampling them says nothing of others: then as much of what is right may be wrong, and of
    what is wrong right, as Wilson's interval has it of the fewer of bases and sources without an exception."""
    if len(units) > 1 and np.ptp(units.numerator) <= TINY:
        most = wilson_interval(0, fewer)[1] or 0.0
        return value * (1 - most), value + (1 - value) * most
    low, high = ratio_interval(units, n_samples=config.n_bootstrap, seed=config.seed)
    return (None, None) if low is None or high is None else (max(0.0, low), min(1.0, high))


def _bounds(weight: Floats, kind: Any, nothing: Floats, everything: Floats, random: Floats) -> tuple[float, float]:
    """(the best of what needs no features: doing nothing, random ones, and exchanging everything where something has to stay; and the
    most: exchanging everything where the answer is to change, and nothing where it is not)."""
    stays = np.array([_isolates(one) for one in kind])
    counted = weight > 0
    trivial = [] if stays[counted].all() else [nothing, random]
    trivial += [everything] if stays[counted].any() else []
    null, ceiling = max(float(weight @ one) for one in trivial), float(weight @ np.where(stays, nothing, everything))
    return round(null, 12), round(ceiling, 12)


def _kept(bench: Bench, config: Config) -> dict[str, Estimate]:
    """Share of the test's pairs that the model can do."""
    out = {}
    names: list[str | None] = [None, *bench.variables] if len(bench.variables) > 1 else list(bench.variables)
    for name in names:
        pairs = [pair for key, drawn in bench.drawn.items() if key[1] == "test" and name in (None, key[0]) for pair in drawn]
        found = bench.kept("test", name).astype(np.float64)
        key = "kept" if name is None else f"kept: {name}"
        if not len(found):
            out[key] = Estimate.missing(f"the test has no pair of {name} that can be put to the model", better="higher")
            continue
        base, source = (np.array([unit_id(getattr(pair, side)) for pair in pairs], np.int64) for side in ("base", "source"))
        weight, whole = np.full(len(found), 1 / len(found)), np.zeros(len(found), np.int64)
        out[key] = replace(_share(weight, found, whole, (base, source), config), ceiling=1.0)
    return out


def _n_features(one: Located) -> Estimate:
    if not one.found:
        return Estimate.missing(one.reason, better="lower")
    total = len(one.best.coordinates)
    return Estimate(float(one.best.chosen.n), n=max(1, total), ceiling=None, better="lower", unit=f"of {total:,}")


# ---------------------------------------------------------------- tables and figures


def _variables(located: Sequence[Located]) -> dict[str, list[Any]]:
    """A row per variable."""
    rows = []
    for one in (one for one in located if one.found):
        best, score = one.best, one.test.score
        chosen = best.coordinates.names[best.chosen.mask.bool()].tolist()
        more = f" and {len(chosen) - NAMED} more" if len(chosen) > NAMED else ""
        rows.append({
            "variable": one.variable, "position": best.position, "setting": best.chosen.setting, "features": len(chosen),
            "score": score(best.right), "nothing": score(one.nothing), "random": float(one.test.weight @ one.random),
            "everything": score(best.everything), "which": ", ".join(map(str, chosen[:NAMED])) + more,
        })  # fmt: skip
    return _columns(rows)


def _positions(located: Sequence[Located]) -> dict[str, list[Any]]:
    """A row per variable, position and kind of pair."""
    rows = []
    for one in located:
        kinds = np.array([pair.kind for pair in one.test.pairs])
        for found, kind in ((found, kind) for found in one.found for kind in one.kinds):
            of = kinds == kind
            rows.append({
                "variable": one.variable, "position": found.position, "kind": kind, "pairs": int(of.sum()),
                "right": float(found.right[of].mean()), "nothing": float(one.nothing[of].mean()),
                "everything": float(found.everything[of].mean()), "features": found.chosen.n,
                "held back": found.chosen.score, "is best": found is one.best,
            })  # fmt: skip
    return _columns(rows)


def _kept_table(bench: Bench) -> dict[str, list[Any]]:
    """A row per variable, split and kind of pair."""
    rows = []
    for (variable, split), drawn in bench.drawn.items():
        known = bench.kept(split, variable)
        for kind in dict.fromkeys(pair.kind for pair in drawn):
            of = np.array([pair.kind == kind for pair in drawn])
            rows.append({
                "variable": variable, "split": split, "kind": kind, "pairs": int(of.sum()), "kept": int(known[of].sum()),
                "share": float(known[of].mean()),
            })  # fmt: skip
    return _columns(rows)


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else {})}


def _figure(located: Sequence[Located]) -> dict[str, Any]:
    """A bar per variable and position."""
    places = [(one, found) for one in located for found in one.found]
    names = [f"{one.variable}, {found.position}" for one, found in places]
    trace = {"type": "bar", "x": names, "y": [one.test.score(found.right) for one, found in places]}
    layout = {"title": {"text": "Score by position"}, "yaxis": {"title": {"text": "score on the test"}, "range": [0, 1]}}
    return {"data": [trace], "layout": {**layout, "xaxis": {"title": {"text": "variable, position"}}, "barmode": "group"}}


# ---------------------------------------------------------------- words


def _notes(how: str, config: Config) -> list[str]:
    return [
        f"{how}; setting and position by training pairs of other base entities, held back, whose sources may have been learnt from. "
        "The test had no part in either.",
        "An answer is right where each of its tokens is the model's most likely one. Only pairs both of whose prompts it answers are kept.",
        f"Null: the best of doing nothing, as many random features ({config.n_random} draws) and, where something has to stay, exchanging "
        "everything. Ceiling: exchanging everything where the answer is to change, nothing where it is not.",
        "Intervals: 95 %, bootstrap over the entities of bases and of sources; where all agree Wilson's, of as many trials as there are of "
        "the fewer.",
    ]


def _warnings(located: Sequence[Located], bench: Bench) -> list[str]:
    out = _left_out(bench)
    for one in located:
        if not one.found:
            out.append(f"{one.variable}: {one.reason}")
            continue
        out += [f"{one.variable}: {line}" for line in ([one.shared] if one.shared else []) + _lost(one, bench)]
        if (fewest := min(len(bench.trials[one.variable, split]) for split in ("train", "test"))) < FEW:
            out.append(f"{one.variable}: only {fewest} pairs are kept in training or test; the scores say little")
        if one.best.chosen.n == 0:
            out.append(f"{one.variable}: no feature was chosen at {one.best.position!r}, so its scores are those of doing nothing")
        if one.test.score(one.best.everything) <= one.test.score(one.nothing) and not one.is_about_entities:
            out.append(f"{one.variable}: exchanging everything at {one.best.position!r} does no better than nothing; it is not kept there")
    return out


def _left_out(bench: Bench) -> list[str]:
    """How many pairs the tokenizer cannot be asked, in a line."""
    pairs = [pair for some in bench.left_out.values() for pair in some]
    if not pairs:
        return []
    told = f"base {pairs[0].base.text!r} and source {pairs[0].source.text!r}"
    return [f"{len(pairs):,} pairs left out: the tokenizer does not keep a prompt apart from its answer, such as in that of {told}"]


def _lost(one: Located, bench: Bench) -> list[str]:
    """Kinds of which no pair is left, a line each."""
    lines = []
    for split in ("train", "test"):
        kept = {pair.kind for pair in bench.trials[one.variable, split].pairs}
        lost = [kind for kind in bench.kinds(one.variable, split) if kind not in kept]
        lines += [f"the model can do no {split} pair of kind {kind!r}, which no score is of" for kind in lost]
    return lines


def _provenance(fit: Mapping[str, Any], bench: Bench, config: Config) -> dict[str, Any]:
    task = bench.task
    return {
        "study": "localization",
        "fit": dict(fit),
        "model": bench.model.name,
        "revision": bench.model.revision,
        "task": {"name": task.name, "note": task.note, "train": len(task.train), "test": len(task.test)},
        "settings": config.model_dump(mode="json"),
        "versions": versions(),
    }
