"""Concepts: values of the documents' labels, each against the other values of the same label, and the sides they are learnt and judged on.

Letters: n documents.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from armillary.core.report import Better, Estimate
from armillary.core.statistics import Floats, Units, ratio_interval
from armillary.core.tokens import Bools, Ints
from armillary.errors import InputError, unknown
from armillary.studies.quality.pooled import Documents

#: [n] a label's value of each document; None of one without it.
_Column: TypeAlias = NDArray[Any]


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

    A label of two values gives one concept, its rarer value, as the other tells the same. Values in fewer than 2 `min_positives` documents
    are left out together, a line for each label.

    Args:
        documents: with labels.
        is_test: [n] the held-out side.
        wanted: "label" for its values, or "label=value"; empty for everything.
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
    columns = {name: np.array([labels.get(name) for labels in told], object) for name in names}
    pairs, rare = _wanted(wanted, columns, 2 * min_positives)
    found = [_concept(name, value, columns[name], is_test) for name, value in pairs]
    reasons = {one.name: one.why_not(min_positives) for one in found}
    good = sorted((one for one in found if not reasons[one.name]), key=lambda one: -int(one.positive.sum()))
    beyond = [(one.name, f"only the {max_concepts} most frequent concepts are asked for") for one in good[max_concepts:]]
    return Concepts(good[:max_concepts], [*rare.items(), *((name, why) for name, why in reasons.items() if why), *beyond])


def _wanted(wanted: Sequence[str], columns: Mapping[str, _Column], least: int) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Pairs of a label and a value, and what is said of labels with values in fewer than `least` documents."""
    pairs: dict[tuple[str, str], None] = {}
    rare: dict[str, str] = {}
    for one in wanted or columns:
        name, equals, value = one.partition("=")
        if name not in columns:
            raise unknown("label", name, list(columns))
        if equals:
            pairs[name, value] = None
            continue
        count = Counter(each for each in columns[name] if each is not None)
        pairs.update(dict.fromkeys((name, each) for each in _values(count) if count[each] >= least))
        few = [n for n in count.values() if n < least]
        if few:
            which = f"{len(few):,} of its {len(count):,} values"
            rare[name] = f"{which} are in fewer than {least} documents, the commonest of them in {max(few)}"
    return list(pairs), rare


def _values(count: Mapping[str, int]) -> list[str]:
    """The values to ask for; of two the rarer one."""
    values = sorted(count)
    return sorted(values, key=lambda value: count[value])[:1] if len(values) == 2 else values


def _concept(name: str, value: str, column: _Column, is_test: Bools) -> Concept:
    known, positive = np.array([each is not None for each in column]), np.array(column == value, bool)
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
