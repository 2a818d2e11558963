"""What the reports of studies about concepts have in common: means over concepts, and the concepts that were left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from armillary.core.report import Better, Estimate
from armillary.core.statistics import Floats, Units, ratio_interval
from armillary.studies.quality.labelled import Concept, Concepts


def over_concepts(
    concepts: Sequence[Concept],
    values: Sequence[float | None],
    *,
    null: float | None = None,
    ceiling: float | None = None,
    p: float | None = None,
    better: Better = "higher",
    n_bootstrap: int = 2000,
    seed: int = 0,
    undefined: str = "it has no value for any concept",
) -> Estimate:
    """The mean over concepts, with its interval over them; concepts without a value are left out."""
    kept = [i for i, value in enumerate(values) if value is not None and np.isfinite(value)]
    if not kept:
        return Estimate.missing(undefined, better=better)
    units = Units.of_values("concept", np.array([values[i] for i in kept], np.float64), [concepts[i].key for i in kept])
    low, high = ratio_interval(units, n_samples=n_bootstrap, seed=seed)
    return Estimate(units.value, low, high, len(kept), null, ceiling, p, better=better, units=units)


def plain(values: Floats | Sequence[float | None]) -> list[float | None]:
    """A table's column: NaN as None."""
    return [None if value is None or not np.isfinite(value) else float(value) for value in values]


def left_out(concepts: Concepts) -> dict[str, dict[str, list[str]]]:
    """The table of the concepts that were left out, by its name; nothing where none were."""
    if not concepts.left_out:
        return {}
    names, reasons = zip(*concepts.left_out, strict=True)
    return {"left_out": {"concept": list(names), "reason": list(reasons)}}


def missed(concepts: Concepts, wanted: Sequence[str]) -> list[str]:
    """Warnings where some of the concepts that were asked for by name are left out, or are nowhere."""
    if not (concepts.left_out and wanted):
        return []
    return [f"{len(concepts.left_out)} of the concepts asked for have no value ({concepts.told(5)}).", *concepts.nowhere]


def told_by_words(estimates: Mapping[str, Estimate]) -> list[str]:
    """A warning where a bag of words does as well as a probe of everything."""
    words, full = estimates["bag_of_words"].value, estimates["full_vector"].value
    is_so = words is not None and full is not None and words >= full - 0.01
    return ["The words alone tell these concepts as well as the activations do."] if is_so else []
