"""Concept score: does a direction tell sentences with a concept from sentences without it?

    a(s) = max over the tokens of s of cos(x_t, direction)        special tokens (BOS, EOS, padding) left out
    S_CD = log( mean of a over sentences with the concept / mean of a over the others )
    auroc = share of pairs (with, without) in which a is larger for the one with the concept, ties counting half; Newcombe's interval

Shafran, Geiger and Geva 2025 (arXiv 2506.10920), whose S_CD is the logarithm of the ratio. It has no value where a mean is not above 0.

Letters: T tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import mannwhitneyu
from torch import Tensor

from armillary.core.model import Model
from armillary.core.report import Estimate
from armillary.core.site import Site
from armillary.core.statistics import Floats
from armillary.core.tokens import Tokens
from armillary.errors import InputError, ShapeError
from armillary.studies.quality.ranks import auroc as of_labels
from armillary.studies.quality.ranks import interval

#: Bootstrap samples behind the interval of S_CD, and sentences of a forward pass.
SAMPLES, BATCH = 2000, 32


def concept_score(
    model: Model, site: Site | str, direction: Tensor, activating: Sequence[str], neutral: Sequence[str], *, seed: int = 0
) -> dict[str, Estimate]:
    """S_CD and AUROC of a direction, with intervals over sentences.

    Args:
        model: the model.
        site: where the direction lives.
        direction: [D].
        activating: sentences with the concept.
        neutral: sentences without it. On both sides sentences of special tokens only are dropped.
        seed: of the bootstrap.

    Raises:
        InputError: fewer than two sentences on a side with a token that is not special, or a direction of length 0.
        ShapeError: a direction of another width than the site's.
    """
    if isinstance(activating, str) or isinstance(neutral, str):
        raise InputError("activating and neutral are lists of sentences; got a single text, whose letters would be taken for sentences")
    if min(len(activating), len(neutral)) < 2:
        raise InputError(f"at least two sentences of each kind are needed, got {len(activating)} and {len(neutral)}")
    if not 0 < float(direction.norm()) < math.inf:
        raise InputError(f"the direction has length {float(direction.norm()):g}; give one that points somewhere")
    with_it, without = (strongest(model, site, direction, texts) for texts in (activating, neutral))
    if min(len(with_it), len(without)) < 2:
        dropped = len(activating) + len(neutral) - len(with_it) - len(without)
        raise InputError(
            f"at least two sentences of each kind are needed, got {len(with_it)} and {len(without)} once {dropped} of special tokens only "
            "were dropped; give sentences with text"
        )
    return {"s_cd": _s_cd(with_it, without, seed), "auroc": _auroc(with_it, without)}


def strongest(model: Model, site: Site | str, direction: Tensor, texts: Sequence[str]) -> Floats:
    """a of each text that has a token of its own: the largest cosine of one of them with the direction; other texts are dropped."""
    tokens = model.tokenize(list(texts))
    return np.concatenate([_strongest(model, site, direction, part) for part in tokens.batches(BATCH)])


def _strongest(model: Model, site: Site | str, direction: Tensor, tokens: Tokens) -> Floats:
    with torch.no_grad():
        x = model.capture(tokens, [site])[site].float()  # [B, T, D]
    if direction.shape != x.shape[-1:]:
        raise ShapeError(
            f"the direction has shape {list(direction.shape)}, but {site} of {model.name} has width {x.shape[-1]}; give one of that site"
        )
    cosine = F.cosine_similarity(x, direction.to(x), dim=-1).cpu().double().numpy()
    counts = tokens.spread(~tokens.is_special, fill=False)
    found: Floats = np.where(counts, cosine, -np.inf).max(1)
    return found[counts.any(1)]


def log_ratio(with_it: Floats, without: Floats) -> float | None:
    """S_CD, or None where a mean is not above 0."""
    above, below = float(np.mean(with_it)), float(np.mean(without))
    return math.log(above / below) if above > 0 and below > 0 else None


def _s_cd(with_it: Floats, without: Floats, seed: int) -> Estimate:
    value = log_ratio(with_it, without)
    if value is None:
        why = f"the mean cosines are {np.mean(with_it):.3g} and {np.mean(without):.3g}, and only positive ones have a ratio"
        return Estimate.missing(why, better="higher")
    rng = np.random.default_rng(seed)
    drawn = [log_ratio(rng.choice(with_it, len(with_it)), rng.choice(without, len(without))) for _ in range(SAMPLES)]
    low, high = np.percentile([one for one in drawn if one is not None], [2.5, 97.5])
    return Estimate(value, float(low), float(high), len(with_it) + len(without), null=0.0, better="higher")


def _auroc(with_it: Floats, without: Floats) -> Estimate:
    score, positive = np.concatenate([with_it, without]), np.arange(len(with_it) + len(without)) < len(with_it)
    low, high = interval(score, positive)
    p = float(mannwhitneyu(with_it, without, alternative="greater").pvalue)
    return Estimate(auroc(with_it, without), low, high, len(score), null=0.5, ceiling=1.0, p=p, better="higher")


def auroc(with_it: Floats, without: Floats) -> float:
    """Share of pairs in which the first is larger; ties count half."""
    return of_labels(np.concatenate([with_it, without]), np.arange(len(with_it) + len(without)) < len(with_it))
