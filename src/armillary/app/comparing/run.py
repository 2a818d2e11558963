"""Run: all studies of a comparison, one after another, and the table of what they found.

What a study found is on disk before the next one begins, so that a run that was stopped goes on where it was. A study that cannot look at
one of the fits is asked of each alone, and says why it is missing where it is.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from armillary import studies
from armillary.app.comparing import results
from armillary.app.comparing.claims import Claim, judged, told
from armillary.app.comparing.results import Found
from armillary.core.comparison import Comparison, Measured, rows_of
from armillary.core.decomposition import Decomposition
from armillary.core.progress import duration
from armillary.core.report import Estimate, Report
from armillary.core.study import Subject
from armillary.core.task import Task
from armillary.errors import InputError

#: Told each step in a line.
Say = Callable[[str], None]
#: The end of a fit's name that tells its seed.
SEED = re.compile(r"[-_. ]?s(eed)?[-_]?\d+$")


@dataclass(frozen=True)
class Asked:
    """One study of a comparison.

    Args:
        study: its name.
        config: its settings.
        shown: estimates that stand in the table; () for all.
        task: prompts and pairs, for studies that need them.
    """

    study: str
    config: Any
    shown: tuple[str, ...] = ()
    task: Task | None = None

    @property
    def title(self) -> str:
        return self.study if self.task is None else f"{self.study}: {self.task.name}"

    @property
    def file(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()) + ".json"


def compare(
    asked: Sequence[Asked],
    subjects: Sequence[Subject],
    *,
    folder: Path,
    title: str,
    claims: Sequence[Claim] = (),
    say: Say = lambda line: None,
) -> Comparison:
    """Ask all studies of all subjects.

    Args:
        asked: the studies.
        subjects: fits with rows and model; those that differ in their seed alone are one method.
        folder: where results are kept.
        title: of the table.
        claims: of papers, to be looked at.
        say: told each study as it begins and ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Found] = {}
    warnings: list[str] = []
    for i, one in enumerate(asked, 1):
        found[one.title], warned = _answered(one, subjects, folder, lambda line, i=i: say(f"{i} of {len(asked)}: {line}"))  # type: ignore[misc]
        warnings += [f"{one.title}: {warning}" for warning in warned]
    groups = by_method(subjects)
    measured = _measured(asked, found, groups)
    budget = {name: _budget(group, found) for name, group in groups.items()}
    record = {"settings": {one.title: one.config.model_dump(mode="json") for one in asked}}
    notes = [
        f"{len(subjects)} fits of {len(groups)} methods; intervals are of 95 %, over documents, features or pairs, and over seeds where "
        "there are several"
    ]
    tables = {"claims": judged(claims, measured)} if claims else {}
    notes += [told(tables["claims"])] if claims else []
    return Comparison(title, tuple(groups), rows_of(measured, list(groups)), budget, tables, notes, _uneven(budget) + warnings, record)


def by_method(subjects: Sequence[Subject]) -> dict[str, list[Subject]]:
    """Subjects that differ in their seed alone, under a name they share."""
    groups: dict[str, list[Subject]] = {}
    for subject in subjects:
        groups.setdefault(_recipe(subject), []).append(subject)
    named: dict[str, list[Subject]] = {}
    for group in groups.values():
        label = SEED.sub("", group[0].label) if len(group) > 1 else group[0].label
        named[label if label and label not in named else group[0].label] = group
    return named


def _recipe(subject: Subject) -> str:
    what = subject.what
    if not isinstance(what, Decomposition) or "method" not in what.provenance:
        return subject.label
    return repr((what.provenance["method"], what.provenance["options"], what.inputs))


def _answered(one: Asked, subjects: Sequence[Subject], folder: Path, say: Say) -> tuple[Found, list[str]]:
    """What a study found, measured now or before."""
    given = [replace(subject, task=one.task) for subject in subjects]
    key = results.key_of(one.study, one.config.model_dump(mode="json"), given)
    kept = results.read(folder / one.file, key)
    if kept is not None:
        say(f"{one.title}, measured before")
        return kept
    say(one.title)
    began = time.monotonic()
    found, warnings = _ask(one, given)
    seconds = time.monotonic() - began
    results.write(folder / one.file, key, found, warnings=warnings, seconds=seconds)
    say(f"{one.title}, done in {duration(seconds)}")
    return found, warnings


def _ask(one: Asked, subjects: Sequence[Subject]) -> tuple[Found, list[str]]:
    """A study of all subjects at once, or of each alone where it refuses one of them."""
    try:
        report = studies.load(one.study).run(list(subjects), config=one.config)
        return apart(report, [subject.label for subject in subjects]), list(report.warnings)
    except InputError as error:
        if len(subjects) == 1:
            return {subjects[0].label: {"": Estimate.missing(str(error))}}, []
    found: Found = {}
    warnings: list[str] = []
    for subject in subjects:
        alone, told = _ask(one, [subject])
        found |= alone
        warnings += [f"{subject.label}: {warning}" for warning in told]
    return found, warnings


def apart(report: Report, labels: Sequence[str]) -> Found:
    """The estimates of each subject of a report on several."""
    if len(labels) == 1:
        return {labels[0]: dict(report.estimates)}
    starts = {label: f"{label}: " for label in labels}
    return {
        label: {name.removeprefix(start): estimate for name, estimate in report.estimates.items() if name.startswith(start)}
        for label, start in starts.items()
    }


def _measured(asked: Sequence[Asked], found: Mapping[str, Found], groups: Mapping[str, Sequence[Subject]]) -> Measured:
    """By study and estimate, by method, an estimate per seed; a study that refused a fit is missing in all its rows."""
    table: dict[tuple[str, str], dict[str, list[Estimate]]] = {}
    for one in asked:
        of = found[one.title]
        names = dict.fromkeys(name for estimates in of.values() for name in estimates if name and (not one.shown or name in one.shown))
        for name in names:
            table[one.title, name] = {method: [_of(of, subject.label, name) for subject in group] for method, group in groups.items()}
    return table


def _of(found: Found, label: str, name: str) -> Estimate:
    estimates = found.get(label, {})
    if name in estimates:
        return estimates[name]
    return estimates.get("", Estimate.missing("this study has no such number for it"))


def _budget(group: Sequence[Subject], found: Mapping[str, Found]) -> dict[str, float | None]:
    """Sizes of a method's first fit, and how many atoms a row takes where that was measured."""
    what = group[0].what
    dictionary = what.dictionary if isinstance(what, Decomposition) else what
    l0 = [found[study][group[0].label].get("l0") for study in found if group[0].label in found[study]]
    used = next((one.value for one in l0 if one is not None and one.value is not None), None)
    return {"features": dictionary.n_features, "atoms": len(dictionary.atoms), "atoms per row": used, "seeds": len(group)}


def _uneven(budget: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """A warning where methods were not allowed the same."""
    out = []
    for name in ("atoms", "atoms per row"):
        sizes = {method: of[name] for method, of in budget.items() if of.get(name)}
        known = [size for size in sizes.values() if size is not None]
        if known and max(known) > 1.25 * min(known):
            told = ", ".join(f"{method} {size:,.4g}" for method, size in sizes.items())
            out.append(f"the methods do not have the same budget of {name} ({told}): read differences with that in mind")
    return out
