"""Concepts: values of the documents' labels, each against the other values of the same label, and the sides they are learnt and judged on.

Letters: n documents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from armillary.core.report import Better, Estimate
from armillary.core.statistics import Floats, Units, ratio_interval
from armillary.core.tokens import Bools, Ints
from armillary.errors import InputError, unknown
from armillary.studies.quality.pooled import Documents


@dataclass(frozen=True)
class Concept:
    """A value of a label.

    Args:
        name: "label=value".
        label: the label's name.
        positive: [n] documents that have this value.
        train, test: documents that have the label at all, on either side.
    """

    name: str
    label: str
    positive: Bools
    train: Ints
    test: Ints

    @property
    def key(self) -> int:
        """A number that is equal for equal names, by which reports are paired."""
        return int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:7], "big")

    def why_not(self, least: int) -> str:
        """What is missing, for a concept with too few documents; "" if nothing is."""
        for side, rows in (("training", self.train), ("held-out", self.test)):
            for kind, n in (("with", self.positive[rows].sum()), ("without", (~self.positive[rows]).sum())):
                if n < least:
                    return f"{int(n)} {side} documents {kind} it, and {least} are needed"
        return ""


@dataclass(frozen=True)
class Concepts:
    """The concepts that can be asked for, and those that cannot, with the reason."""

    asked: list[Concept]
    left_out: list[tuple[str, str]]

    @property
    def why_none(self) -> str:
        some = "; ".join(f"{name}: {reason}" for name, reason in self.left_out[:3])
        return f"no concept has documents enough ({some or 'no label has two values'})"


def concepts_of(
    documents: Documents, is_test: Bools, *, wanted: Sequence[str], min_positives: int, max_concepts: int, besides: str | None = None
) -> Concepts:
    """The values of all labels, or those wanted, the most frequent first.

    Args:
        documents: with labels.
        is_test: [n] the held-out side.
        wanted: "label" for all its values, or "label=value"; empty for everything.
        min_positives: documents with, and without, the concept that are needed on each side.
        max_concepts: so many of the most frequent at most.
        besides: a label that is no concept, as documents are split by it.

    Raises:
        InputError: no document has a label.
        UnknownNameError: a label that no document has.
    """
    told = [document.labels for document in documents]
    names = [name for name in dict.fromkeys(name for one in told for name in one) if name != besides]
    if not names:
        raise InputError("no document has a label; `armillary harvest` keeps the plain fields of .jsonl and .parquet as labels")
    found = [_concept(name, value, told, is_test) for name, value in _wanted(wanted, names, told)]
    reasons = {one.name: one.why_not(min_positives) for one in found}
    good = sorted((one for one in found if not reasons[one.name]), key=lambda one: -int(one.positive.sum()))
    beyond = [(one.name, f"only the {max_concepts} most frequent concepts are asked for") for one in good[max_concepts:]]
    return Concepts(good[:max_concepts], [(name, why) for name, why in reasons.items() if why] + beyond)


def _wanted(wanted: Sequence[str], names: Sequence[str], told: Sequence[Mapping[str, str]]) -> list[tuple[str, str]]:
    """Pairs of a label and a value."""
    pairs: dict[tuple[str, str], None] = {}
    for one in wanted or names:
        name, equals, value = one.partition("=")
        if name not in names:
            raise unknown("label", name, names)
        values = [value] if equals else sorted({labels[name] for labels in told if name in labels})
        pairs.update(dict.fromkeys((name, each) for each in values))
    return list(pairs)


def _concept(name: str, value: str, told: Sequence[Mapping[str, str]], is_test: Bools) -> Concept:
    known = np.array([name in labels for labels in told])
    positive = np.array([labels.get(name) == value for labels in told])
    return Concept(f"{name}={value}", name, positive, np.flatnonzero(known & ~is_test), np.flatnonzero(known & is_test))


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
