"""Prompts under teacher forcing: does a model go on as it should, how surprised is it, and what are its activations there?

An answer is right where every one of its tokens is the most likely one after the prompt and the answer's tokens before it: exactly what
greedy decoding would write. Batches are of prompts alike in length; no result depends on how they were cut.

Letters: B prompts, T positions, V vocabulary, D width of a site, n tokens of answers.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from armillary.core.model import At, Model, Where
from armillary.core.progress import progress
from armillary.core.remembering import remembered
from armillary.core.site import Site
from armillary.core.task import Prompt, tokens_at
from armillary.core.tokens import Bools, Ints, Tokens
from armillary.errors import InputError

#: Tokens per forward pass, padding included.
BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Prompted:
    """Prompts and how they go on, one token sequence each.

    Args:
        prompts: B.
        tokens: B sequences, each a prompt with its answer.
        first, stop: [B] where in its sequence an answer begins, and the token after it.
    """

    prompts: tuple[Prompt, ...]
    tokens: Tokens
    first: Ints
    stop: Ints

    @staticmethod
    def of(model: Model, prompts: Sequence[Prompt], answers: Sequence[str]) -> Prompted:
        """Prompts with the answer of each.

        Raises:
            InputError: an answer without a token, or one that changes the tokens of its prompt.
        """
        alone = model.tokenize([prompt.text for prompt in prompts])
        tokens = model.tokenize([prompt.text + answer for prompt, answer in zip(prompts, answers, strict=True)])
        ends = [_ends(alone, tokens, i, answer) for i, answer in enumerate(answers)]
        first, stop = np.array(ends, np.int64).reshape(-1, 2).T
        return Prompted(tuple(prompts), tokens, first, stop)

    def __len__(self) -> int:
        return len(self.prompts)

    def at(self, position: str) -> Ints:
        """[B] index in its sequence of each prompt's token at a position; see `core.task.tokens_at`."""
        return tokens_at(self.tokens, self.prompts, position)

    def take(self, which: Ints) -> Prompted:
        """Some of them, in the order given; one may be named several times."""
        return Prompted(tuple(self.prompts[i] for i in which), take(self.tokens, which), self.first[which], self.stop[which])

    def right(self, logits: Tensor) -> Tensor:
        """[B] bool, whether every token of an answer is the most likely one, from logits [B, T, V]."""
        row, found, wanted = self._read(logits)
        wrong = torch.zeros(len(self), dtype=torch.int64, device=logits.device)
        return wrong.index_add(0, row, (found.argmax(1) != wanted).long()) == 0

    def loss(self, logits: Tensor) -> Tensor:
        """[B] nats per token of the answers, from logits [B, T, V]; differentiable."""
        row, found, wanted = self._read(logits)
        nats = F.cross_entropy(found.float(), wanted, reduction="none")
        n = torch.from_numpy(self.stop - self.first).to(nats)
        return nats.new_zeros(len(self)).index_add(0, row, nats) / n

    def _read(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of every token of an answer: its prompt [n], the logits that predict it [n, V] and its id [n]."""
        place = np.arange(logits.shape[1])[None]
        row, column = np.nonzero((place >= self.first[:, None]) & (place < self.stop[:, None]))
        ids = self.tokens.ids[self.tokens.starts[row] + column]
        where, before, wanted = (torch.from_numpy(part).to(logits.device) for part in (row, column - 1, ids))
        return where, logits[where, before], wanted


def _ends(alone: Tokens, tokens: Tokens, i: int, answer: str) -> tuple[int, int]:
    """Where answer i begins in its sequence, and the token after it; special tokens at the end are no part of it."""
    ids, whole = plain(alone, i), plain(tokens, i)
    text = alone.documents[i].text if i < len(alone.documents) else ""
    if not answer.strip():
        raise InputError(f"the answer {answer!r} to {text!r} has no token; give every prompt an answer")
    if len(whole) <= len(ids) or not np.array_equal(whole[: len(ids)], ids):
        raise InputError(f"the tokenizer does not keep {text!r} apart from {answer!r}; put the space at the answer's beginning")
    return len(ids), len(whole)


def plain(tokens: Tokens, i: int) -> Ints:
    """Ids of sequence `i` without the special tokens at its end."""
    low, high = int(tokens.starts[i]), int(tokens.starts[i + 1])
    last = np.flatnonzero(~tokens.is_special[low:high])
    return tokens.ids[low : low + int(last[-1]) + 1] if len(last) else tokens.ids[low:low]


def kept_apart(model: Model, prompts: Sequence[Prompt], answers: Sequence[str]) -> Bools:
    """[B] whether each answer leaves its prompt's tokens as they are and adds some, as `Prompted.of` needs; an empty one asks nothing."""
    alone = model.tokenize([prompt.text for prompt in prompts])
    tokens = model.tokenize([prompt.text + answer for prompt, answer in zip(prompts, answers, strict=True)])
    return np.array([not answer.strip() or _goes_on(plain(alone, i), plain(tokens, i)) for i, answer in enumerate(answers)], bool)


def _goes_on(ids: Ints, whole: Ints) -> bool:
    return len(whole) > len(ids) and np.array_equal(whole[: len(ids)], ids)


def beginnings(model: Model, texts: Sequence[str]) -> Tokens:
    """Texts as prompts to go on from: without the special tokens that some tokenizers put at a text's end."""
    tokens = model.tokenize(list(texts))
    return _kept(tokens, _begins(tokens))


def _begins(tokens: Tokens) -> Bools:
    """[n] tokens up to each sequence's last one that is not special; at least its first."""
    sequence, content = np.repeat(np.arange(tokens.n_sequences), tokens.lengths), np.flatnonzero(~tokens.is_special)
    last = tokens.starts[:-1].copy()
    np.maximum.at(last, sequence[content], content)
    return np.asarray(np.arange(len(tokens)) <= last[sequence])


def _kept(tokens: Tokens, kept: Bools) -> Tokens:
    starts = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)[tokens.starts]
    names = ("ids", "document", "position", "span", "is_special", "is_row")
    return replace(tokens, starts=starts, **{name: getattr(tokens, name)[kept] for name in names})


