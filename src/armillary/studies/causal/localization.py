"""Localization: do a fit's features hold the variables of a causal model, where a language model keeps them?

A base prompt is run with some features exchanged for the values they have on a source prompt, at one site and token. The language model
should then say what the causal model says when the variable alone is given the source's value:

    iia          interchange-intervention accuracy: share of pairs answered so, mean over the kinds of pairs
    cause        of a task about entities: pairs that ask for the variable itself, whose answer is to change
    isolate      pairs that ask for another attribute, whose answer is not to change; mean over attributes
    disentangle  (cause + isolate) / 2: doing nothing and exchanging everything both give 0.5 where source and base differ in all

Only pairs whose two prompts the model answers as the causal model does are kept. Features are chosen, by a mask learnt through the model or
a score, on training pairs; the setting and the position that are best on training pairs held back for that are used on the test.

Geiger et al. (2021), arXiv 2106.02997; Huang et al. (2024), RAVEL, arXiv 2402.17700; Mueller et al. (2025), MIB, arXiv 2504.13151. See
docs/studies/localization.md.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field

from armillary.core.config import Config as Settings
from armillary.core.decomposition import Decomposition
from armillary.core.report import Report
from armillary.core.site import Site
from armillary.core.statistics import Floats
from armillary.core.study import Need, Subject, Subjects, as_subjects
from armillary.core.task import Task
from armillary.core.tokens import Bools
from armillary.errors import InputError, unknown
from armillary.studies.causal.interchange import Bench, Change, Within
from armillary.studies.causal.localization_report import Found, Located, report
from armillary.studies.causal.masks import Chosen, Coordinates, choose
from armillary.studies.together import together

needs: frozenset[Need] = frozenset({"fit", "logits", "task"})
accepts: frozenset[Need] = frozenset()


class Config(Settings):
    """Settings of the study."""

    select: Literal["mask", "attribution", "difference", "all"] = "mask"
    """How features are chosen: a mask learnt by gradient, the best by first-order attribution or by difference, or all of them."""
    units: Literal["feature", "atom"] = "feature"
    """What is chosen: whole features, of a region the centroid and loadings together, or single atoms."""
    roles: Literal["all", "centroids", "loadings"] = "all"
    """Which atoms of regions may be exchanged."""
    n_features: int | None = Field(None, ge=1)
    """Choose exactly so many, or all where there are fewer; None for as many as the mask, or the best of `sizes`, has."""
    penalties: tuple[Annotated[float, Field(ge=0)], ...] = Field((0.0, 0.01), min_length=1)
    """Prices of a feature in a mask, in nats; the best on pairs held back is used."""
    n_steps: tuple[Annotated[int, Field(ge=1)], ...] = Field((60,), min_length=1)
    """Steps a mask is learnt for; of several the best is used."""
    sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 2, 4, 8, 16, 32, 64, 128), min_length=1)
    """Numbers of features that attribution and difference try."""
    lr: float = Field(0.1, gt=0)
    """Adam's learning rate for masks."""
    batch_size: int = Field(32, ge=1)
    """Pairs per step of a mask."""
    validation: float = Field(0.25, gt=0, lt=1)
    """Share of the training's base entities held back to choose settings and positions by."""
    positions: tuple[str, ...] = ()
    """Where to look, such as "entity", "entity+1" or "last"; the task's own positions if none are given."""
    variables: tuple[str, ...] = ()
    """Which variables to look for; all of the task's if none are given."""
    max_pairs: int | None = Field(512, ge=2)
    """Pairs of each variable at most, in training and in test each; None for all."""
    n_random: int = Field(5, ge=1)
    """Draws of as many random features, or of a random subspace of equal rank, behind the null."""
    batch_tokens: int = Field(2048, ge=1)
    """Tokens per forward pass outside of learning, padding included; changes speed and memory, not the result."""
    n_bootstrap: int = Field(2000, ge=100)
    """Bootstrap samples behind each interval."""
    seed: int = Field(0, ge=0)
    """Of the draws of pairs, the pairs held back, the order of learning, the random features and the bootstrap."""


