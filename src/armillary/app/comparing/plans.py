"""Plans: which studies a comparison asks, with which settings, and what that will cost.

    small    about twenty minutes on two cores for eight fits of a model as small as arm-small
    full     the studies' own settings, with more features and strengths

The cost is counted in tokens that the model reads or writes; seconds follow from how fast it does so on this machine.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from armillary import studies
from armillary.app.comparing.run import Asked
from armillary.core.model import Model
from armillary.core.progress import duration
from armillary.core.report import number
from armillary.core.study import Subject
from armillary.core.task import Task
from armillary.errors import unknown

Budget = Literal["small", "full"]

#: Study -> estimates that stand in the table; () for all. Also the order of the table.
SHOWN: dict[str, tuple[str, ...]] = {
    "fidelity": ("fvu", "ce_increase", "ce_recovered_mean", "l0"),
    "concepts": ("auroc", "auroc_hard", "s_cd", "raw_dimension", "bag_of_words"),
    "probing": ("auroc_1", "above_raw_1", "auroc_5", "above_raw_5", "auroc_20", "above_raw_20"),
    "absorption": ("absorption_fraction", "full_absorption", "sparse_f1"),
    "labels": (),
    "steering": ("area", "above_random", "above_diffmeans", "score", "concept", "fluency"),
    "localization": (),
}
#: Estimates that say how something was measured, not how well.
ASIDE = ("n_features", "kept")

#: Study -> settings of each budget, on top of the study's own.
SETTINGS: dict[Budget, dict[str, dict[str, Any]]] = {
    "small": {
        "fidelity": {"n_tokens": 20_000, "max_rows": 100_000},
        "concepts": {"n_documents": 2_000, "max_concepts": 20, "n_draws": 400},
        "probing": {"n_documents": 2_000, "max_concepts": 12, "ks": (1, 5, 20), "n_train": 400, "n_test": 400},
        "absorption": {"n_rows": 8_000, "n_draws": 3},
        "labels": {"n_features": 12, "n_active": 15, "n_silent": 15, "max_rows": 60_000},
        "steering": {"n_features": 6, "n_prompts": 3, "n_tokens": 24, "targets": (0.05, 0.15, 0.5), "alphas": (0.3, 0.6, 1.0)},
        "localization": {"max_pairs": 96, "penalties": (0.01,), "n_steps": (30,), "n_random": 3},
    },
    "full": {
        "labels": {"n_features": 50},
        "steering": {"n_features": 24, "n_continuations": 3},
        "localization": {"max_pairs": None},
    },
}


def plan(names: Sequence[str], tasks: Sequence[Task], budget: Budget, *, seed: int) -> list[Asked]:
    """The studies by name, those about tasks once for each.

    Raises:
        UnknownNameError: a study that a comparison does not ask.
    """
    for name in names:
        if name not in SHOWN:
            raise unknown("study of a comparison", name, SHOWN)
    asked = []
    for name, shown in SHOWN.items():
        if name in names:
            study: Any = studies.load(name)
            config = study.Config(**{**SETTINGS[budget].get(name, {}), "seed": seed})
            asked += [Asked(name, config, shown, ASIDE, task) for task in (tasks if "task" in study.needs else (None,))]
    return asked


@dataclass(frozen=True)
class Cost:
    """What one study will take.

    Args:
        title: of the study.
        what: in words.
        tokens: the model reads or writes.
    """

    title: str
    what: str
    tokens: int


def costs(asked: Sequence[Asked], subjects: Sequence[Subject]) -> list[Cost]:
    """Of every study, for these subjects."""
    return [Cost(one.title, *_COSTS.get(one.study, _reads)(one, len(subjects))) for one in asked]


def _reads(one: Asked, n: int) -> tuple[str, int]:
    return f"one reading of the store for {n} fits", 0


def _fidelity(one: Asked, n: int) -> tuple[str, int]:
    tokens = one.config.n_tokens or 0
    return f"{n} fits and 4 ablations x {tokens:,} tokens", tokens * (n + 4)


def _steering(one: Asked, n: int) -> tuple[str, int]:
    c = one.config
    strengths, texts = 2 * len(c.targets), min(c.n_prompts, len(c.prompts)) * c.n_continuations
    written = n * c.n_features * 3 * strengths * texts * c.n_tokens
    what = f"{n} fits x {c.n_features} features x {strengths} strengths, also of a random direction and DiffMeans, x {texts} texts"
    return f"{what} of {c.n_tokens} tokens", 2 * written


def _localization(one: Asked, n: int) -> tuple[str, int]:
    assert one.task is not None
    c, length = one.config, 24
    variables, places = len(one.task.variables), len(c.positions or one.task.positions)
    pairs = min(len(one.task.train), (c.max_pairs or len(one.task.train)) * variables) // max(1, variables)
    steps = sum(c.n_steps) * len(c.penalties) * c.batch_size * 3  # forward and back
    what = f"{n} fits x {variables} variables x {places} positions, {pairs} pairs to learn from, {sum(c.n_steps) * len(c.penalties)} steps"
    return what, n * variables * places * (steps + (3 + c.n_random) * pairs) * length


def _labels(one: Asked, n: int) -> tuple[str, int]:
    c = one.config
    texts = n * c.n_features * (c.n_active + c.n_silent)
    return f"{n} fits x {c.n_features} features x {c.n_active + c.n_silent} texts", texts * c.length * 3


_COSTS = {"fidelity": _fidelity, "steering": _steering, "localization": _localization, "labels": _labels}


def speed(model: Model, text: str = "The city of Paris lies in the country that") -> float:
    """Tokens per second that a model reads in a batch, timed for a moment."""
    tokens = model.tokenize([text] * 64)
    model.logits(tokens)
    began, n = time.perf_counter(), 0
    while time.perf_counter() - began < 0.5:
        model.logits(tokens)
        n += len(tokens)
    return n / (time.perf_counter() - began)


def speed_of(subjects: Sequence[Subject]) -> float | None:
    """Of the model that fits are of; None where there is none, or one that has no logits."""
    model = next((subject.model for subject in subjects if subject.model is not None), None)
    return None if model is None or not model.has_logits else speed(model)


def lines(found: Sequence[Cost], rate: float | None) -> list[str]:
    """The costs, a line each, and all together."""
    out = [f"{one.title}: {one.what}{_seconds(one.tokens, rate)}" for one in found]
    total = sum(one.tokens for one in found)
    return [*out, f"in all {number(total)} tokens{_seconds(total, rate)}, besides what reading the store takes"]


def _seconds(tokens: int, rate: float | None) -> str:
    return f", about {duration(tokens / rate)}" if rate and tokens else ""
