"""Evidence: what a label of a feature is made from.

    input side     texts with its largest activations, texts drawn from all levels of activation, and the tokens it prefers
    output side    the tokens it promotes and suppresses

Of a region the texts with its largest activations are those of its likeliest rows, as its responsibility is 1 on many. All texts are of
whole tokens.

Letters: N rows, m rows on which a feature is active.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import FeatureKind
from armillary.core.model import Model
from armillary.core.statistics import Floats
from armillary.core.tokens import Bools, Ints, Tokens
from armillary.errors import CapabilityError, InputError
from armillary.inspect.activity import Active, Example, examples
from armillary.inspect.logits import LogitEffect, logit_effects

#: Standard deviations beyond random directions below which promoted tokens say nothing.
TELLING = 3.0


@dataclass(frozen=True)
class Shape:
    """How much evidence there is.

    Args:
        n_top: texts with the largest activations, of different documents where there are as many.
        n_quantiles, per_quantile: levels of activation, and texts drawn from each.
        window: tokens shown to the left and to the right.
        n_tokens: tokens that are preferred, promoted and suppressed.
        seed: of the draws.
    """

    n_top: int = 10
    n_quantiles: int = 5
    per_quantile: int = 2
    window: tuple[int, int] = (16, 8)
    n_tokens: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.n_top, self.per_quantile, self.n_tokens) < 0 or self.n_quantiles < 1 or self.n_top + self.per_quantile == 0:
            raise InputError(f"evidence needs texts: got n_top={self.n_top}, {self.n_quantiles} quantiles of {self.per_quantile}")


@dataclass(frozen=True)
class Preferred:
    """A token that a feature is active on, or next to, more often than tokens are.

    Args:
        text: the whole token; a byte of a character that it does not hold whole is written out, as \\xe2.
        id: its number.
        share: of the rows the feature is active on.
        lift: this share over the token's share of all rows.
    """

    text: str
    id: int
    share: float
    lift: float


@dataclass(frozen=True)
class Evidence:
    """Of one feature.

    Args:
        feature, kind: which, and what it is.
        n_active: rows it is active on;
        n_rows: of so many.
        top: texts with its largest activations, largest first.
        sample: texts drawn from all levels of activation, from the highest to the lowest.
        tokens: tokens it is active on, those first that tell most (share times log lift).
        before, after: the same of the tokens in front of these and behind them.
        promoted, suppressed: tokens, most first; empty with `no_effect` saying why.
    """

    feature: int
    kind: FeatureKind
    n_active: int
    n_rows: int
    top: tuple[Example, ...] = ()
    sample: tuple[Example, ...] = ()
    tokens: tuple[Preferred, ...] = ()
    before: tuple[Preferred, ...] = ()
    after: tuple[Preferred, ...] = ()
    promoted: tuple[str, ...] = ()
    suppressed: tuple[str, ...] = ()
    no_effect: str = ""

    @property
    def largest(self) -> float:
        """The largest activation that is shown."""
        return max((one.value for one in (*self.top, *self.sample)), default=0.0)


@dataclass(frozen=True)
class Source:
    """Rows that evidence is taken from.

    Args:
        tokens: of all rows.
        is_in: [N] bool, the rows that count.
    """

    tokens: Tokens
    is_in: Bools = field(repr=False)

    @cached_property
    def counts(self) -> Mapping[int, int]:
        """How often each token id is a row."""
        return Counter(self.tokens.ids[self.tokens.rows[self.is_in]].tolist())

    @property
    def n_rows(self) -> int:
        return int(self.is_in.sum())


def evidence(fit: Decomposition, feature: int, active: Active, source: Source, *, shape: Shape, likeliest: Ints | None = None) -> Evidence:
    """The input side of a feature.

    Args:
        fit: whose feature.
        feature: its number.
        active: where it is active, among the rows of `source`.
        source: the rows.
        shape: how much to take.
        likeliest: of a region, rows that are shown first, those of them on which it is active.
    """
    kind, tokens = fit.dictionary.feature(feature).kind, source.tokens
    if len(active) == 0:
        return Evidence(feature, kind, 0, source.n_rows)
    value = active.on(tokens)
    token = tokens.rows[active.row]
    top = _strongest(active, tokens, shape.n_top)
    if likeliest is not None:
        first = likeliest[np.isin(likeliest, active.row)]
        top = np.concatenate([first, top[~np.isin(top, first)]])[: shape.n_top]
    drawn = _drawn(active, shape, feature)
    tops, samples = (tuple(examples(tokens, [_around(tokens, row, shape.window) for row in rows], value)) for rows in (top, drawn))
    here, before, after = (tuple(_preferred(source, token, step)[: shape.n_tokens]) for step in (0, -1, 1))
    return Evidence(feature, kind, len(active), source.n_rows, tops, samples, here, before, after)


def effects(model: Model | None, fit: Decomposition, features: Sequence[int], n: int) -> dict[int, LogitEffect] | str:
    """The output side of features, or why there is none."""
    if model is None:
        return "no model was given"
    try:
        return {effect.feature: effect for effect in logit_effects(model, fit, features, n)}
    except (CapabilityError, InputError) as error:
        return str(error)


def output_side(found: dict[int, LogitEffect] | str, feature: int) -> dict[str, object]:
    """Fields of `Evidence`: tokens that stand out from what random directions promote and suppress."""
    if isinstance(found, str):
        return {"no_effect": found}
    effect = found[feature]
    up = tuple(token.token for token in effect.promoted) if effect.z_promoted >= TELLING else ()
    down = tuple(token.token for token in effect.suppressed) if effect.z_suppressed >= TELLING else ()
    nothing = "" if up or down else "it promotes no token more than random directions do"
    return {"promoted": up, "suppressed": down, "no_effect": nothing}


# ---------------------------------------------------------------- texts


def _strongest(active: Active, tokens: Tokens, n: int) -> Ints:
    """Rows of the largest activations: the largest of each document first, then whatever is left."""
    order = np.lexsort((active.row, -active.value))
    document = tokens.document[tokens.rows[active.row[order]]]
    is_first = np.zeros(len(order), bool)
    is_first[np.unique(document, return_index=True)[1]] = True
    chosen = np.concatenate([order[is_first], order[~is_first]])[:n]
    return np.asarray(active.row[chosen[np.lexsort((active.row[chosen], -active.value[chosen]))]], np.int64)


def _drawn(active: Active, shape: Shape, feature: int) -> Ints:
    """Rows drawn from each level of activation, the highest level first."""
    rng = np.random.default_rng([shape.seed, feature])
    levels = np.array_split(np.lexsort((active.row, active.value)), shape.n_quantiles)[::-1]
    chosen = [rng.permutation(level)[: shape.per_quantile] for level in levels]
    return np.asarray(active.row[np.concatenate(chosen)], np.int64)


def _around(tokens: Tokens, row: int, size: tuple[int, int]) -> Ints:
    around = np.asarray(tokens.window_tokens(int(row), *size), np.int64)
    return around[~tokens.is_special[around]]


# ---------------------------------------------------------------- tokens


def _preferred(source: Source, token: Ints, step: int) -> list[Preferred]:
    """Of tokens [m], or of those `step` places on in the same document: which are more common than everywhere, the most telling first."""
    tokens = source.tokens
    there = np.clip(token + step, 0, len(tokens) - 1)
    near = there[(there == token + step) & (tokens.document[there] == tokens.document[token]) & ~tokens.is_special[there]]
    ids, first, count = np.unique(tokens.ids[near], return_index=True, return_counts=True)
    share = count / max(len(token), 1)
    overall = np.array([source.counts.get(int(i), 1) for i in ids]) / max(source.n_rows, 1)
    telling: Floats = share * np.log(share / overall) if len(ids) else np.zeros(0)
    order = [i for i in np.lexsort((ids, -telling)) if telling[i] > 0]
    return [Preferred(_written(tokens, int(near[first[i]])), int(ids[i]), float(share[i]), float(share[i] / overall[i])) for i in order]


def _written(tokens: Tokens, token: int) -> str:
    """A token's text, in which different pieces of characters stay different."""
    low, high = tokens.span[token]
    return tokens.documents[int(tokens.document[token])].data[low:high].decode(errors="backslashreplace")
