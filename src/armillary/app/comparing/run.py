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
from armillary.core.columns import columns_for
from armillary.core.comparison import Comparison, Measured, rows_of
from armillary.core.decomposition import Decomposition
from armillary.core.progress import duration
from armillary.core.provenance import versions
from armillary.core.remembering import Remembering
from armillary.core.report import Estimate, Report
from armillary.core.study import Subject
from armillary.core.task import Task
from armillary.errors import InputError

#: Told each step in a line.
Say = Callable[[str], None]
#: Rows on which atoms are counted, and the share of a row's largest part below which an atom does not count.
PROBED, TINY = 1024, 0.01
#: What of a fit's provenance says how it was made, besides its seed.
MADE = ("method", "options", "classes", "model", "revision", "text_sha256", "windows", "sites", "n_rows")
#: The end of a fit's name that tells its seed.
SEED = re.compile(r"[-_. ]?s(eed)?[-_]?\d+$")


@dataclass(frozen=True)
class Asked:
    """One study of a comparison.

    Args:
        study: its name.
        config: its settings.
        shown: estimates that stand in the table; () for all but
        aside: those that begin with one of these.
        task: prompts and pairs, for studies that need them.
    """

    study: str
    config: Any
    shown: tuple[str, ...] = ()
    aside: tuple[str, ...] = ()
    task: Task | None = None

    def shows(self, name: str) -> bool:
        """Whether an estimate stands in the table."""
        return name in self.shown if self.shown else not name.startswith(self.aside or ("\0",))

    @property
    def title(self) -> str:
        return self.study if self.task is None else f"{self.study}: {self.task.name}"

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.config.model_dump(mode="json"))


@dataclass(frozen=True)
class More:
    """A method that is made anew for every task.

    Args:
        ask: what it reaches in a study about a task.
        settings: of it, which tell its results from others'.
    """

    ask: Callable[[Asked], dict[str, Estimate]]
    settings: Mapping[str, Any]


def compare(
    asked: Sequence[Asked],
    subjects: Sequence[Subject],
    *,
    folder: Path,
    title: str,
    claims: Sequence[Claim] = (),
    more: Mapping[str, More] | None = None,
    say: Say = lambda line: None,
) -> Comparison:
    """Ask all studies of all subjects.

    Args:
        asked: the studies.
        subjects: fits with rows and model; those that differ in their seed alone are one method.
        folder: where results are kept.
        title: of the table.
        claims: of papers, to be looked at.
        more: methods that are made anew for every task, by name.
        say: told each study as it begins and ends.
    """
    _refuse_namesakes(subjects)
    subjects = reading_once(subjects)
    folder.mkdir(parents=True, exist_ok=True)
    groups, found, remarks = by_method(subjects), dict[str, Found](), list[tuple[str, str, str]]()
    for i, one in enumerate(asked, 1):
        anew = more if more and one.task is not None else {}
        for question in (_of_fits(one, subjects), *(_of_more(one, name, ask, subjects) for name, ask in anew.items())):
            here, warned = _answered(question, folder, lambda line, i=i: say(f"{i} of {len(asked)}: {line}"))  # type: ignore[misc]
            found[one.title] = found.get(one.title, {}) | here
            remarks += [(one.title, *_parted(warning, groups)) for warning in warned]
    columns = {method: [subject.label for subject in group] for method, group in groups.items()} | {name: [name] for name in more or {}}
    measured = _measured(asked, found, columns)
    budget = {name: _budget(group) for name, group in groups.items()}
    tables = {"claims": judged(claims, measured)} if claims else {}
    notes = [f"{len(subjects)} fits of {len(groups)} methods; intervals are of 95 %, over documents, features or pairs, and over seeds"]
    notes += [told(tables["claims"])] if claims else []
    record = record_of(asked, subjects)
    return Comparison(
        title, tuple(columns), rows_of(measured, list(columns)), budget, tables, notes, _uneven(budget), _told(remarks), record
    )


def reading_once(subjects: Sequence[Subject]) -> list[Subject]:
    """The subjects with models that remember, one for all subjects of a model: studies ask of the same texts."""
    models = {id(one.model): one.model for one in subjects if one.model is not None and not isinstance(one.model, Remembering)}
    kept = {key: Remembering(model) for key, model in models.items()}
    return [replace(one, model=kept.get(id(one.model), one.model)) for one in subjects]


def record_of(asked: Sequence[Asked], subjects: Sequence[Subject]) -> dict[str, Any]:
    """What tells a comparison from others: its studies' settings, its fits, their rows and model."""
    rows = {subject.label: None if subject.rows is None else dict(subject.rows.record) for subject in subjects}
    fits = {subject.label: results.identity(subject) for subject in subjects}
    return {"settings": {one.title: one.settings for one in asked}, "fits": fits, "rows": rows, "versions": versions()}


def _refuse_namesakes(subjects: Sequence[Subject]) -> None:
    labels = [subject.label for subject in subjects]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise InputError(f"{', '.join(twice)} is the name of several of these {len(labels)} fits; rename a folder, or pass other names")


def _parted(warning: str, groups: Mapping[str, Sequence[Subject]]) -> tuple[str, str]:
    """(the fit that a study's warning is about, or "", and the warning)."""
    labels = [subject.label for group in groups.values() for subject in group]
    mine = next((label for label in labels if warning.startswith(f"{label}: ")), "")
    return mine, warning.removeprefix(f"{mine}: ")


