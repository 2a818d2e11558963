"""What replacing a site's value costs the model: cross-entropy and KL divergence, in nats per token, for any edits.

    losses(model, tokens, {"spliced": ..., "mean": ...}, units) -> Losses

Every variant is run on the same sequences and scored on the same tokens: token t predicts token t + 1 where t is one of the tokens that
are edited and t + 1 is a token of the same document that the tokenizer did not add. Special tokens are neither edited nor scored.

Letters: n tokens, B sequences, T positions, P scored tokens, V vocabulary, U units, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from armillary.core.decomposition import Decomposition
from armillary.core.edits import Interchange, Splice
from armillary.core.model import At, Edit, Model
from armillary.core.progress import progress
from armillary.core.rows import Permutation
from armillary.core.site import Site
from armillary.core.statistics import Floats
from armillary.core.tokens import Bools, Ints, Tokens, concatenate
from armillary.studies.units import RowUnits

Ablation = Literal["zero", "mean", "resample"]
ABLATIONS: tuple[Ablation, ...] = ("zero", "mean", "resample")
#: Scored tokens whose [P, V] log-probabilities are held at a time.
CHUNK = 512
#: The variant without an edit.
CLEAN = "clean"


@dataclass(frozen=True)
class Part:
    """Some sequences that are run together.

    Args:
        tokens: the sequences.
        token: [n] index of each token in the whole `Tokens`.
        edited: [n] bool, the tokens that edits change: rows that are not special.
    """

    tokens: Tokens
    token: Ints
    edited: Bools

    def where(self, at: At) -> Tensor:
        """[B, T] bool, for edits."""
        return torch.from_numpy(self.edited).to(at.row.device)[at.row.clamp_min(0)] & (at.row >= 0)

    def scored(self) -> Ints:
        """[P] tokens t of this part whose successor is predicted."""
        tokens = self.tokens
        has_next = np.ones(len(tokens), bool)
        has_next[tokens.starts[1:] - 1] = False  # the last token of every sequence
        t = np.flatnonzero(has_next & self.edited)
        is_text = (tokens.document[t] == tokens.document[t + 1]) & ~tokens.is_special[t + 1]
        return np.asarray(t[is_text], dtype=np.int64)

    def places(self, t: Ints) -> tuple[Tensor, Tensor]:
        """Sequence and position of tokens [P] in [B, T]."""
        sequence = np.searchsorted(self.tokens.starts, t, side="right") - 1
        return torch.from_numpy(sequence), torch.from_numpy(t - self.tokens.starts[sequence])


#: A way to run a part: the edits to make.
Variant = Callable[[Part], Sequence[Edit]]


@dataclass(frozen=True)
class Losses:
    """Sums per unit over the scored tokens.

    Args:
        n: [U] scored tokens.
        ce: variant -> [U] sum of cross-entropies, nats; `CLEAN` is the model as it is.
        kl: variant -> [U] sum of KL(clean || variant), nats.
    """

    n: NDArray[np.int64]
    ce: Mapping[str, Floats]
    kl: Mapping[str, Floats]


# ---------------------------------------------------------------- variants


def splice(fit: Decomposition, site: Site) -> Variant:
    """Replace the site's value by the fit's reconstruction of it, or of another site it reads (a transcoder)."""
    source = fit.site if fit.inputs != fit.targets else None
    return lambda part: [Splice(site, fit, source, part.where)]


def fixed(site: Site, value: Tensor) -> Variant:
    """Replace the site's value by one vector [D]: zero or mean ablation."""
    return lambda part: [Interchange(site, value, where=part.where)]


def resample(site: Site, sample: Tensor, token: Ints, seed: int) -> Variant:
    """Replace the site's value by that of another random token.

    Args:
        site: where.
        sample: [P, D] values to draw from.
        token: [P] the tokens they belong to; a token never gets its own value.
        seed: of the draw, which depends on the token's index only, so not on how sequences are batched.
    """
    draw = Permutation(1 << 52, seed)

    def edits(part: Part) -> Sequence[Edit]:
        chosen = draw(part.token) % len(sample)
        chosen = np.where(token[chosen] == part.token, (chosen + 1) % len(sample), chosen)
        _, mask = part.tokens.padded()
        value = sample.new_zeros(*mask.shape, sample.shape[1])  # [B, T, D]
        value[torch.from_numpy(mask)] = sample[torch.from_numpy(chosen)]
        return [Interchange(site, value, where=part.where)]

    return edits


