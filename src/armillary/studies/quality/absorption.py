"""Absorption: do the features that tell a property fall silent on tokens where other features carry it?

    absorption_fraction    of the tokens a probe accepts: how much of the property features outside the main set carry; mean over classes
    full_absorption        share of them where the main set is silent and one other feature carries it
    split_features         features in the main set
    probe_f1, sparse_f1    of the probes on all dimensions, and on the main set's features, on tokens not learnt from

Classes are first letters or properties of the tokens (leading space, capital, ...), read off the tokens of the rows, so nothing has to be
prompted; `letter_prompts` makes rows of the published prompts. Lower is better, but a dictionary that says nothing scores low as well: read
sparse_f1 first. Chanin et al. (2024), arXiv 2409.14507. See docs/studies/absorption.md.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from pydantic import Field
from scipy import sparse
from torch import Tensor

from armillary.core.codes import Codes
from armillary.core.columns import columns_for, columns_key
from armillary.core.config import Config as Settings
from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import Dictionary
from armillary.core.method import Pass
from armillary.core.report import Report
from armillary.core.run import drive
from armillary.core.statistics import Floats, matched_directions
from armillary.core.study import Need, Subject, Subjects, as_subjects
from armillary.core.tokens import Bools, Ints
from armillary.errors import InputError
from armillary.studies.by_rows import by_rows
from armillary.studies.quality.absorption_parts import absorbed, f1, main_set, rank_features, sizes
from armillary.studies.quality.absorption_report import Class, Measured, report
from armillary.studies.quality.chosen_rows import ChosenRows
from armillary.studies.quality.linear_probe import Probe
from armillary.studies.quality.token_properties import Form, Words, draw_words
from armillary.studies.together import together

needs: frozenset[Need] = frozenset({"fit", "rows"})
accepts: frozenset[Need] = frozenset()


class Config(Settings):
    """Settings of the absorption study."""

    form: Form = "property"
    """What tokens are asked for: their first letter, as published, or ten properties that fewer tokens suffice for."""
    batch_size: int = Field(4096, ge=1)
    """Rows per batch; changes speed and memory, not the result."""
    n_rows: int = Field(20_000, ge=10)
    """Tokens drawn at most, which are held in memory."""
    per_token: int = Field(4, ge=1)
    """Rows of the same token at most."""
    min_positives: int = Field(10, ge=1)
    """Rows with a class that are needed on each side."""
    min_f1: float = Field(0.6, ge=0, lt=1)
    """F1 that a class's probe must exceed."""
    min_classes: int | None = Field(None, ge=1)
    """Classes that must pass; None for 20 of 26 letters, and 3 of 10 properties."""
    n_draws: int = Field(5, ge=1)
    """Random dictionaries whose absorption is shown beside the fit's."""
    n_bootstrap: int = Field(2000, ge=100)
    """Bootstrap samples behind each interval."""
    seed: int = Field(0, ge=0)
    """Of the tokens, the sides, the probes, the random dictionaries and the bootstrap."""


def run(subjects: Subjects, *, config: Config = Config()) -> Report:  # noqa: B008 (frozen)
    """Measure how much of a token's properties is absorbed by features that do not tell them.

    Args:
        subjects: fits with rows of text. Subjects with the same rows object share the reading and the probes.
        config: settings.

    Raises:
        InputError: a subject without rows, rows without text or without what a fit reconstructs, or no token of the form.
        ShapeError: the rows do not hold what a fit reads.
    """
    began = time.monotonic()
    measured = by_rows(as_subjects(subjects), lambda group: _measure(group, config))
    seconds = time.monotonic() - began
    return together("absorption", [report(one, config, seconds) for one in measured])


def _measure(subjects: Sequence[Subject], config: Config) -> list[Measured]:
    """One reading of the rows, and probes for each site that is reconstructed."""
    rows = subjects[0].require_rows()
    words = draw_words(rows, config.form, n_rows=config.n_rows, per_token=config.per_token, seed=config.seed)
    chosen = ChosenRows(words.row, Pass(config.batch_size))
    drive([chosen], rows, title="absorption")
    x = chosen.finish()
    gates: dict[str, list[_Gate]] = {}
    out = []
    for subject in subjects:
        read, target = columns_for(subject.fit(), rows.layout)
        if target is None:
            raise InputError(f"{subject.label} reconstructs another site, which the rows do not hold; harvest both sites")
        if (key := columns_key(target)) not in gates:
            gates[key] = _gates(x[:, target].double().numpy(), words, config)
        asked = _asked(subject.fit(), x[:, read], x[:, target], config)
        out.append(Measured(subject, rows, words, _classes(asked, words, gates[key], config)))
    return out


# ---------------------------------------------------------------- which classes a probe tells


@dataclass(frozen=True)
class _Gate:
    """A class and its probe.

    Args:
        about: the class with its probe's scores, and why it does not pass if it does not.
        w: [D] direction of the probe, of length 1.
        accepts: [n] the rows that the probe accepts.
    """

    about: Class
    w: Tensor
    accepts: Bools