def take(tokens: Tokens, which: Ints) -> Tokens:
    """Sequences in the order given; documents stay shared and keep their index."""
    lengths = tokens.lengths[which]
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    place = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths) + np.repeat(tokens.starts[which], lengths)
    names = ("ids", "document", "position", "span", "is_special", "is_row")
    return replace(tokens, starts=starts, **{name: getattr(tokens, name)[place] for name in names})


def by_length(lengths: Ints, batch_tokens: int = BATCH_TOKENS) -> Iterator[Ints]:
    """Indices of sequences in batches of at most `batch_tokens` tokens with padding, but one sequence at least; the longest come first."""
    order, done = np.argsort(-lengths, kind="stable"), 0
    while done < len(order):
        n = max(1, batch_tokens // max(1, int(lengths[order[done]])))
        yield order[done : done + n]
        done += n


def only_at(place: Ints) -> Where:
    """Chooses one token [B] of each sequence."""
    wanted = torch.from_numpy(place)[:, None]

    def where(at: At) -> Tensor:
        return at.position == wanted.to(at.position.device)

    return where


def prompt_key(prompt: Prompt) -> tuple[Hashable, ...]:
    """Equal for prompts that read the same and name the same places."""
    return prompt.text, tuple(sorted(prompt.spans.items()))


def answered(model: Model, prompts: Sequence[Prompt], answers: Sequence[str], *, batch_tokens: int = BATCH_TOKENS) -> Bools:
    """[B] whether the model goes on after each prompt with its answer; where nothing is asked (an empty answer) nothing can be wrong.

    Raises:
        InputError: a prompt and its answer are longer than the model's context; see also `Prompted.of`.
        CapabilityError: the model has no logits.
    """
    found, asked = np.ones(len(prompts), bool), [i for i, answer in enumerate(answers) if answer.strip()]

    def find(places: list[int]) -> list[bool]:
        which = [asked[place] for place in places]
        return _answered(model, Prompted.of(model, [prompts[i] for i in which], [answers[i] for i in which]), batch_tokens)

    found[asked] = remembered(model, "answered", [(prompts[i].text, answers[i]) for i in asked], find)
    return found


def _answered(model: Model, given: Prompted, batch_tokens: int) -> list[bool]:
    found = np.zeros(len(given), bool)
    with torch.no_grad(), progress("answers", total=len(given), unit="prompts") as bar:
        for which in by_length(given.tokens.lengths, batch_tokens):
            some = given.take(which)
            found[which] = some.right(model.logits(some.tokens)).cpu().numpy()
            bar.advance(len(which))
    return [bool(one) for one in found]


def activations_at(
    model: Model,
    prompts: Sequence[Prompt],
    places: Sequence[tuple[Site, str]],
    *,
    batch_tokens: int = BATCH_TOKENS,
) -> dict[tuple[Site, str], Tensor]:
    """{(site, position): [B, D] float32 on the CPU} activations of prompts, every site and position from one pass.

    Raises:
        InputError: a prompt without a token at a position, or one longer than the model's context.
    """
    keys = [(*prompt_key(prompt), str(site), position) for prompt in prompts for site, position in places]

    def find(new: list[int]) -> list[Tensor]:
        which = sorted({i // len(places) for i in new})
        row = {i: n for n, i in enumerate(which)}
        found = _activations_at(model, [prompts[i] for i in which], places, batch_tokens)
        return [found[places[i % len(places)]][row[i // len(places)]] for i in new]

    values = remembered(model, "activations", keys, find)
    return {place: torch.stack(values[i :: len(places)]) for i, place in enumerate(places)} if prompts else {}


def _activations_at(
    model: Model, prompts: Sequence[Prompt], places: Sequence[tuple[Site, str]], batch_tokens: int
) -> dict[tuple[Site, str], Tensor]:
    tokens = model.tokenize([prompt.text for prompt in prompts])
    at = {position: tokens_at(tokens, prompts, position) for _, position in places}
    sites = list(dict.fromkeys(site for site, _ in places))
    found: dict[tuple[Site, str], Tensor] = {}
    with torch.no_grad(), progress("activations", total=len(prompts), unit="prompts") as bar:
        for which in by_length(tokens.lengths, batch_tokens):
            values = model.capture(take(tokens, which), sites)
            for site, position in places:
                x = values[site][torch.arange(len(which)), torch.from_numpy(at[position][which])].float().cpu()
                found.setdefault((site, position), x.new_zeros(len(prompts), x.shape[1]))[torch.from_numpy(which)] = x
            bar.advance(len(which))
    return found