# ---------------------------------------------------------------- the measurement


@torch.no_grad()
def losses(
    model: Model,
    tokens: Tokens,
    variants: Mapping[str, Variant],
    units: RowUnits,
    *,
    n_tokens: int | None = None,
    batch_tokens: int = 2048,
    seed: int = 0,
) -> Losses:
    """Cross-entropy and KL of every variant, and of the model as it is ("clean").

    Args:
        model: has logits.
        tokens: what to run it on.
        variants: name -> the edits to make.
        units: the units of the tokens' rows.
        n_tokens: run randomly chosen sequences until they hold so many tokens; None for all.
        batch_tokens: tokens per forward pass, padding included.
        seed: of the choice.
    """
    chosen = choose_sequences(tokens, n_tokens, seed)
    total = int(tokens.lengths[chosen].sum())
    n = np.zeros(units.size, dtype=np.int64)
    runs: Mapping[str, Variant] = {CLEAN: lambda part: [], **variants}
    ce, kl = ({name: np.zeros(units.size) for name in runs} for _ in range(2))
    row_of = np.cumsum(tokens.is_row) - 1  # [n] row of each token that is one
    with progress("loss", total=total, unit="tokens") as bar:
        for part in parts(tokens, chosen, batch_tokens):
            t = part.scored()
            unit = units.unit(row_of[part.token[t]])
            np.add.at(n, unit, 1)
            clean = model.logits(part.tokens)  # [B, T, V]
            for name, edits in runs.items():
                logits = clean if name == CLEAN else model.logits(part.tokens, edits=edits(part))
                for sums, terms in zip((ce, kl), score(logits, clean, part, t), strict=True):
                    np.add.at(sums[name], unit, terms)
            bar.advance(len(part.tokens))
    return Losses(n, ce, kl)


def choose_sequences(tokens: Tokens, n_tokens: int | None, seed: int) -> Ints:
    """Indices of randomly chosen sequences that hold at least `n_tokens` tokens together, in stored order."""
    every = np.arange(tokens.n_sequences)
    if n_tokens is None or tokens.n_sequences == 0:
        return every
    order = Permutation(tokens.n_sequences, seed)(every)
    enough = int(np.searchsorted(np.cumsum(tokens.lengths[order]), n_tokens)) + 1
    return np.sort(order[:enough])


def parts(tokens: Tokens, sequences: Ints, batch_tokens: int) -> Iterator[Part]:
    """The chosen sequences in groups of at most `batch_tokens` tokens with padding (at least one sequence each)."""
    group: list[int] = []
    longest = 0
    for sequence in sequences:
        length = int(tokens.lengths[sequence])
        if group and (len(group) + 1) * max(longest, length) > batch_tokens:
            yield _part(tokens, group)
            group, longest = [], 0
        group.append(int(sequence))
        longest = max(longest, length)
    if group:
        yield _part(tokens, group)


def _part(tokens: Tokens, group: Sequence[int]) -> Part:
    some = concatenate([tokens.sequences(i, i + 1) for i in group])
    token = np.concatenate([np.arange(tokens.starts[i], tokens.starts[i + 1]) for i in group])
    return Part(some, token, some.is_row & ~some.is_special)


def score(logits: Tensor, clean: Tensor, part: Part, t: Ints) -> tuple[Floats, Floats]:
    """Cross-entropy of the token after each t, and KL(clean || these), both [P] in nats, from logits [B, T, V]."""
    following = torch.from_numpy(part.tokens.ids[t + 1]).to(logits.device)
    ce, kl = logits.new_zeros(len(t), dtype=torch.float64), logits.new_zeros(len(t), dtype=torch.float64)
    for start in range(0, len(t), CHUNK):
        some = slice(start, start + CHUNK)
        p, q = (log_probabilities(each, part, t[some]) for each in (clean, logits))  # [P, V]
        ce[some] = -q.gather(1, following[some, None])[:, 0].double()
        kl[some] = (p.exp() * (p - q)).sum(1).double()
    return ce.cpu().numpy(), kl.cpu().numpy()


def log_probabilities(logits: Tensor, part: Part, t: Ints) -> Tensor:
    """[P, V] float32 log-probabilities at tokens t."""
    sequence, position = part.places(t)
    return logits[sequence.to(logits.device), position.to(logits.device)].float().log_softmax(dim=1)
