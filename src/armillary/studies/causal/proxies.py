"""Proxies: what can be said of steered text without a judge.

    own         share of the continuation's tokens that are among those a direction promotes most            null: of plain text
    loss        mean nats per token of the continuation under the model without edits; e^loss is its perplexity     null: of plain text
    distinct    different pairs of neighbouring tokens, as a share of all pairs: 1 without repetition         null: of plain text

The first says whether steering did what the direction says, the others what it cost. They are no judge: a text may be about a concept
without any of its tokens, and fluent nonsense has a low loss.

Letters: C continuations, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from armillary.core.model import Model
from armillary.core.remembering import remembered
from armillary.core.report import Better, Estimate
from armillary.core.site import Site
from armillary.core.statistics import Floats, Units, ratio_interval
from armillary.core.tokens import Tokens
from armillary.errors import InputError
from armillary.inspect.logits import logits_along
from armillary.studies.causal.core_exclusive import plain_ids

#: Tokens that count as a direction's own.
OWN = 50
#: Tokens of a forward pass, padding included.
TOKENS = 1024


@dataclass(frozen=True)
class Measured:
    """Of some continuations, each without its prompt.

    Args:
        own: [C] share of the tokens that are the direction's own.
        loss: [C] mean nats per token.
        distinct: [C] share of different pairs; NaN for fewer than two tokens.
    """

    own: Floats
    loss: Floats
    distinct: Floats


def proxies(model: Model, prompts: Sequence[str], steered: Sequence[str], plain: Sequence[str], own: Tensor) -> dict[str, Estimate]:
    """The proxies of steered continuations, with those of plain ones as null and intervals over continuations.

    Args:
        model: the model that wrote them; it is run without edits.
        prompts: C texts.
        steered: what was written after each with an edit.
        plain: what was written after each without.
        own: ids of the direction's own tokens, such as `own_tokens` gives.

    Raises:
        InputError: not one continuation of each kind per prompt, or one without a token.
        CapabilityError: the model has no logits.
    """
    if not prompts or not len(prompts) == len(steered) == len(plain):
        raise InputError(f"each prompt needs a continuation of each kind, got {len(prompts)}, {len(steered)} and {len(plain)}")
    found, null = measured(model, prompts, steered, own), measured(model, prompts, plain, own)
    return {
        "own": _estimate(found.own, null.own, better="higher", ceiling=1.0),
        "loss": _estimate(found.loss, null.loss, better="lower", unit="nats"),
        "distinct": _estimate(found.distinct, null.distinct, better="higher", ceiling=1.0),
    }


def own_tokens(model: Model, site: Site | str, direction: Tensor, n: int = OWN) -> Tensor:
    """[n] ids of the tokens that a direction of a site promotes most; see `inspect.logits.logits_along`.

    Raises:
        CapabilityError: the model has no logits, or the site is only read, never written.
    """
    logits = logits_along(model, Site.parse(site), direction[None])[0]
    return logits.topk(min(n, len(logits))).indices.cpu()


def measured(model: Model, prompts: Sequence[str], continuations: Sequence[str], own: Tensor) -> Measured:
    """The numbers of each continuation [C].

    Raises:
        InputError: a continuation without a token, or one that changes the tokens of its prompt.
    """
    alone = [plain_ids(model, prompt) for prompt in prompts]
    first = [len(ids) for ids in alone]
    whole = [plain_ids(model, prompt + text) for prompt, text in zip(prompts, continuations, strict=True)]
    for before, ids, prompt, text in zip(alone, whole, prompts, continuations, strict=True):
        if not text:
            raise InputError(f"nothing was written after {prompt!r}; give every prompt a continuation")
        if len(ids) <= len(before) or ids[: len(before)] != before:
            raise InputError(f"the tokenizer does not keep {prompt!r} apart from {text!r}; put the space at the continuation's beginning")
    written = [ids[n:] for ids, n in zip(whole, first, strict=True)]
    return Measured(own_share(written, own), losses(model, whole, first), distinct_pairs(written))


def losses(model: Model, sequences: Sequence[Sequence[int]], first: Sequence[int]) -> Floats:
    """[C] mean nats per token of sequences of token ids, from token `first` (at least 1) on; NaN where none is left.

    Sequences go through the model together, `TOKENS` at a time; what one gets does not depend on the others.
    """
    keys = [(tuple(ids), n) for ids, n in zip(sequences, first, strict=True)]

    def find(places: list[int]) -> list[float]:
        return list(_losses(model, [sequences[i] for i in places], [first[i] for i in places]))

    return np.array(remembered(model, "loss", keys, find), np.float64)


def _losses(model: Model, sequences: Sequence[Sequence[int]], first: Sequence[int]) -> Floats:
    out = np.full(len(sequences), np.nan)
    left = [i for i, (ids, n) in enumerate(zip(sequences, first, strict=True)) if len(ids) > n]
    step = max(1, TOKENS // max((len(sequences[i]) for i in left), default=1))
    for start in range(0, len(left), step):
        some = left[start : start + step]
        with torch.no_grad():
            logits = model.logits(Tokens.of_ids([sequences[i] for i in some]))  # [B, T, V]
        for i, row in zip(some, logits, strict=True):
            n, end = first[i], len(sequences[i])
            log_p = row[n - 1 : end - 1].double().log_softmax(-1).cpu()
            out[i] = -float(log_p.gather(1, torch.tensor(sequences[i][n:])[:, None]).mean())
    return out


def own_share(written: Sequence[Sequence[int]], own: Tensor) -> Floats:
    """[C] share of each text's tokens that are among `own`; NaN for a text without tokens."""
    known = set(own.tolist())
    return np.array([sum(i in known for i in ids) / len(ids) if ids else np.nan for ids in written], dtype=np.float64)


def distinct_pairs(written: Sequence[Sequence[int]]) -> Floats:
    """[C] different pairs of neighbouring tokens as a share of all pairs; NaN for fewer than two tokens."""
    pairs = [list(pairwise(ids)) for ids in written]
    return np.array([len(set(one)) / len(one) if one else np.nan for one in pairs], dtype=np.float64)


def _estimate(values: Floats, null: Floats, *, better: Better, unit: str = "", ceiling: float | None = None) -> Estimate:
    """Mean over continuations that have a value."""
    units = Units.of_values("continuation", values[~np.isnan(values)])
    if len(units) == 0:
        return Estimate.missing("no continuation has two tokens", better=better, unit=unit)
    low, high = ratio_interval(units)
    plain = None if np.isnan(null).all() else float(np.nanmean(null))
    return Estimate(units.value, low, high, len(units), null=plain, ceiling=ceiling, better=better, unit=unit, units=units)
