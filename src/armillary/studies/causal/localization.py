"""Localization: do a fit's features hold the variables of a causal model, where a language model keeps them?

A base prompt is run with some features exchanged for the values they have on a source prompt, at one site and token. The language model
should then say what the causal model says when the variable alone is given the source's value:

    iia          interchange-intervention accuracy: share of pairs answered so, mean over the kinds of pairs
    cause        of a task about entities: pairs that ask for the variable itself, whose answer is to change
    isolate      pairs that ask for another attribute, whose answer is not to change; mean over attributes
    disentangle  (cause + isolate) / 2: doing nothing and exchanging everything both give 0.5 where source and base differ in all

Only pairs whose two prompts the model answers as the causal model does are kept. Features are chosen, by a mask learnt through the model or
a score, on training pairs; the setting and the position that are best on training pairs held back for that are used on the test. A method
that learns a fit for each variable is chosen a position for in the same way, by `run_method`.

Geiger et al. (2021), arXiv 2106.02997; Huang et al. (2024), RAVEL, arXiv 2402.17700; Mueller et al. (2025), MIB, arXiv 2504.13151. See
docs/studies/localization.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from armillary.core.config import Config as Settings
from armillary.core.decomposition import Decomposition
from armillary.core.method import Method
from armillary.core.model import Model
from armillary.core.report import Report
from armillary.core.site import Site
from armillary.core.statistics import Floats
from armillary.core.study import Need, Subjects, as_subjects
from armillary.core.task import Task
from armillary.core.tokens import Bools
from armillary.errors import CapabilityError, InputError, unknown
from armillary.studies.causal.interchange import Bench, Halves, Trials, Within
from armillary.studies.causal.localization_report import HOW, Found, Located, report
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
        InputError: no model or task, a bare dictionary, a fit that does not name its site, a prompt that does not fit the context, or a
            tokenizer that keeps prompts and answers of no pair apart.
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
            seen = [site for one in asked if (id(one.model), id(one.task)) == key for site in sites(one.fit())]
            benches[key] = _bench(subject.require_model(), subject.require_task(), seen, config)
        bench, fit = benches[key], subject.fit()
        located = [_locate(fit, bench, variable, config) for variable in bench.variables]
        notes, record = HOW[config.select], dict(fit.provenance)
        reports.append(report(subject.label, bench, located, config, how=notes, fit=record, seconds=time.monotonic() - began))
    return together("localization", reports)


def run_method(method: Method, model: Model, site: Site | str, task: Task, *, name: str = "", config: Config = Config()) -> Report:  # noqa: B008
    """Look for a task's variables with a method that learns a fit for each of them from `Pairs`, such as DAS.

    At every position a fit is made to some training pairs and scored on those held back; at the best one it is made again to all of them,
    and has the test to pass. All of a fit is exchanged: `select`, `units`, `roles` and `n_features` are not used.

    Args:
        method: what is fitted.
        model: a causal language model.
        site: where.
        task: its pairs.
        name: how the report calls it; the method's name if empty.
        config: settings of the study.

    Returns:
        a report like that of `run`; fits to other positions than the best are of some of the training pairs.

    Raises:
        InputError, UnknownNameError: as of `run`, and what the method does not fit.
        CapabilityError: the model has no logits.
    """
    began, place, told = time.monotonic(), Site.parse(site), type(method).__name__
    if not model.has_logits:
        raise CapabilityError(f"this study needs next-token logits, which {model.name!r} (an encoder) does not have")
    _check(task, config)
    bench = _bench(model, task, [place], config)
    located = [_learn(method, place, bench, variable, config) for variable in bench.variables]
    record = {"method": told, "options": method.model_dump(mode="json"), "site": str(place)}
    how = f"{told} was fitted to the training pairs of each variable, and all of it exchanged"
    return report(name or told, bench, located, config, how=how, fit=record, seconds=time.monotonic() - began)


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


def _bench(model: Model, task: Task, seen: Sequence[Site], config: Config) -> Bench:
    return Bench(
        model,
        task,
        [(site, position) for site in dict.fromkeys(seen) for position in _positions(task, config)],
        variables=config.variables,
        max_pairs=config.max_pairs,
        seed=config.seed,
        batch_tokens=config.batch_tokens,
    )


def _locate(fit: Decomposition, bench: Bench, variable: str, config: Config) -> Located:
    """What a fit's features do for a variable, at every position and beside the nulls."""
    read, written = sites(fit)

    def at(position: str, halves: Halves) -> Found:
        coordinates = Coordinates(fit, bench.x[read, position], written, position, units=config.units, roles=config.roles)
        return _found(bench, variable, coordinates, choose(halves.learn_from, halves.choose_by, coordinates, config))

    return _beside_nulls(bench, variable, at, config)


