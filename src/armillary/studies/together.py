"""together: one report of several subjects' reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from armillary.core.report import Report

Figure = Mapping[str, Any]


def together(title: str, reports: Sequence[Report]) -> Report:
    """The reports of one study on several subjects as one; a single report is returned as it is.

    Estimates and tables are called "<subject>: <name>". The table "subjects" has a row per subject, "differences" the first subject
    minus each other one, paired unit by unit. Figures of the same name are laid over each other.

    Args:
        title: of the whole.
        reports: each with its subject's label as title.
    """
    if len(reports) == 1:
        return reports[0]
    labels = distinct([report.title for report in reports])
    named = {label: replace(report, title=label) for label, report in zip(labels, reports, strict=True)}
    first, *others = named.values()
    return Report(
        title,
        estimates={f"{label}: {name}": value for label, report in named.items() for name, value in report.estimates.items()},
        tables={
            "subjects": _overview(named),
            "differences": first.compare(others).tables["differences"],
            **{f"{label}: {name}": table for label, report in named.items() for name, table in report.tables.items()},
        },
        figures=_overlay(named),
        notes=list(dict.fromkeys(note for report in reports for note in report.notes)),
        warnings=[f"{label}: {warning}" for label, report in named.items() for warning in report.warnings],
        provenance={label: report.provenance for label, report in named.items()},
        seconds=max(report.seconds for report in reports),
    )


def distinct(labels: Sequence[str]) -> list[str]:
    """The labels, with " #2", " #3", ... behind those that were there before."""
    seen: Counter[str] = Counter()
    out = []
    for label in labels:
        seen[label] += 1
        out.append(label if seen[label] == 1 else f"{label} #{seen[label]}")
    return out


def _overview(named: Mapping[str, Report]) -> dict[str, list[Any]]:
    """A row per subject, a column per estimate."""
    names = dict.fromkeys(name for report in named.values() for name in report.estimates)
    columns = {name: [report.estimates[name].value if name in report.estimates else None for report in named.values()] for name in names}
    return {"subject": list(named), **columns}


def _overlay(named: Mapping[str, Report]) -> Mapping[str, Figure]:
    """Figures of the same name drawn over each other, their traces named by subject."""
    figures: dict[str, dict[str, Any]] = {}
    for label, report in named.items():
        for name, figure in report.figures.items():
            whole = figures.setdefault(name, {"data": [], "layout": {**figure["layout"], "showlegend": True}})
            whole["data"].extend({**trace, "name": label} for trace in figure["data"])
    return figures
