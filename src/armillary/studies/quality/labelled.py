"""Concepts: values of the documents' labels, each against the other values of the same label, and the sides they are learnt and judged on.

Letters: n documents, V different tokens.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from armillary.core.rows import Rows
from armillary.core.tokens import Bools, Ints
from armillary.errors import InputError, nearest, unknown
from armillary.studies.quality.bag_of_words import weigh, word_counts
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
    """The concepts that can be asked for, and those that cannot, with the reason.

    Args:
        asked: the former.
        left_out: names and reasons of the latter.
        nowhere: what is said of values that were asked for and that no document has.
    """

    asked: list[Concept]
    left_out: list[tuple[str, str]]
    nowhere: tuple[str, ...] = ()

    @property
    def why_none(self) -> str:
        some = self.told(3) or "no label has two values"
        return f"no concept has documents enough ({some}); harvest more texts, lower min_positives or ask for another label"

    def told(self, most: int) -> str:
        """The first of those left out, with their reasons."""
        return "; ".join(f"{name}: {reason}" for name, reason in self.left_out[:most])


class Choice(Protocol):
    """The settings by which a study chooses documents and the sides they are on."""

    @property
    def n_documents(self) -> int | None: ...
    @property
    def test_share(self) -> float: ...
    @property
    def split(self) -> str | None: ...
    @property
    def min_positives(self) -> int: ...
    @property
    def seed(self) -> int: ...


@dataclass(frozen=True)
class Panel:
    """The documents of some rows, and what they are asked for.

    Args:
        documents: n of them.
        is_test: [n] the held-out side.
        concepts: to be told.
    """

    documents: Documents
    is_test: Bools
    concepts: Concepts

    @staticmethod
    def of(rows: Rows, config: Choice, *, wanted: Sequence[str], max_concepts: int) -> Panel:
        """Documents by the settings, and concepts as in `concepts_of`.

        Raises:
            InputError: rows without labelled documents, or a split that leaves a side empty.
            UnknownNameError: a label that no document has.
            TooFewRowsError: no token is left once special ones are taken out.
        """
        documents = Documents.of(rows, n_documents=config.n_documents, seed=config.seed)
        is_test = documents.held_out(config.test_share, config.split)
        concepts = concepts_of(
            documents, is_test, wanted=wanted, min_positives=config.min_positives, max_concepts=max_concepts, besides=config.split
        )
        return Panel(documents, is_test, concepts)

    def words(self) -> sparse.csr_matrix:
        """[n, V] the documents' words, weighed as the training documents ask for."""
        return weigh(word_counts(self.documents), ~self.is_test)


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
        but = f" but {besides!r}, by which they are split" if any(besides in one for one in told) else ""
        raise InputError(f"no document has a label{but}; `armillary harvest` keeps the plain fields of .jsonl and .parquet as labels")
    columns = {name: np.array([labels.get(name) for labels in told], object) for name in names}
    pairs, rare = _wanted(wanted, columns, 2 * min_positives)
    found = [_concept(name, value, columns[name], is_test) for name, value in pairs]
    reasons = {one.name: one.why_not(min_positives) for one in found}
    good = sorted((one for one in found if not reasons[one.name]), key=lambda one: -int(one.positive.sum()))
    beyond = [(one.name, f"only the {max_concepts} most frequent concepts are asked for") for one in good[max_concepts:]]
    left_out = [*rare.items(), *((name, why) for name, why in reasons.items() if why), *beyond]
    return Concepts(good[:max_concepts], left_out, tuple(_nowhere(columns, pairs)))


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


def _nowhere(columns: Mapping[str, _Column], pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    """What is said of the values that no document has."""
    for name, value in pairs:
        there = {str(each) for each in columns[name] if each is not None}
        if value not in there:
            close = " or ".join(f"{name}={each}" for each in nearest(value, there))
            yield f"No document has {name}={value}{f'; did you mean {close}?' if close else '.'}"


def _values(count: Mapping[str, int]) -> list[str]:
    """The values to ask for; of two the rarer one."""
    values = sorted(count)
    return sorted(values, key=lambda value: count[value])[:1] if len(values) == 2 else values


def _concept(name: str, value: str, column: _Column, is_test: Bools) -> Concept:
    known, positive = np.array([each is not None for each in column]), np.array(column == value, bool)
    return Concept(f"{name}={value}", name, positive, np.flatnonzero(known & ~is_test), np.flatnonzero(known & is_test))