def _learn(method: Method, site: Site, bench: Bench, variable: str, config: Config) -> Located:
    """What fits to a variable do for it, at every position and beside the nulls; at the best one the fit is of all training pairs."""

    def fitted(trials: Trials, position: str) -> Coordinates:
        fit = method.fit(bench.pairs(trials, site, position), seed=config.seed)
        return Coordinates(fit, bench.x[site, position], site, position)

    def at(position: str, halves: Halves) -> Found:
        coordinates = fitted(halves.learn_from, position)
        everything = coordinates.none() + 1
        score = halves.choose_by.score(halves.choose_by.right(position, coordinates.change(everything)))
        return _found(bench, variable, coordinates, Chosen(everything, f"{len(halves.learn_from)} pairs", score))

    def again(best: Found) -> Found:
        train = bench.trials[variable, "train"]
        coordinates = fitted(train, best.position)
        return _found(bench, variable, coordinates, replace(best.chosen, mask=coordinates.none() + 1, setting=f"{len(train)} pairs"))

    return _beside_nulls(bench, variable, at, config, again)


def _beside_nulls(
    bench: Bench, variable: str, at: Callable[[str, Halves], Found], config: Config, again: Callable[[Found], Found] | None = None
) -> Located:
    """What is found of a variable at every position, and once more at the best one, beside the nulls; or why nothing is."""
    halves = bench.trials[variable, "train"].split(config.validation, config.seed)
    located = Located(variable, bench.trials[variable, "test"], bench.kinds(variable) or bench.kinds(variable, "train"))
    if reason := bench.why_not(variable, halves):
        return replace(located, reason=reason)
    found = tuple(at(position, halves) for position in _positions(bench.task, config))
    located = replace(located, found=found, nothing=bench.nothing(variable), shared=halves.shared)
    if again is not None:
        best = located.best
        located = replace(located, found=tuple(again(one) if one is best else one for one in found))
    return located.with_random(_random(bench, located, config))


def _found(bench: Bench, variable: str, coordinates: Coordinates, chosen: Chosen) -> Found:
    """What exchanging the chosen features does on the test."""
    right = _right(bench, variable, coordinates, chosen.mask)
    return Found(coordinates.position, chosen, coordinates, right, bench.everything(variable, coordinates.site, coordinates.position))


def _right(bench: Bench, variable: str, coordinates: Coordinates, mask: Tensor) -> Bools:
    """[P] of the test, whether each pair comes out as expected; of no feature that is what doing nothing gives."""
    test = bench.trials[variable, "test"]
    return test.right(coordinates.position, coordinates.change(mask)) if mask.any() else bench.nothing(variable)


def _random(bench: Bench, located: Located, config: Config) -> Floats:
    """[P] share of draws in which each pair of the test comes out as expected, of equally many random features at the best position;
    or, where all are chosen, of random subspaces of equal rank."""
    best = located.best
    coordinates, n, test = best.coordinates, best.chosen.n, located.test
    if n < len(coordinates):
        masks = coordinates.draws(n, config.n_random, config.seed)
        rights = [_right(bench, located.variable, coordinates, mask) for mask in masks]
    elif n:
        rights = [test.right(best.position, change) for change in _random_subspaces(bench, coordinates, config)]
    else:
        rights = [located.nothing]  # there is nothing to exchange
    share: Floats = np.mean(np.stack(rights), axis=0, dtype=np.float64)
    return share


def _random_subspaces(bench: Bench, coordinates: Coordinates, config: Config) -> list[Within]:
    """Exchanges of subspaces of the rank that all features have together."""
    x, generator = bench.x[coordinates.site, coordinates.position], torch.Generator().manual_seed(config.seed)
    rank = min(len(coordinates.atoms), x.shape[1])
    drawn = [torch.randn(x.shape[1], rank, generator=generator) for _ in range(config.n_random)]
    return [Within(coordinates.site, x, torch.linalg.qr(one)[0].T.contiguous()) for one in drawn]
