"""The absorption study's report: means over classes, a table of them, and warnings.

Letters: C classes, n rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from armillary.core.report import Better, Estimate, Report
from armillary.core.rows import Rows
from armillary.core.statistics import Units, ratio_interval
from armillary.core.study import Subject
from armillary.core.tokens import Ints
from armillary.studies.figures import bars
from armillary.studies.provenance import of_study
from armillary.studies.quality.absorption_parts import Absorbed
from armillary.studies.quality.token_properties import Words

if TYPE_CHECKING:
    from armillary.studies.quality.absorption import Config

#: Classes that have to pass the gate: of 26 letters as published, and of ten properties.
FEWEST = {"letter": 20, "property": 3}
#: Features below which the published score is not meaningful, by its authors' word.
FEWEST_FEATURES = 16_000


@dataclass(frozen=True)
class Class:
    """What is said of one class.

    Args:
        name: of the class.
        n: rows that were drawn with it.
        reason: why nothing is said of it; "" if something is.
        choice_f1, probe_f1: of its probe, on the tokens that choices are made by and on those it is judged by.
        features: the main set.
        sparse_f1: of the probe of the main set, on the tokens judged by.
        rows: [m] places of the rows judged by that have the class and that the probe accepts, with
        found: what is absorbed of them, and
        random_fraction, random_full: the means of the same for random dictionaries.
    """

    name: str
    n: int
    reason: str
    choice_f1: float | None = None
    probe_f1: float | None = None
    features: tuple[int, ...] = ()
    sparse_f1: float | None = None
    rows: Ints | None = None
    found: Absorbed | None = None
    random_fraction: float | None = None
    random_full: float | None = None


@dataclass(frozen=True)
class Measured:
    """What was measured of one subject."""

    subject: Subject
    rows: Rows
    words: Words
    classes: Sequence[Class]

    @property
    def told(self) -> list[tuple[int, Class]]:
        """The classes that something is said of, with their numbers."""
        return [(c, one) for c, one in enumerate(self.classes) if one.found is not None]


def report(one: Measured, config: Config, seconds: float) -> Report:
    """The report of one subject."""
    estimates = _estimates(one, config)
    shown = {name: estimates[name] for name in ("absorption_fraction", "full_absorption", "sparse_f1", "probe_f1")}
    return Report(
        one.subject.label,
        estimates=estimates,
        tables={"classes": _table(one)},
        figures={"absorption": bars(shown, title="Absorption, mean over classes", y="share")} if _is_enough(one, config) else {},
        notes=_notes(one, config),
        warnings=_warnings(one, estimates, config),
        provenance=of_study("absorption", one.subject, one.rows, config),
        seconds=seconds,
    )


def _fewest(config: Config) -> int:
    return FEWEST[config.form] if config.min_classes is None else config.min_classes


def _is_enough(one: Measured, config: Config) -> bool:
    return len(one.told) >= _fewest(config)


# ---------------------------------------------------------------- estimates


def _estimates(one: Measured, config: Config) -> dict[str, Estimate]:
    told = one.told
    kinds: dict[str, Better] = {
        "absorption_fraction": "lower", "full_absorption": "lower", "split_features": "neither", "sparse_f1": "higher", "probe_f1": "higher"
    }  # fmt: skip
    n_classes = Estimate(float(len(told)), n=len(one.classes), ceiling=float(len(one.classes)), better="higher", unit="classes")
    if not _is_enough(one, config):
        reason = f"too few {'letters' if config.form == 'letter' else 'properties'} passed: {len(told)} of {len(one.classes)}"
        reason += f", and {_fewest(config)} are needed; harvest more text, or read an earlier layer"
        return {name: Estimate.missing(reason, better=better) for name, better in kinds.items()} | {"classes": n_classes}
    values = {
        "absorption_fraction": [float(found.fraction.mean()) for found in _found(told)],
        "full_absorption": [float(found.full.mean()) for found in _found(told)],
        "split_features": [float(len(each.features)) for _, each in told],
        "sparse_f1": [each.sparse_f1 or 0.0 for _, each in told],
        "probe_f1": [each.probe_f1 or 0.0 for _, each in told],
    }
    rates = [float(one.words.member[c][one.words.side == 2].mean()) for c, _ in told]
    null = {
        # Calling every token a member of a class of share s has F1 2 s / (1 + s).
        "sparse_f1": float(np.mean([2 * rate / (1 + rate) for rate in rates])),
        "probe_f1": float(np.mean([2 * rate / (1 + rate) for rate in rates])),
    }
    ceiling = {"absorption_fraction": 0.0, "full_absorption": 0.0, "split_features": 1.0, "probe_f1": 1.0}
    ceiling["sparse_f1"] = float(np.mean(values["probe_f1"]))
    found = {
        name: _over_classes(told, values[name], config, better=kinds[name], null=null.get(name), ceiling=ceiling[name]) for name in kinds
    }
    return found | {"classes": n_classes}


def _found(told: Sequence[tuple[int, Class]]) -> list[Absorbed]:
    return [each.found for _, each in told if each.found is not None]


def _mean(values: Sequence[float | None]) -> float:
    return float(np.mean([value for value in values if value is not None]))


def _over_classes(told: Sequence[tuple[int, Class]], values: Sequence[float], config: Config, **fields: Any) -> Estimate:
    units = Units.of_values("class", values, [c for c, _ in told])
    low, high = ratio_interval(units, n_samples=config.n_bootstrap, seed=config.seed)
    return Estimate(units.value, low, high, len(values), units=units, **fields)


# ---------------------------------------------------------------- the rest


def _table(one: Measured) -> dict[str, list[Any]]:
    """A row per class."""
    rows = [_row(one, each) for each in one.classes]
    return {name: [row[name] for row in rows] for name in rows[0]}


def _row(one: Measured, each: Class) -> dict[str, Any]:
    found = each.found
    return {
        "class": each.name,
        "rows": each.n,
        "probe_f1": each.probe_f1,
        "sparse_f1": each.sparse_f1,
        "main set": ", ".join(map(str, each.features)),
        "accepted": None if found is None else len(found.fraction),
        "absorption_fraction": None if found is None else float(found.fraction.mean()),
        "full_absorption": None if found is None else float(found.full.mean()),
        "random_fraction": each.random_fraction,
        "random_full": each.random_full,
        "absorbed into": "" if found is None else _where(one, each, found),
        "left out because": each.reason,
    }


def _where(one: Measured, each: Class, found: Absorbed) -> str:
    """The features that most of the class is absorbed into, with a token of each."""
    assert each.rows is not None
    places = np.flatnonzero((found.fraction > 0) | found.full)
    often = Counter(found.feature[places].tolist()).most_common(3)
    tokens = {feature: one.words.text[int(each.rows[next(i for i in places if found.feature[i] == feature)])] for feature, _ in often}
    return ", ".join(f"{feature} ({n}: {tokens[feature]!r})" for feature, n in often)


def _notes(one: Measured, config: Config) -> list[str]:
    words = one.words
    n = [int((words.side == side).sum()) for side in range(3)]
    return [
        f"{len(words.row):,} tokens, at most {config.per_token} of each; {n[0]:,} to learn from, {n[1]:,} to choose by, "
        f"{n[2]:,} to judge by; no token is on two sides.",
        f"A class counts if its probe has F1 above {config.min_f1:g} on the tokens chosen by, and {_fewest(config)} classes must.",
        _at_random(one, config),
        "Intervals: bootstrap over classes.",
        "Lower absorption is better only among fits that tell the classes: see sparse_f1 beside probe_f1.",
    ]


def _at_random(one: Measured, config: Config) -> str:
    """What random atoms give. It is no null: such atoms carry nothing along a probe where the width is large, so they score 0, the best."""
    how = f"The same codes with atoms of random directions ({config.n_draws} draws)"
    if not one.told:
        return f"{how} were not asked, as no class passed."
    part, full = _mean([each.random_fraction for _, each in one.told]), _mean([each.random_full for _, each in one.told])
    return f"{how}: absorption_fraction {part:.3g}, full_absorption {full:.3g}; no null, as what tells nothing absorbs nothing."


def _warnings(one: Measured, estimates: Mapping[str, Estimate], config: Config) -> list[str]:
    found, n = [], one.subject.fit().n_features
    if config.form == "letter" and n < FEWEST_FEATURES:
        found.append(f"{n:,} features: the first-letter score was found not to be meaningful below 16k features or 1B parameters.")
    told = estimates["sparse_f1"]
    if told.value is not None and told.null is not None and (told.low is None or told.low <= told.null):
        found.append(
            f"The main sets hardly tell the classes (F1 {told.value:.2f}, by calling every token a member {told.null:.2f}): "
            "absorption says little of this fit."
        )
    return found
