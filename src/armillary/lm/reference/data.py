"""Rows of tokens for training: which ones a step sees is a pure function of (seed, step), so a run resumes exactly.

Real text is one long packed array, read at random places; world text is written anew in blocks of `BLOCK_STEPS` steps, so
no document comes twice. Rows start with BOS, as prompts of the finished model do (every second one where `bare_rows` is set).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from armillary.core.tokens import Document
from armillary.lm.reference.corpus import real_documents, world_documents
from armillary.lm.reference.recipes import Recipe
from armillary.lm.reference.tokenizer import BOS, train_tokenizer

Tokens = NDArray[np.uint16]

BLOCK_STEPS = 500
BLOCK_DOCUMENTS = {"world": 9_000, "reading": 2_500}  # written per block; about as many as its rows can show
TOKENIZER_DOCUMENTS = 16_000  # world documents the tokenizer is trained on, beside all real ones
READING = {"multiple_choice": 0.4, "colours": 0.5, "repeat": 0.1}  # shares of the documents of the third source
SOURCES = ("real", "world", "reading")


def pack(tokenizer: Tokenizer, documents: Iterable[Document]) -> tuple[Tokens, NDArray[np.int64]]:
    """All documents behind one another, a BOS before each: (tokens [N], first positions of the documents [n])."""
    parts: list[Tokens] = []
    waiting = iter(documents)
    while batch := [document.text for document in islice(waiting, 1000)]:
        for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            parts.append(np.array([BOS, *encoding.ids], dtype=np.uint16))
    starts = np.cumsum([0, *map(len, parts)])[:-1]
    return np.concatenate(parts), starts


def recipe_tokenizer(recipe: Recipe) -> Tokenizer:
    """The tokenizer of a recipe, trained on the training half of the corpus. It does not depend on the recipe's seed."""
    texts = (document.text for document in _tokenizer_documents())
    return train_tokenizer(texts, recipe.vocabulary, prepend_bos=recipe.architecture == "llama")


def _tokenizer_documents() -> Iterator[Document]:
    yield from real_documents("seen")
    yield from world_documents(0, TOKENIZER_DOCUMENTS)


def mixture(recipe: Recipe) -> tuple[int, int, int]:
    """Rows of (real, world, reading) in one batch."""
    real, reading = (round(recipe.rows * share) for share in (recipe.shares[0], recipe.shares[2]))
    return real, recipe.rows - real - reading, reading


class Rows:
    """The training rows of one recipe. `batch(step)` is deterministic."""

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer) -> None:
        self.recipe = recipe
        self.tokenizer = tokenizer
        self._block = -1
        self._written: dict[str, tuple[Tokens, NDArray[np.int64]]] = {}

    @cached_property
    def real(self) -> Tokens:
        """The packed training half of the real text [N]."""
        return pack(self.tokenizer, real_documents("seen"))[0]

    def batch(self, step: int) -> Tokens:
        """Rows [B, context + 1] of a step: real text first, then world, then reading."""
        rng = np.random.default_rng([self.recipe.seed, step])
        n_real, n_world, n_reading = mixture(self.recipe)
        self._write(step // BLOCK_STEPS)
        length = self.recipe.context + 1
        starts = rng.integers(0, len(self.real) - length, n_real)
        rows = [self.real[i : i + length] for i in starts]
        for source, n in (("world", n_world), ("reading", n_reading)):
            tokens, begins = self._written[source]
            begins = begins[begins < len(tokens) - length]
            bare = np.arange(len(rows), len(rows) + n) % 2 * self.recipe.bare_rows  # 1 where the BOS is left out
            rows += [tokens[i : i + length] for i in rng.choice(begins, n) + bare]
        batch = np.stack(rows)
        batch[:: 1 + self.recipe.bare_rows, 0] = BOS
        return batch

    def _write(self, block: int) -> None:
        """Write the world text of a block, unless it is the one at hand."""
        if block == self._block:
            return
        seed, n = self.recipe.seed + 1, BLOCK_DOCUMENTS["world"]  # seed 0 wrote the tokenizer's text
        world = world_documents(seed, n, start=block * n, mcq_share=0.0)
        self._written = {"world": pack(self.tokenizer, world), "reading": pack(self.tokenizer, self._reading(block))}
        self._block = block

    def _reading(self, block: int) -> Iterator[Document]:
        """Multiple choice and the exercises that lead to it."""
        for kind, share in READING.items():
            n = round(BLOCK_DOCUMENTS["reading"] * share)
            yield from world_documents(-self.recipe.seed - 1, n, start=block * n, only=kind)