def _told(remarks: Sequence[tuple[str, str, str]]) -> list[str]:
    """What the studies warn of, each once with the fits it is about."""
    found: dict[tuple[str, str], list[str]] = {}
    for study, fit, warning in remarks:
        found.setdefault((study, warning), []).append(fit)
    whom = {key: f" ({', '.join(fits)})" if any(fits) else "" for key, fits in found.items()}
    return [f"{study}: {warning}{whom[study, warning]}" for study, warning in found]


def by_method(subjects: Sequence[Subject]) -> dict[str, list[Subject]]:
    """Subjects that differ in their seed alone, under a name they share."""
    groups: dict[str, list[Subject]] = {}
    for subject in subjects:
        recipe = _recipe(subject)
        while _has_seed(groups.get(recipe, ()), subject):
            recipe += "'"  # the same seed twice is not two seeds
        groups.setdefault(recipe, []).append(subject)
    taken = {subject.label for subject in subjects}
    named: dict[str, list[Subject]] = {}
    for group in groups.values():
        label = SEED.sub("", group[0].label) if len(group) > 1 else group[0].label
        named[group[0].label if not label or label in named or label in taken - {group[0].label} else label] = group
    return named


def _has_seed(group: Sequence[Subject], subject: Subject) -> bool:
    seeds = [one.what.provenance.get("seed") for one in group if isinstance(one.what, Decomposition)]
    return isinstance(subject.what, Decomposition) and subject.what.provenance.get("seed") in seeds


def _recipe(subject: Subject) -> str:
    """Equal for fits that differ in their seed alone."""
    what = subject.what
    if not isinstance(what, Decomposition) or "method" not in what.provenance:
        return subject.label
    made = {name: what.provenance.get(name) for name in MADE}
    encoder = {name: value for name, value in vars(what.encoder).items() if isinstance(value, str | int | float | bool)}
    if (made["options"] or {}).get("target_l0") is not None:
        encoder.pop("price", None)  # which was learnt, and so is another for every seed
    return repr((made, type(what.encoder).__name__, encoder, what.inputs, what.targets, what.n_features))


@dataclass(frozen=True)
class _Question:
    """Something to measure, or to take over if it was measured before.

    Args:
        title: of the study, and of the method where that is made anew.
        key: tells it from others.
        answer: measures it.
    """

    title: str
    key: str
    answer: Callable[[], tuple[Found, list[str]]]

    @property
    def file(self) -> str:
        return f"{re.sub(r'[^a-z0-9]+', '-', self.title.lower())}-{self.key[:8]}.json"


def _of_fits(one: Asked, subjects: Sequence[Subject]) -> _Question:
    given = [replace(subject, task=one.task) for subject in subjects]
    return _Question(one.title, results.key_of(one.study, one.settings, given), lambda: _ask(one, given))


def _of_more(one: Asked, name: str, more: More, subjects: Sequence[Subject]) -> _Question:
    """Of a method that is made anew, for the model of the others."""
    like = [Subject(subjects[0].what, model=subjects[0].model, name=name, task=one.task)]

    def answer() -> tuple[Found, list[str]]:
        try:
            return {name: more.ask(one)}, []
        except InputError as error:
            return {name: {"": Estimate.missing(str(error))}}, []

    return _Question(f"{one.title}, {name}", results.key_of(one.study, {**one.settings, name: more.settings}, like), answer)


def _answered(question: _Question, folder: Path, say: Say) -> tuple[Found, list[str]]:
    """What a question found, now or before."""
    path = folder / question.file
    kept = results.read(path, question.key)
    if kept is not None:
        say(f"{question.title}, measured before")
        return kept
    say(question.title)
    began = time.monotonic()
    found, warnings = question.answer()
    seconds = time.monotonic() - began
    results.write(path, question.key, found, warnings=warnings, seconds=seconds)
    say(f"{question.title}, done in {duration(seconds)}")
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


def _measured(asked: Sequence[Asked], found: Mapping[str, Found], columns: Mapping[str, Sequence[str]]) -> Measured:
    """By study and estimate, by method, an estimate per seed; a study that refused a fit is missing in all its rows,
    and one that refused every fit in the rows it would have had."""
    table: dict[tuple[str, str], dict[str, list[Estimate]]] = {}
    for one in asked:
        of = found[one.title]
        names = list(dict.fromkeys(name for estimates in of.values() for name in estimates if name and one.shows(name)))
        for name in names or one.shown or ("",):
            table[one.title, name] = {method: [_of(of, label, name) for label in labels] for method, labels in columns.items()}
    return table


def _of(found: Found, label: str, name: str) -> Estimate:
    estimates = found.get(label, {})
    if name in estimates:
        return estimates[name]
    return estimates.get("", Estimate.missing("this study has no such number for it"))


def _budget(group: Sequence[Subject]) -> dict[str, float | None]:
    """Sizes of a method's first fit, and how many atoms add up a row."""
    subject = group[0]
    dictionary = subject.what.dictionary if isinstance(subject.what, Decomposition) else subject.what
    return {"features": dictionary.n_features, "atoms": len(dictionary.atoms), "atoms per row": _used(subject), "seeds": len(group)}


def _used(subject: Subject) -> float | None:
    """Mean number of atoms whose part of a row is not tiny beside the largest one."""
    fit = subject.what
    if not isinstance(fit, Decomposition) or subject.rows is None:
        return None
    x = next(iter(subject.rows.batches(PROBED, seed=0))).x[:, columns_for(fit, subject.rows.layout)[0]]
    codes = fit.encode(x.to(fit.dictionary.atoms))
    length = fit.dictionary.atoms.norm(dim=1)
    part = codes.value.abs() * (length if codes.index is None else length[codes.index])  # [n, K]
    return float((part > TINY * part.amax(1, keepdim=True)).sum(1).double().mean())


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