def _gates(x: Floats, words: Words, config: Config) -> list[_Gate]:
    """[C] the classes, with probes of rows [n, D]."""
    return [_gate(x, words, c, config) for c in range(len(words.classes))]


def _gate(x: Floats, words: Words, c: int, config: Config) -> _Gate:
    member, (learnt, choice, judged) = words.member[c], (words.side == i for i in range(3))
    about = Class(words.classes[c], int(member.sum()), "")
    fewest = min(int(rows.sum()) for side in (learnt, choice, judged) for rows in (member[side], ~member[side]))
    if fewest < config.min_positives:
        reason = f"a side has only {fewest} rows with it or without it, and {config.min_positives} are needed"
        return _Gate(replace(about, reason=reason), torch.zeros(0), np.zeros(0, bool))
    probe = Probe.of(x[learnt], member[learnt], balanced=True, each_column=False)
    score = probe(x)
    gate = f1(score[choice], member[choice])
    reason = "" if gate > config.min_f1 else f"its probe has F1 {gate:.2f}, not above {config.min_f1:g}"
    if not reason and not (judged & member & (score > 0)).any():
        reason = "its probe accepts none of the tokens that are judged by"
    about = replace(about, reason=reason, choice_f1=gate, probe_f1=f1(score[judged], member[judged]))
    return _Gate(about, torch.nn.functional.normalize(torch.from_numpy(probe.weight), dim=0), score > 0)


# ---------------------------------------------------------------- what features make of them


@dataclass(frozen=True)
class _Asked:
    """A subject with its codes.

    Args:
        fit: it.
        target: [n, D] what it reconstructs.
        codes: of the rows.
        table: [n, F] sizes of its features' contributions.
        random: random dictionaries in its place.
    """

    fit: Decomposition
    target: Tensor
    codes: Codes
    table: sparse.csr_matrix
    random: Sequence[Dictionary]


def _asked(fit: Decomposition, x: Tensor, target: Tensor, config: Config) -> _Asked:
    codes = _encode(fit, x, target, config.batch_size)
    random = [_random(fit.dictionary, config.seed + 1 + i) for i in range(config.n_draws)]
    return _Asked(fit, target, codes, sizes(fit.dictionary, codes), random)


def _encode(fit: Decomposition, x: Tensor, target: Tensor, batch_size: int) -> Codes:
    """Codes of all rows, so many at a time."""
    atoms, is_own = fit.dictionary.atoms, fit.inputs == fit.targets
    some = [slice(start, start + batch_size) for start in range(0, len(x), batch_size)]
    parts = [fit.encode(x[one].to(atoms.device), target=None if is_own else target[one].to(atoms)) for one in some]
    return joined(parts)


def joined(parts: Sequence[Codes]) -> Codes:
    """Codes of several batches, which need not have equally many slots."""
    index = [one.index for one in parts if one.index is not None]
    value, base = [one.value for one in parts], torch.cat([one.base for one in parts])
    return Codes(_stacked(value), _stacked(index) if index else None, base, parts[0].n_atoms)


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    """Rows of all parts; narrower ones are filled up with 0, which is how an unused slot reads."""
    most = max(one.shape[1] for one in parts)
    return torch.cat([torch.nn.functional.pad(one, (0, most - one.shape[1])) for one in parts])


def _classes(asked: _Asked, words: Words, gates: Sequence[_Gate], config: Config) -> list[Class]:
    """What the study says of each class."""
    passed = [c for c, one in enumerate(gates) if not one.about.reason]
    if not passed:
        return [one.about for one in gates]
    learnt = words.side == 0
    ranked = rank_features(asked.table[learnt], words.member[passed][:, learnt], seed=config.seed)
    found = {c: _answer(asked, words, words.member[c], gates[c], own) for c, own in zip(passed, ranked, strict=True)}
    return [found.get(c, one.about) for c, one in enumerate(gates)]


def _answer(asked: _Asked, words: Words, member: Bools, gate: _Gate, ranked: Ints) -> Class:
    """A class that passed, with its main set and what is absorbed of it."""
    judged = words.side == 2
    chosen = main_set(asked.table, member, words.side, ranked)
    if chosen is None:
        return replace(gate.about, reason="no feature has a positive weight for it")
    told = np.flatnonzero(judged & member & gate.accepts)
    target, codes = asked.target[torch.from_numpy(told)], asked.codes[torch.from_numpy(told)]
    found, *others = (absorbed(each, target, codes, gate.w, chosen.features) for each in (asked.fit.dictionary, *asked.random))
    return replace(
        gate.about,
        features=tuple(int(i) for i in chosen.features),
        sparse_f1=f1(chosen.score(asked.table[judged]), member[judged]),
        rows=told,
        found=found,
        random_fraction=float(np.mean([one.fraction.mean() for one in others])),
        random_full=float(np.mean([one.full.mean() for one in others])),
    )


def _random(dictionary: Dictionary, seed: int) -> Dictionary:
    """The same dictionary with atoms of random direction, each as long as before."""
    return dictionary.with_atoms(matched_directions(dictionary.atoms, seed=seed), dictionary.base)
