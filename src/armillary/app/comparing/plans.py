"""Plans: which studies a comparison asks, with which settings, and what that will cost.

    small    about twenty minutes on two cores for eight fits of a model as small as arm-small
    full     the studies' own settings, with more features and strengths

What a plan will take is counted by `costs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from armillary import studies
from armillary.app.comparing.costs import Cost, costs, lines, speed_of
from armillary.app.comparing.run import Asked
from armillary.core.task import Task
from armillary.errors import unknown

__all__ = ["Budget", "Cost", "costs", "lines", "plan", "speed_of"]

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
        "concepts": {"n_documents": 2_000, "max_concepts": 20, "n_draws": 1000},
        "probing": {"n_documents": 2_000, "max_concepts": 12, "ks": (1, 5, 20), "n_train": 400, "n_test": 400},
        "absorption": {"n_rows": 8_000, "n_draws": 3},
        "labels": {"n_features": 12, "n_active": 15, "n_silent": 15, "max_rows": 60_000},
        "steering": {"n_features": 10, "n_prompts": 3, "n_tokens": 24, "targets": (0.05, 0.15, 0.5), "alphas": (0.3, 0.6, 1.0)},
        "localization": {"max_pairs": 96, "penalties": (0.01,), "n_steps": (30,), "n_random": 3},
    },
    "full": {
        "concepts": {"n_draws": 4000},  # a p-value is no smaller than one draw in all, and must pass the control over the whole table
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
