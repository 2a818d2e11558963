"""Estimate and Report: no study returns a bare float.

An Estimate has an interval, a null (what chance or doing nothing gives) and a ceiling (what the best could give); a Report is a study's
whole answer and draws itself in a terminal, as one HTML file, as JSON and as Markdown.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from armillary.core.artifact import new_file, write_atomic
from armillary.core.statistics import FEWEST, Units, n_compared, paired_difference
from armillary.errors import unknown

Better = Literal["higher", "lower", "neither"]
#: Version of the JSON form of a report.
SCHEMA = 1


@dataclass(frozen=True)
class Estimate:
    """A number with what is needed to read it.

    Args:
        value: the number, or None with a `reason`.
        low, high: ends of the 95 % interval, or None where none can be given.
        n: how many observations (tokens, features) went in.
        null: what chance, or doing nothing, gives.
        ceiling: what the best possible would give.
        p, q: p-value against the null, and after false-discovery control, where a test was made.
        better: which way is good.
        unit: "nats", "tokens", "" for a pure number.
        reason: why there is no value.
        units: sums per unit, for pairing; not written to JSON.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    null: float | None = None
    ceiling: float | None = None
    p: float | None = None
    q: float | None = None
    better: Better = "neither"
    unit: str = ""
    reason: str = ""
    units: Units | None = field(default=None, repr=False, compare=False)

    @staticmethod
    def missing(reason: str, *, better: Better = "neither", unit: str = "") -> Estimate:
        """An estimate that could not be made."""
        return Estimate(None, reason=reason, better=better, unit=unit)

    def __str__(self) -> str:
        if self.value is None:
            return f"not available ({self.reason})"
        interval = "" if self.low is None or self.high is None else f" [{number(self.low)}, {number(self.high)}]"
        return f"{number(self.value)}{interval}{f' {self.unit}' if self.unit else ''}"

    def to_json(self) -> dict[str, Any]:
        names = ("value", "low", "high", "n", "null", "ceiling", "p", "q", "better", "unit", "reason")
        return {name: plain(getattr(self, name)) for name in names}


@dataclass(frozen=True)
class Report:
    """A study's answer.

    Args:
        title: the study and its subject.
        estimates: by name, most important first.
        tables: by name: columns of equal length; per-feature results are columns here.
        figures: by name: a plotly figure as plain JSON, {"data": [...], "layout": {...}}.
        notes: how the numbers were made, in a line each.
        warnings: what the reader must know.
        provenance: subjects, data, settings, versions.
        seconds: how long it took.
    """

    title: str
    estimates: Mapping[str, Estimate] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict)
    figures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def __getitem__(self, name: str) -> Estimate:
        if name not in self.estimates:
            raise unknown("estimate", name, self.estimates)
        return self.estimates[name]

    def __rich__(self) -> Any:
        from armillary.core.render import report_table

        return report_table(self)

    def _repr_html_(self) -> str:
        from armillary.core.html import fragment
        from armillary.core.render import report_section

        return fragment(report_section(self))

    def show(self) -> None:
        """Draw the report in the terminal."""
        from rich.console import Console

        Console().print(self)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON with the schema's version."""
        return {
            "schema": SCHEMA,
            "title": self.title,
            "estimates": {name: estimate.to_json() for name, estimate in self.estimates.items()},
            "tables": plain(self.tables),
            "figures": plain(self.figures),
            "notes": list(self.notes),
            "warnings": list(self.warnings),
            "provenance": plain(self.provenance),
            "seconds": self.seconds,
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write .html (one self-contained file), .json or .md.

        Raises:
            InputError: another extension.
            OutputExistsError: the file exists.
        """
        target = new_file(path, "a report", writers())
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, writers()[target.suffix](self).encode())
        return target

    def compare(self, others: Sequence[Report]) -> Report:
        """This report's estimates minus each other's, paired on their units; an interval that holds 0 is called not distinguishable,
        and of fewer than `core.statistics.FEWEST` units nothing is told."""
        rows: dict[str, list[Any]] = {name: [] for name in ("estimate", "against", "difference", "low", "high", "verdict")}
        for other in others:
            for name in [name for name in self.estimates if name in other.estimates]:
                for key, cell in zip(rows, _comparison(name, self[name], other[name], other.title), strict=True):
                    rows[key].append(cell)
        return Report(f"{self.title} compared", tables={"differences": rows}, provenance=self.provenance)


def _comparison(name: str, ours: Estimate, theirs: Estimate, against: str) -> tuple[Any, ...]:
    """One row of a comparison: difference, its interval and a verdict."""
    if ours.value is None or theirs.value is None:
        return name, against, None, None, None, "not available"
    if ours.units is None or theirs.units is None or ours.units.kind != theirs.units.kind:
        return name, against, ours.value - theirs.value, None, None, "no units to pair on"
    value, low, high = paired_difference(ours.units, theirs.units)
    if low is None or high is None:
        return name, against, value, None, None, "fewer than two units in common"
    if low <= 0 <= high:
        return name, against, value, low, high, "not distinguishable"
    if n_compared(ours.units, theirs.units) < FEWEST:
        return name, against, value, low, high, "too few units to tell"
    is_good = (value > 0) == (ours.better == "higher")
    return name, against, value, low, high, "different" if ours.better == "neither" else ("better" if is_good else "worse")


def writers() -> dict[str, Callable[[Report], str]]:
    """The endings a report can be written under, and what writes it."""
    from armillary.core import render

    return {".html": render.report_page, ".json": report_json, ".md": render.report_markdown}


def report_json(report: Report) -> str:
    """The JSON form as text."""
    return json.dumps(report.to_json(), indent=1, allow_nan=False)


def number(value: float | None) -> str:
    """A number as people read it: four significant digits, thousands marked, exponents only where needed."""
    if value is None:
        return "–"
    if not np.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def plain(value: Any) -> Any:
    """The same value as JSON can hold it: arrays as lists, NaN and infinity as null, other objects as their text."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [plain(item) for item in value]
    return str(value)


def with_seconds(report: Report, seconds: float) -> Report:
    return replace(report, seconds=seconds)
