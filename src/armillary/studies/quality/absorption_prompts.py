"""The published prompts of first letters: rows of one token each, the word of "{word} has the first letter:" after some examples.

    rows = letter_prompts(lm, "resid_post.3")
    report = arm.studies.absorption.run(arm.Subject(fit, rows=rows), config=arm.studies.absorption.Config(form="letter"))

Chanin et al. (2024), arXiv 2409.14507. Letters: B prompts, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from armillary.core.model import Model
from armillary.core.rows import TensorRows
from armillary.core.site import Site
from armillary.core.tokens import Bools, Tokens
from armillary.errors import InputError
from armillary.studies.quality.token_properties import is_word


def letter_prompts(
    model: Model, site: Site | str, *, n_words: int = 2000, n_examples: int = 10, batch_size: int = 32, seed: int = 0
) -> TensorRows:
    """Activations of words whose first letter is asked for; the rows' tokens are the words, in their prompts.

    Args:
        model: the language model.
        site: where.
        n_words: single tokens of the model's vocabulary that are words, drawn at random.
        n_examples: words with their letter that precede each.
        batch_size: prompts per forward pass; speed and memory only.
        seed: of the draw.

    Raises:
        InputError: the vocabulary has no words, or they are cut into several tokens within a prompt.
    """
    known = [text for text in dict.fromkeys(model.vocabulary()) if is_word(text, "letter")]
    if len(known) < 2:
        raise InputError(f"the vocabulary of {model.name!r} has {len(known)} words of two letters or more; at least 2 are needed")
    rng = np.random.default_rng(seed)
    words = [known[i] for i in rng.permutation(len(known))[:n_words]]
    tokens = model.tokenize([_prompt(word, _examples(word, known, n_examples, rng)) for word in words])
    is_row = _places(tokens, words)
    if not is_row.any():
        raise InputError(f"no word of {model.name!r} is one token in its prompt; use the tokens of plain text instead")
    chosen = replace(tokens, is_row=is_row)
    x = _values(model, chosen, site, batch_size)
    return TensorRows(x, tokens=chosen, source=model.rows(words[0], site).layout[0][0])


def _examples(word: str, known: Sequence[str], n: int, rng: np.random.Generator) -> list[str]:
    """Other words, drawn at random."""
    drawn = rng.choice(len(known), size=min(n + 1, len(known)), replace=False)
    return [known[i] for i in drawn if known[i] != word][:n]


def _prompt(word: str, examples: Sequence[str]) -> str:
    shown = "".join(f"{one} has the first letter: {one.strip()[0].upper()}\n" for one in examples)
    return f"{shown}{word} has the first letter:"


def _places(tokens: Tokens, words: Sequence[str]) -> Bools:
    """[n] whether a token is exactly its prompt's last word."""
    found = np.zeros(len(tokens), bool)
    tail = len(b" has the first letter:")
    for b, word in enumerate(words):
        own = np.arange(tokens.starts[b], tokens.starts[b + 1])
        document = tokens.documents[int(tokens.document[own].max())]
        end = len(document.data) - tail
        span = tokens.span[own]
        found[own[(span[:, 0] == end - len(word.encode())) & (span[:, 1] == end) & ~tokens.is_special[own]]] = True
    return found


def _values(model: Model, tokens: Tokens, site: Site | str, batch_size: int) -> torch.Tensor:
    """[N, D] of the rows."""
    parts = []
    with torch.no_grad():
        for part in tokens.batches(batch_size):
            x = model.capture(part, [site])[site]  # [B, T, D]
            parts.append(x[torch.from_numpy(part.spread(part.is_row, fill=False)).to(x.device)].float().cpu())
    return torch.cat(parts)
