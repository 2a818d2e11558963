"""Proxies: what can be said of steered text without a judge.

    own         share of the continuation's tokens that are among those a direction promotes most            null: of plain text
    loss        mean nats per token of the continuation under the model without edits; e^loss is its perplexity     null: of plain text
    distinct    different pairs of neighbouring tokens, as a share of all pairs: 1 without repetition         null: of plain text

The first says whether steering did what the direction says, the others what it cost. They are no judge: a text may be about a concept
without any of its tokens, and fluent nonsense has a low loss.

Letters: C continuations, V vocabulary, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from armillary.core.model import Model
from armillary.core.report import Estimate
from armillary.core.site import Site
from armillary.core.statistics import Floats, Units, ratio_interval
from armillary.errors import InputError
from armillary.studies.causal.core_exclusive import plain_ids

#: Tokens that count as a direction's own.
OWN = 50


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
    """[n] ids of the tokens that a direction of a site promotes most, through the model's own way out; see `Model.readout`."""
    where = Site.parse(site)
    residual = direction @ model.readout(where).to(direction) if where.kind in ("mlp_act", "attn_z") else direction
    logits = model.unembed(residual)
    return logits.topk(min(n, len(logits))).indices.cpu()


def measured(model: Model, prompts: Sequence[str], continuations: Sequence[str], own: Tensor) -> Measured:
    """The numbers of each continuation [C]."""
    rows = [_one(model, prompt, text, own) for prompt, text in zip(prompts, continuations, strict=True)]
    return Measured(*np.array(rows, dtype=np.float64).T)


def _one(model: Model, prompt: str, text: str, own: Tensor) -> tuple[float, float, float]:
    first = len(plain_ids(model, prompt))
    written = torch.tensor(plain_ids(model, prompt + text)[first:])
    if len(written) == 0:
        raise InputError(f"nothing was written after {prompt!r}; give every prompt a continuation")
    with torch.no_grad():
        log_p = model.logits(model.tokenize(prompt + text))[0].double().log_softmax(-1).cpu()
    loss = -log_p[first - 1 : first - 1 + len(written)].gather(1, written[:, None]).mean()
    pairs = list(zip(written.tolist(), written[1:].tolist(), strict=False))
    return float(torch.isin(written, own).double().mean()), float(loss), len(set(pairs)) / len(pairs) if pairs else math.nan


def _estimate(values: Floats, null: Floats, **more: object) -> Estimate:
    """Mean over continuations that have a value."""
    units = Units.of_values("continuation", values[~np.isnan(values)])
    if len(units) == 0:
        return Estimate.missing("no continuation has two tokens")
    low, high = ratio_interval(units)
    return Estimate(units.value, low, high, len(units), null=float(np.nanmean(null)), units=units, **more)  # type: ignore[arg-type]