def run(subjects: Subjects, *, config: Config = Config()) -> Report:  # noqa: B008 (frozen)
    """Look for a task's variables in the features of fits.

    Args:
        subjects: fits with their model and a task. Subjects with the same model and task objects share what is run without a fit.
        config: settings.

    Raises:
        InputError: no model or task, a bare dictionary, a fit that does not name its site, or a prompt that does not fit the context.
        NonFiniteError: the loss that features are chosen by, or its gradient, is NaN or infinite.
        UnknownNameError: a variable that the task does not have.
        CapabilityError: the model has no logits.
    """
    asked = as_subjects(subjects)
    for subject in asked:
        subject.fit(), subject.require_model(logits=True), sites(subject.fit())
        _check(subject.require_task(), config)
    benches: dict[tuple[int, int], Bench] = {}
    reports = []
    for subject in asked:
        began, key = time.monotonic(), (id(subject.model), id(subject.task))
        if key not in benches:
            benches[key] = _bench([one for one in asked if (id(one.model), id(one.task)) == key], config)
        located = [_locate(subject.fit(), benches[key], variable, config) for variable in benches[key].variables]
        reports.append(report(subject, benches[key], located, config, time.monotonic() - began))
    return together("localization", reports)


def sites(fit: Decomposition) -> tuple[Site, Site]:
    """The site a fit reads and the one it writes.

    Raises:
        InputError: the fit does not name them, or is of several.
    """
    read, written = fit.site, [source for source, _ in fit.targets]
    if read is None or len(written) != 1 or written[0] is None:
        raise InputError(f"features are exchanged at the site a fit rebuilds, and {fit!r} does not name one; fit rows of one known site")
    return read, written[0].site


def _check(task: Task, config: Config) -> None:
    for name in config.variables:
        if name not in task.variables:
            raise unknown(f"variable of the task {task.name!r}", name, task.variables)
    if not task.train or not task.test:
        raise InputError(f"the task {task.name!r} has {len(task.train)} training and {len(task.test)} test pairs; both are needed")


def _positions(task: Task, config: Config) -> tuple[str, ...]:
    return config.positions or task.positions


def _bench(subjects: Sequence[Subject], config: Config) -> Bench:
    first = subjects[0]
    task = first.require_task()
    seen = dict.fromkeys(site for subject in subjects for site in sites(subject.fit()))
    return Bench(
        first.require_model(logits=True),
        task,
        [(site, position) for site in seen for position in _positions(task, config)],
        variables=config.variables,
        max_pairs=config.max_pairs,
        seed=config.seed,
        batch_tokens=config.batch_tokens,
    )


def _locate(fit: Decomposition, bench: Bench, variable: str, config: Config) -> Located:
    """What a fit's features do for a variable, at every position and beside the nulls."""
    halves = bench.trials[variable, "train"].split(config.validation, config.seed)
    located = Located(variable, bench.trials[variable, "test"], bench.kinds(variable) or bench.kinds(variable, "train"))
    if reason := bench.why_not(variable, halves):
        return replace(located, reason=reason)
    (read, written), found = sites(fit), []
    for position in _positions(bench.task, config):
        coordinates = Coordinates(fit, bench.x[read, position], written, position, units=config.units, roles=config.roles)
        chosen = choose(halves.learn_from, halves.choose_by, coordinates, config)
        right = _right(bench, variable, position, coordinates.change(chosen.mask), chosen)
        everything = bench.everything(variable, written, position)
        found.append(Found(position, chosen, coordinates, right, everything))
    located = replace(located, found=tuple(found), nothing=bench.nothing(variable), shared=halves.shared)
    return located.with_random(_random(bench, located, written, config))


def _right(bench: Bench, variable: str, position: str, change: Change, chosen: Chosen) -> Bools:
    """[P] of the test, whether each pair comes out as expected; of no feature that is what doing nothing gives."""
    return bench.trials[variable, "test"].right(position, change) if chosen.n else bench.nothing(variable)


def _random(bench: Bench, located: Located, site: Site, config: Config) -> Floats:
    """[P] share of draws in which each pair of the test comes out as expected, of equally many random features at the best position;
    or, where all are chosen, of random subspaces of equal rank."""
    best = located.best
    coordinates, n, x = best.coordinates, best.chosen.n, bench.x[site, best.position]
    if n < len(coordinates):
        changes = [coordinates.change(mask) for mask in coordinates.draws(n, config.n_random, config.seed)]
    else:
        generator = torch.Generator().manual_seed(config.seed)
        rank = min(len(coordinates.atoms), x.shape[1])
        drawn = [torch.randn(x.shape[1], rank, generator=generator) for _ in range(config.n_random)]
        changes = [Within(site, x, torch.linalg.qr(one)[0].T.contiguous()) for one in drawn]
    rights = [_right(bench, located.variable, best.position, change, best.chosen) for change in changes if n] or [located.nothing]
    share: Floats = np.mean(np.stack(rights), axis=0, dtype=np.float64)
    return share
