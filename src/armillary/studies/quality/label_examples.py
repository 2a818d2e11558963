"""What labels are made from, and what they are scored on: two halves of the documents, and texts on which a feature is active, and silent.

Documents with the same text are in the same half. The text is cut into stretches of nearly equal length, and none is left over. Of the half
that labels are scored on, texts are drawn from all levels of activation in turn, so that no level, and no last group, is left out.

Letters: N rows, n tokens, C stretches of text, V vocabulary.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from armillary.core.statistics import Floats
from armillary.core.tokens import Bools, Ints, Tokens
from armillary.errors import InputError
from armillary.inspect.activity import Active, Example, chunks, examples, marked

#: Stretches of each kind that bags of words learn from at most.
MOST = 2000


@dataclass(frozen=True)
class Pool:
    """The stretches of a text that were read, in two halves.

    Args:
        tokens: of the rows.
        stretches: C of them, tokens [t] each.
        for_labels: [C] bool, those labels are made from; on the others they are scored.
        rows_for_labels: [N] bool, the rows that labels are made from.
    """

    tokens: Tokens
    stretches: Sequence[Ints] = field(repr=False)
    for_labels: Bools = field(repr=False)
    rows_for_labels: Bools = field(repr=False)

    @staticmethod
    def of(tokens: Tokens, seen: Bools, *, length: int, seed: int) -> Pool:
        """Cut what was read ([N] bool) into stretches of at most `length` tokens."""
        was_read = np.zeros(len(tokens), bool)
        was_read[tokens.rows[seen]] = True
        whole = [one for one in chunks(tokens, length) if was_read[one].any() and not (tokens.is_row[one] & ~was_read[one]).any()]
        used = np.unique(tokens.document[tokens.rows[seen]])
        first = first_half(tokens, used[used >= 0], seed)  # by document
        for_labels = np.array([first[tokens.document[one[0]]] for one in whole], bool)
        document = tokens.document[tokens.rows]
        return Pool(tokens, whole, for_labels, seen & (document >= 0) & first[document])

    @cached_property
    def flat(self) -> tuple[Ints, Ints]:
        """All stretches end to end, and where each begins."""
        lengths = [len(one) for one in self.stretches]
        joined = np.concatenate([np.zeros(0, np.int64), *self.stretches])
        return joined, np.cumsum([0, *lengths[:-1]]).astype(np.int64)

    def strongest(self, value: Floats) -> Floats:
        """[C] the largest of the activations [n] in each stretch."""
        joined, starts = self.flat
        return np.maximum.reduceat(value[joined], starts) if len(self.stretches) else np.zeros(0)

    @cached_property
    def texts(self) -> list[str]:
        """[C] the stretches as text."""
        return [one.text for one in examples(self.tokens, self.stretches, np.zeros(len(self.tokens)))]

    @property
    def texts_for_labels(self) -> list[str]:
        """Those that labels are made from."""
        return [text for text, first in zip(self.texts, self.for_labels, strict=True) if first]


def first_half(tokens: Tokens, used: Ints, seed: int) -> Bools:
    """[documents] bool: half of the different texts among the documents used, chosen by a keyed hash of the text alone."""
    texts = sorted({tokens.documents[int(i)].sha256 for i in used}, key=lambda sha: hashlib.sha256(f"{seed} {sha}".encode()).digest())
    chosen = set(texts[: (len(texts) + 1) // 2])
    found = np.zeros(len(tokens.documents), bool)
    found[used] = [tokens.documents[int(i)].sha256 in chosen for i in used]
    return found


# ---------------------------------------------------------------- of one feature


@dataclass(frozen=True)
class Fuzzed:
    """A text with some of its tokens marked.

    Args:
        text: with << >>.
        is_right: whether the tokens are those the feature is active on.
    """

    text: str
    is_right: bool


@dataclass(frozen=True)
class Trial:
    """What a feature's label is scored on, and what rules may learn from.

    Args:
        feature: its number.
        active, silent: texts of the half that labels are scored on, on which the feature is active, and is not.
        fuzzed: those it is active on, marked rightly and wrongly.
        learn_active, learn_silent: stretches of the other half.
    """

    feature: int
    active: Sequence[Example]
    silent: Sequence[Example]
    fuzzed: Sequence[Fuzzed]
    learn_active: Sequence[Ints] = field(repr=False)
    learn_silent: Sequence[Ints] = field(repr=False)


@dataclass(frozen=True)
class Drawing:
    """How trials are drawn.

    Args:
        n_active, n_silent: texts of each kind.
        n_levels: levels of activation.
        least: texts of each kind and half that there have to be.
        share: see `activity.MARKED`.
        seed: of the draws.
        near: chooses among silent texts (of the pool, by number) the n most like active ones; None draws them at random.
    """

    n_active: int
    n_silent: int
    n_levels: int
    least: int
    share: float
    seed: int
    near: Callable[[Ints, Ints, int], Ints] | None = None


def trial(pool: Pool, feature: int, active: Active, draw: Drawing) -> Trial | str:
    """The trial of a feature, or why there is none."""
    value = active.on(pool.tokens)
    strongest = pool.strongest(value)
    groups = {
        (on, first): np.flatnonzero(((strongest > 0) == on) & (pool.for_labels == first)) for on in (True, False) for first in (True, False)
    }
    if reason := _too_few({key: len(group) for key, group in groups.items()}, draw.least):
        return reason
    rng = np.random.default_rng([draw.seed, feature])
    mine = groups[True, False]
    chosen = by_level(mine[np.lexsort((mine, strongest[mine]))], draw.n_active, draw.n_levels, rng)
    silent = groups[False, False]
    others = rng.permutation(silent)[: draw.n_silent] if draw.near is None else draw.near(chosen, silent, draw.n_silent)
    found, without = (examples(pool.tokens, [pool.stretches[i] for i in some], value) for some in (chosen, np.sort(others)))
    learn = ([pool.stretches[i] for i in rng.permutation(groups[on, True])[:MOST]] for on in (True, False))
    return Trial(feature, found, without, fuzz(found, draw.share, rng), *learn)


def _too_few(sizes: dict[tuple[bool, bool], int], least: int) -> str:
    for (is_active, first), n in sizes.items():
        if n < least:
            half = "labels are made from" if first else "labels are scored on"
            return f"{'active' if is_active else 'silent'} on {n} texts of the half that {half}, fewer than {least}"
    return ""


def by_level(ordered: Ints, n: int, n_levels: int, rng: np.random.Generator) -> Ints:
    """Up to n of the members of `ordered`, drawn in turn from as many levels, each of nearly the same size; all where there are no more."""
    levels = [rng.permutation(level) for level in np.array_split(ordered, min(n_levels, max(len(ordered), 1)))]
    turns = [level[turn] for turn in range(max(map(len, levels))) for level in levels if turn < len(level)]
    return np.sort(np.array(turns[:n], np.int64))


def fuzz(found: Sequence[Example], share: float, rng: np.random.Generator) -> list[Fuzzed]:
    """Each text marked rightly, and with as many wrong tokens marked as are right on average, where it has a silent token at all."""
    right = [one.is_marked(share) for one in found]
    n_wrong = math.ceil(np.mean([sum(on) for on in right])) if right else 0
    out: list[Fuzzed] = []
    for one, on in zip(found, right, strict=True):
        out.append(Fuzzed(marked(one.tokens, on), True))
        silent = [i for i, (text, value) in enumerate(zip(one.tokens, one.activations, strict=True)) if value <= 0 and text.strip()]
        chosen = set(rng.permutation(silent)[:n_wrong].tolist())
        if chosen:
            out.append(Fuzzed(marked(one.tokens, [i in chosen for i in range(len(on))]), False))
    return out


def nearest_texts(texts: Sequence[str]) -> Callable[[Ints, Ints, int], Ints]:
    """Chooses silent texts whose words are most like those of active ones, by tf-idf over all of the pool's texts.

    Raises:
        InputError: the texts hold no words.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        table: Any = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b").fit_transform(texts)
    except ValueError:
        raise InputError("negatives='near' goes by words, and these texts hold none; use negatives='random'") from None

    def choose(active: Ints, silent: Ints, n: int) -> Ints:
        alike: Floats = np.asarray(table[silent] @ np.asarray(table[active].mean(0)).T)[:, 0]
        return np.asarray(silent[np.lexsort((silent, -alike))[:n]], np.int64)

    return choose
