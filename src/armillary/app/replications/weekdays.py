"""Weekdays: do features of the days of the week share neurons, what do these do, and how do the days merge?

After Shafran, Geiger and Geva 2025 (arXiv 2506.10920), on any causal model: semi-NMF of an MLP's activations on sentences about the order
of the days, a feature for each day, the neurons these share, trees, and the change of every day's logit when shared or exclusive neurons
are amplified, with random neurons as the control.

    chosen       the feature whose code tells best, on half of the sentences, which day comes next where an earlier day tells;
                 reported on the other half
    shared       mean Jaccard index of the day features' neurons; null: as many features drawn at random from the fit
    weekend      Jaccard index within weekdays and within the weekend, less that between them; null: any other two days as the weekend
    merged       share of pairs of days with one node on the hierarchy's top level; null: features drawn at random

and selectivity and core_lift of the study `core_exclusive`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from pydantic import Field
from scipy.optimize import linear_sum_assignment

from armillary.app.replications import Result, Say
from armillary.app.subjects import model_name
from armillary.core.activations import StoredRows
from armillary.core.artifact import refuse_existing
from armillary.core.config import Config
from armillary.core.decomposition import Decomposition
from armillary.core.report import Estimate, Report
from armillary.core.site import Site
from armillary.core.statistics import Floats, Ints, Units, ratio_interval
from armillary.core.study import Subject
from armillary.core.tokens import Bools, Document, Tokens
from armillary.core.tree import FeatureTree, by_overlap, overlap
from armillary.errors import InputError
from armillary.lm.harvest import harvest
from armillary.lm.model import LanguageModel
from armillary.methods.snmf.hierarchy import hierarchy
from armillary.methods.snmf.semi_nmf import SemiNMF
from armillary.studies.causal import core_exclusive
from armillary.studies.quality.concept_score import auroc

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
WEEKEND = (5, 6)
NEXT = (
    "The day after {a} is {b}.",
    "After {a} comes {b}.",
    "{a} is followed by {b}.",
    "What day comes after {a}? {b}.",
    "If today is {a}, tomorrow is {b}.",
    "Which day follows {a}? {b}.",
    "The next day after {a} is {b}.",
    "The day before {b} is {a}.",
    "Before {b} comes {a}.",
    "{b} comes right after {a}.",
    "What day comes before {b}? {a}.",
    "If today is {b}, yesterday was {a}.",
)
MEETINGS = (
    "On a {a} in May, Anna woke up early.",
    "One {a} Ben went to the market.",
    "Clara looked out of the window on a {a} morning.",
    "We will meet on {a}.",
    "The shop is closed on {a}.",
    "Last {a} it rained all day.",
    "He was born on a {a}.",
    "The train comes every {a}.",
)
PROMPTS = (*(f"The day after {day} is" for day in DAYS), "On a", "One", "We will meet on")


class Settings(Config):
    """What the replication is told."""

    model: str = "arm-small"
    """A causal model's name on the Hugging Face hub, a folder, or arm-small, which ships with the package."""
    layer: int | None = Field(None, ge=0)
    """Whose MLP is taken apart.  [default: two thirds of the way up]"""
    n_features: int = Field(120, ge=14)
    """Features of the factorisation."""
    neurons_per_feature: float = Field(0.1, gt=0, lt=1)
    """Share of the neurons that a feature has at most."""
    target_l0: float = Field(4.0, gt=0)
    """Features that are active on a token, on average."""
    strength: float = Field(1.0, gt=0)
    """Length of what is added to neurons, as a share of the mean length of the activations."""
    quorum: float = Field(0.5, gt=0, le=1)
    """Share of the days that have a neuron for it to be of their core."""
    n_draws: int = Field(300, ge=10)
    """Draws behind each null."""
    seed: int = Field(0, ge=0)
    """Same seed, same bits."""
    out: str = "runs/weekdays"
    """Folder to write; it must not exist or be empty."""


