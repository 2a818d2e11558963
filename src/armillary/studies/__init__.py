"""Studies: questions asked of fitted decompositions. One file answers one question, for every method.

    report = armillary.studies.fidelity.run(armillary.Subject(fit, rows=acts[site], model=lm))

A study's module has `Config`, `needs`, `accepts` and `run`; see `core.study`. `STUDIES` is the list of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from armillary.errors import unknown

if TYPE_CHECKING:
    from armillary.core.study import Study
    from armillary.studies.causal import core_exclusive as core_exclusive
    from armillary.studies.causal import localization as localization
    from armillary.studies.causal import steering as steering
    from armillary.studies.geometry import shared_neurons as shared_neurons
    from armillary.studies.quality import absorption as absorption
    from armillary.studies.quality import concepts as concepts
    from armillary.studies.quality import fidelity as fidelity
    from armillary.studies.quality import labels as labels
    from armillary.studies.quality import probing as probing
    from armillary.studies.quality import regions as regions
    from armillary.studies.quality import spurious as spurious

#: Name of a study -> its module. The one place a new study is entered.
STUDIES: dict[str, str] = {
    "absorption": "armillary.studies.quality.absorption",
    "concepts": "armillary.studies.quality.concepts",
    "core_exclusive": "armillary.studies.causal.core_exclusive",
    "fidelity": "armillary.studies.quality.fidelity",
    "labels": "armillary.studies.quality.labels",
    "localization": "armillary.studies.causal.localization",
    "probing": "armillary.studies.quality.probing",
    "regions": "armillary.studies.quality.regions",
    "shared_neurons": "armillary.studies.geometry.shared_neurons",
    "spurious": "armillary.studies.quality.spurious",
    "steering": "armillary.studies.causal.steering",
}

__all__ = sorted(STUDIES)  # noqa: PLE0605


def load(name: str) -> Study:
    """The study with this name.

    Raises:
        UnknownNameError: there is none; the message holds the nearest ones.
    """
    if name not in STUDIES:
        raise unknown("study", name, STUDIES)
    study: Any = importlib.import_module(STUDIES[name])
    return study  # type: ignore[no-any-return]


def __getattr__(name: str) -> Any:
    if name in STUDIES:
        return load(name)
    raise AttributeError(f"module 'armillary.studies' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "STUDIES", "load"]
