"""Generation with edits: a short loop of our own, so that every edit sees the right positions with the cache on.

Prompts of different lengths are padded on the left and masked; a token's position counts from its own prompt's beginning.

Letters: B sequences, T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from armillary.core.model import Edit, Generation
from armillary.core.tokens import Tokens
from armillary.errors import InputError
from armillary.lm.hooks import Frame, Pass

if TYPE_CHECKING:
    from armillary.lm.model import LanguageModel


#: Likeliest tokens that are looked at first: they nearly always hold enough of the probability, and sorting all takes several times as
#: long.
FIRST = 256
#: Temperatures below this take the most likely token: logits divided by it would overflow.
COLD = 1e-6


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn.

    Args:
        temperature: 0 takes the most likely token; otherwise logits are divided by it.
        top_p: draw from the smallest set of tokens that holds this probability.
        seed: of the draws; or one per sequence, so that what is drawn for it does not depend on which others are beside it.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | tuple[int, ...] = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf") or not 0 < self.top_p <= 1:
            raise InputError(f"temperature must be at least 0 and top_p in (0, 1], got {self.temperature} and {self.top_p}")

    def generators(self, n: int) -> list[torch.Generator]:
        """One for all of n sequences, or one for each.

        Raises:
            InputError: not as many seeds as sequences.
        """
        seeds = [self.seed] if isinstance(self.seed, int) else list(self.seed)
        if not isinstance(self.seed, int) and len(seeds) != n:
            raise InputError(f"seed is one number or one for each of {n} sequences, got {len(seeds)}")
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    def draw(self, logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """[B] token ids from logits [B, V]."""
        if self.temperature < COLD:
            return logits.argmax(-1)
        probability = (logits.float() / self.temperature).softmax(-1).cpu()
        ordered, index = self._likeliest(probability)
        ordered[ordered.cumsum(-1) - ordered >= self.top_p] = 0  # the first token always stays
        return index.gather(1, self._places(ordered, generators))[:, 0].to(logits.device)

    def _likeliest(self, probability: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities [B, K] of the likeliest tokens, falling, and their ids: all that may be drawn."""
        if not isinstance(self.seed, int) and self.top_p < 1 and probability.shape[1] > FIRST:
            ordered, index = probability.topk(FIRST, dim=-1)
            is_short = ordered.cumsum(-1)[:, -1] < self.top_p  # told for each row by itself: the two ways order ties differently
            return self._longer(probability, ordered, index, is_short) if bool(is_short.any()) else (ordered, index)
        return probability.sort(dim=-1, descending=True)

    def _longer(self, probability: Tensor, ordered: Tensor, index: Tensor, is_short: Tensor) -> tuple[Tensor, Tensor]:
        """The same with all tokens of some rows, and 0 after the likeliest ones of the others."""
        more = probability.shape[1] - ordered.shape[1]
        ordered, index = nn.functional.pad(ordered, (0, more)), nn.functional.pad(index, (0, more))
        ordered[is_short], index[is_short] = probability[is_short].sort(dim=-1, descending=True)
        return ordered, index

    def _places(self, weight: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """[B, 1] drawn in proportion to weights [B, V]."""
        if isinstance(self.seed, int):
            return torch.multinomial(weight, 1, generator=generators[0])
        below = weight.double().cumsum(1)
        point = torch.stack([torch.rand(1, generator=one, dtype=torch.float64) for one in generators]) * below[:, -1:]
        return torch.searchsorted(below, point, right=True).clamp_max(weight.shape[1] - 1)


def generate(
    lm: LanguageModel, tokens: Tokens, *, max_new_tokens: int, edits: Sequence[Edit], sampling: Sampling, use_cache: bool = True
) -> list[Generation]:
    """Continue each sequence of `tokens` by at most `max_new_tokens`, stopping at the model's end-of-text token.

    Raises:
        InputError: prompt and continuation do not fit the context; nothing is cut off.
    """
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    longest = int(tokens.lengths.max(initial=0)) + max_new_tokens
    if lm.context is not None and longest > lm.context:
        makes = f"the longest prompt and {max_new_tokens} new tokens make {longest}"
        raise InputError(f"{makes}, {lm.name} reads at most {lm.context}; ask for fewer")
    writer = _Writer(lm, tokens, use_cache)
    generators = sampling.generators(tokens.n_sequences)
    with lm.hooked(edits=edits) as hooks:
        for _ in range(max_new_tokens if tokens.n_sequences else 0):
            writer.add(sampling.draw(writer.next_logits(hooks), generators))
            if writer.is_done:
                break
    return [_generation(lm, tokens.sequences(i, i + 1), ids) for i, ids in enumerate(writer.written())]


def _generation(lm: LanguageModel, prompt: Tokens, ids: list[int]) -> Generation:
    """The continuation as text: what it adds to the prompt, since some tokenizers drop the space in front of a lone first word."""
    if lm.tokenizer is None:
        return Generation("", "", tuple(ids))
    before, whole = (
        lm.tokenizer.decode(part, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for part in (prompt.ids.tolist(), [*prompt.ids.tolist(), *ids])
    )
    told = {int(i) for i in prompt.document if i >= 0}
    text = "".join(prompt.documents[i].text for i in sorted(told)) if told else before
    if whole.startswith(before):
        return Generation(text, whole[len(before) :], tuple(ids))
    return Generation(text, lm.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False), tuple(ids))


class _Writer:
    """The batch as it grows: ids [B, T], padded on the left, and the cache."""

    def __init__(self, lm: LanguageModel, tokens: Tokens, use_cache: bool) -> None:
        self._lm, self._use_cache = lm, use_cache
        prompts, mask = tokens.padded()
        prompts = np.where(mask, prompts, lm.pad_id)
        rows = tokens.spread(np.arange(len(tokens)), -1)
        flip = [_to_the_right(part, mask) for part in (prompts, mask, rows)]
        self._ids, self._mask, self._row = (torch.from_numpy(part) for part in flip)
        self._n_prompt = self._ids.shape[1]
        self._ended = torch.zeros(len(self._ids), dtype=torch.bool)
        self._ends = _end_ids(lm)
        self._cache: Any = None
        self._n_cached = 0

    @property
    def is_done(self) -> bool:
        return bool(self._ended.all())

    def next_logits(self, hooks: Pass) -> Tensor:
        """[B, V] of the next token."""
        position = (self._mask.cumsum(1) - 1).clamp_min(0)
        generated = torch.arange(self._ids.shape[1]).expand_as(self._ids) >= self._n_prompt
        frame = Frame(self._mask, position, self._row, generated).columns(self._n_cached)
        output = hooks.run(frame, lambda: self._call(position))
        self._cache = getattr(output, "past_key_values", None) if self._use_cache else None
        self._n_cached = 0 if self._cache is None else self._ids.shape[1]  # recurrent models keep no keys: all is run again
        logits: Tensor = output.logits[:, -1]
        return logits

    def _call(self, position: Tensor) -> Any:
        lm, new = self._lm, slice(self._n_cached, None)
        extra: dict[str, Any] = {"use_cache": self._use_cache}
        if self._cache is not None:
            extra["past_key_values"] = self._cache
        if "position_ids" in lm.call_names:
            extra["position_ids"] = position[:, new].to(lm.device)
        return lm.module(input_ids=self._ids[:, new].to(lm.device), attention_mask=self._mask.long().to(lm.device), **extra)

    def add(self, token: Tensor) -> None:
        """Append a drawn token [B] to each sequence; ended ones are given padding, which is masked."""
        token = token.cpu()
        self._ended |= torch.isin(token, self._ends)
        pad = torch.full_like(token, self._lm.pad_id)
        self._ids = torch.cat([self._ids, torch.where(self._ended, pad, token)[:, None]], dim=1)
        self._mask = torch.cat([self._mask, ~self._ended[:, None]], dim=1)
        self._row = torch.cat([self._row, torch.full_like(token, -1)[:, None]], dim=1)

    def written(self) -> list[list[int]]:
        """The new tokens of each sequence, without padding."""
        new, mask = self._ids[:, self._n_prompt :], self._mask[:, self._n_prompt :]
        return [row[keep].tolist() for row, keep in zip(new, mask, strict=True)]


def _to_the_right(values: Any, mask: Any) -> Any:
    """Rows [B, T] with the real tokens moved to the right end; the padding keeps its fill."""
    order = np.argsort(mask, axis=1, kind="stable")  # padding (False) first, real tokens in their order
    return np.take_along_axis(values, order, axis=1)


def _end_ids(lm: LanguageModel) -> Tensor:
    """The token ids that end a text."""
    config = getattr(lm.module, "generation_config", None)
    found = [getattr(config, "eos_token_id", None), getattr(lm.tokenizer, "eos_token_id", None)]
    ids = {one for item in found if item is not None for one in (item if isinstance(item, list | tuple) else [item])}
    return torch.tensor(sorted(ids), dtype=torch.int64)