def run(settings: Settings = Settings(), *, say: Say = lambda line: None) -> Result:
    """Fit, choose, compare, amplify, and write a page, the trees and the fit.

    Raises:
        OutputExistsError: the folder holds something.
        InputError: an unknown model or layer, or one whose tokenizer begins two days with the same token.
        CapabilityError: the model is no causal one.
    """
    began = time.monotonic()
    folder = Path(settings.out)
    refuse_existing(folder)
    lm = LanguageModel(model_name(settings.model))
    lm.require_logits()
    site = Site("mlp_act", lm.n_layers * 2 // 3 if settings.layer is None else settings.layer)
    ids = core_exclusive.first_tokens(lm, PROMPTS, [f" {day}" for day in DAYS])
    say(f"reading {len(sentences())} sentences through {lm.name} at {site}")
    rows = harvest(lm, sentences(), [site], out=folder / "acts")[site]
    say(f"factorising {rows.n_rows:,} tokens into {settings.n_features} features")
    fit = _method(settings).fit(rows, seed=settings.seed)
    fit.save(folder / "fit")
    days = Days.choose(fit, rows, ids)
    tree, levels = _trees(fit, rows, days, settings)
    say("amplifying shared, exclusive and random neurons")
    causal = _causal(fit, lm, days, settings)
    report = _report(fit, days, tree, levels, causal=causal, settings=settings, seconds=time.monotonic() - began)
    for name, one in (("tree", tree), ("hierarchy", levels)):
        for ending in (".html", ".json", ".graphml", ".nwk"):
            one.save(folder / f"{name}{ending}")
    page = report.save(folder / "report.html")
    report.save(folder / "report.json")
    return Result(folder, page, (report, tree), {"out": str(folder), "report": report.to_json()})


def sentences() -> list[Document]:
    """The sentences about days, each labelled with its wording."""
    found = []
    for i, day in enumerate(DAYS):
        told = {"a": day, "b": DAYS[(i + 1) % 7]}
        found += [Document(text.format(**told), f"{day} {n}", {"wording": str(n)}) for n, text in enumerate((*NEXT, *MEETINGS))]
    return found


def _method(settings: Settings) -> SemiNMF:
    told = {name: getattr(settings, name) for name in ("n_features", "neurons_per_feature", "target_l0")}
    return SemiNMF(**told, n_init=2)


# ---------------------------------------------------------------- which features are the days'


@dataclass(frozen=True)
class Days:
    """A feature for each day.

    Args:
        features: [7].
        chosen_by: [7] AUROC on the sentences they were chosen on.
        held_out: [7] AUROC on the others.
    """

    features: tuple[int, ...]
    chosen_by: Floats
    held_out: Floats

    @staticmethod
    def choose(fit: Decomposition, rows: StoredRows, ids: Sequence[int]) -> Days:
        """The best one-to-one choice by the AUROC of codes on tokens before that day, against tokens before another.

        Only days that an earlier one tells count: what comes after "We will meet on" nothing can know.
        """
        tokens = rows.tokens
        day = next_token_of(tokens, ids)  # [N]
        codes = fit.encode(rows.read(np.arange(rows.n_rows)).float()).dense().double().numpy()  # [N, F]; a few thousand rows
        wording = np.array([int(document.labels["wording"]) for document in tokens.documents])[tokens.document[tokens.rows]]
        halves = [(day >= 0) & has_come(tokens, ids) & (wording % 2 == half) for half in (0, 1)]
        first, second = (_aurocs(codes[half], day[half]) for half in halves)  # [7, F]
        _, features = linear_sum_assignment(-first)
        at = np.arange(len(DAYS)), features
        return Days(tuple(int(feature) for feature in features), first[at], second[at])


def next_token_of(tokens: Tokens, ids: Sequence[int]) -> Ints:
    """[N] for each row which of the given tokens comes next, -1 for none of them."""
    following = np.append(tokens.ids[1:], -1)
    following[tokens.starts[1:] - 1] = -1  # the last token of a sequence
    place = {token: i for i, token in enumerate(ids)}
    return np.array([place.get(int(token), -1) for token in following[tokens.rows]], dtype=np.int64)


def has_come(tokens: Tokens, ids: Sequence[int]) -> Bools:
    """[N] for each row whether it, or a token before it in its sequence, is one of the given."""
    count = np.cumsum(np.isin(tokens.ids, ids))
    before = np.concatenate([[0], count])[tokens.starts[:-1]]  # of the sequences before
    lengths = np.diff(tokens.starts)
    found: Bools = (count - np.repeat(before, lengths) > 0)[tokens.rows]
    return found


def _aurocs(codes: Floats, day: Ints) -> Floats:
    """[7, F]."""
    missing = [name for i, name in enumerate(DAYS) if not (day == i).any()]
    if missing:
        raise InputError(
            f"the tokenizer does not put {missing[0]!r} into a token of its own, so its feature cannot be chosen; try another model"
        )
    return np.array([[auroc(column[day == i], column[day != i]) for column in codes.T] for i in range(len(DAYS))])


# ---------------------------------------------------------------- neurons that are shared


def _trees(fit: Decomposition, rows: StoredRows, days: Days, settings: Settings) -> tuple[FeatureTree, FeatureTree]:
    """The days' own tree from the neurons they share, and the hierarchy of all features."""
    names = [f"feature {i}" for i in range(fit.n_features)]
    for day, feature in zip(DAYS, days.features, strict=True):
        names[feature] = day
    tree = by_overlap(fit.subset(days.features).dictionary, names=DAYS)
    sizes = [settings.n_features // 2, settings.n_features // 4, max(2, settings.n_features // 8)]
    return tree, hierarchy(fit, rows, sizes, seed=settings.seed).named(names)


def _shared(fit: Decomposition, days: Days, settings: Settings) -> tuple[Estimate, Floats]:
    """Mean overlap of the days, and the matrix [7, 7]."""
    whole = overlap(fit.dictionary.atoms).numpy()
    mine = whole[np.ix_(days.features, days.features)]
    rng = np.random.default_rng(settings.seed)
    draws = [rng.choice(fit.n_features, len(DAYS), replace=False) for _ in range(20 * settings.n_draws)]
    chance = np.array([_between(whole[np.ix_(draw, draw)]).mean() for draw in draws])
    units = Units.of_values("feature", (mine.sum(1) - 1) / (len(DAYS) - 1))
    low, high = ratio_interval(units)
    p = float((1 + (chance >= units.value).sum()) / (1 + len(chance)))
    return Estimate(units.value, low, high, len(DAYS), null=float(chance.mean()), ceiling=1.0, p=p, better="higher", units=units), mine


def _between(matrix: Floats) -> Floats:
    """The entries above the diagonal."""
    found: Floats = matrix[np.triu_indices(len(matrix), 1)]
    return found


def _weekend(matrix: Floats) -> Estimate:
    """Exact, over all choices of two days."""

    def contrast(pair: tuple[int, ...]) -> float:
        on = np.isin(np.arange(len(DAYS)), pair)
        above = np.triu_indices(len(DAYS), 1)
        same, overlaps = (on[:, None] == on[None, :])[above], matrix[above]
        return float(overlaps[same].mean() - overlaps[~same].mean())

    all_pairs = [contrast(pair) for pair in combinations(range(len(DAYS)), 2)]
    value = contrast(WEEKEND)
    p = sum(other >= value - 1e-12 for other in all_pairs) / len(all_pairs)
    return Estimate(value, n=len(DAYS), null=round(float(np.mean(all_pairs)), 12), p=p, better="higher")


def _merged(levels: FeatureTree, days: Days, settings: Settings) -> Estimate:
    """Pairs with one node on the top level."""
    top = np.array([levels.path(leaf)[-1] for leaf in range(levels.n_leaves)])

    def share(features: Sequence[int] | Ints) -> float:
        return float(np.mean([top[a] == top[b] for a, b in combinations(features, 2)]))

    rng = np.random.default_rng(settings.seed)
    chance = np.array([share(rng.choice(levels.n_leaves, len(DAYS), replace=False)) for _ in range(20 * settings.n_draws)])
    value = share(days.features)
    p = float((1 + (chance >= value).sum()) / (1 + len(chance)))
    return Estimate(value, n=len(DAYS), null=float(chance.mean()), ceiling=1.0, p=p, better="higher")


# ---------------------------------------------------------------- the report


def _causal(fit: Decomposition, lm: LanguageModel, days: Days, settings: Settings) -> Report:
    words = tuple(f" {day}" for day in DAYS)
    told = {"strength": settings.strength, "n_draws": settings.n_draws, "seed": settings.seed, "quorum": settings.quorum}
    config = core_exclusive.Config(features=days.features, words=words, prompts=PROMPTS, **told)
    return core_exclusive.run(Subject(fit, model=lm), config=config)


def _report(
    fit: Decomposition, days: Days, tree: FeatureTree, levels: FeatureTree, *, causal: Report, settings: Settings, seconds: float
) -> Report:
    shared, matrix = _shared(fit, days, settings)
    units = Units.of_values("feature", days.held_out)
    low, high = ratio_interval(units)
    told = Estimate(units.value, low, high, len(DAYS), null=0.5, ceiling=1.0, better="higher", units=units)
    estimates = {"auroc": told, "shared": shared, "weekend": _weekend(matrix), "merged": _merged(levels, days, settings)}
    table = {
        "day": list(DAYS),
        "feature": list(days.features),
        "auroc, chosen on": days.chosen_by.round(3).tolist(),
        "auroc, held out": days.held_out.round(3).tolist(),
        "neurons": [len(tree.core(i)) for i in range(len(DAYS))],
    }
    shown = [[None if i == j else round(float(value), 4) for j, value in enumerate(row)] for i, row in enumerate(matrix)]
    trace = {"type": "heatmap", "z": shown, "x": list(DAYS), "y": list(DAYS), "colorscale": "Blues", "reversescale": True, "zmin": 0}
    figure = {"data": [trace], "layout": {"title": {"text": "Shared neurons (Jaccard index)"}, "yaxis": {"autorange": "reversed"}}}
    settled = {"fit": dict(fit.provenance), "settings": settings.model_dump(mode="json"), "hierarchy": dict(levels.record)}
    return Report(
        f"weekdays in {causal.provenance['model']}",
        {**estimates, **causal.estimates},
        {"days": table, **causal.tables},
        {"shared neurons": figure, "tree": tree.figure(), "hierarchy": levels.figure(), **causal.figures},
        notes=[
            "auroc: codes on tokens before a day, on wordings that were not used to choose; null 0.5. shared, merged: null is as many "
            "features of the fit drawn at random. weekend: null is any other two days in its place.",
            *causal.notes,
        ],
        warnings=causal.warnings,
        provenance=settled,
        seconds=seconds,
    )
