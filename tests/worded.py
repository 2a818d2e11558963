"""Rows that are words, and features that are sets of words: what labels should say is known.

    rows = worded(texts)        fit = word_fit(rows, [{"Paris", "Rome"}, {"red"}])

One token per word, the space in front of it included; a row is the word's one-hot vector. Judges that are right, constant, talkative,
refusing or failing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import Dictionary
from armillary.core.rows import TensorRows
from armillary.core.tokens import Document, Tokens
from toys import ReluEncoder, fit_of

CITIES, COLOURS, BEASTS = ("Paris", "Rome", "Lisbon", "Oslo"), ("red", "blue", "green", "white"), ("cat", "dog", "fox", "owl")
FILLER = ("we", "saw", "many", "things", "today", "and", "then", "went", "home", "again")


def sentences(n: int, seed: int = 0, length: int = 10) -> list[str]:
    """Texts of filler with, in some, a city behind "in", a colour or a beast."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(n):
        words = rng.choice(FILLER, size=length).tolist()
        for group, share in ((CITIES, 0.3), (COLOURS, 0.35), (BEASTS, 0.4)):
            if rng.random() < share:
                place = int(rng.integers(1, len(words)))
                words[place:place] = [*(["in"] if group is CITIES else []), str(rng.choice(group))]
        out.append(" ".join(words))
    return out


def worded(texts: Sequence[str]) -> TensorRows:
    """One row per word, in float64."""
    pieces = [re.findall(r"\s*\S+", text) for text in texts]
    vocabulary = {word: i for i, word in enumerate(sorted({piece.strip() for some in pieces for piece in some}))}
    lengths = [len(some) for some in pieces]
    ends = [np.cumsum([len(piece.encode()) for piece in some]) for some in pieces]
    spans = [np.stack([np.concatenate([[0], end[:-1]]), end], axis=1) for end in ends]
    ids = np.array([vocabulary[piece.strip()] for some in pieces for piece in some], np.int64)
    n = len(ids)
    tokens = Tokens(
        ids=ids, starts=np.cumsum([0, *lengths]), document=np.repeat(np.arange(len(texts)), lengths),
        position=np.concatenate([np.arange(length) for length in lengths]), span=np.concatenate(spans), is_special=np.zeros(n, bool),
        is_row=np.ones(n, bool), documents=[Document(text, f"d{i}") for i, text in enumerate(texts)],
    )  # fmt: skip
    return TensorRows(torch.eye(len(vocabulary), dtype=torch.float64)[torch.from_numpy(ids)], tokens=tokens)


def word_fit(rows: TensorRows, groups: Sequence[Sequence[str]]) -> Decomposition:
    """A feature per group of words, active on each of them, most on the first."""
    tokens = rows.tokens
    assert tokens is not None
    number = {tokens.text(token).strip(): int(tokens.ids[token]) for token in range(len(tokens))}
    weight = torch.zeros(len(groups), rows.x.shape[1], dtype=torch.float64)
    for feature, group in enumerate(groups):
        for place, word in enumerate(group):
            if word in number:
                weight[feature, number[word]] = 1.0 - 0.05 * place
    return fit_of(Dictionary.of_directions(weight), ReluEncoder(weight, torch.zeros(len(groups), dtype=torch.float64)), rows)


# ---------------------------------------------------------------- judges


@dataclass
class Perfect:
    """Labels with the marked words; says yes where a text has one of them, or where one of them is marked.

    Args:
        by_odds: tells probabilities.
    """

    by_odds: bool = True
    name: str = "perfect"
    asked: list[str] = field(default_factory=list)

    def ask(self, prompts: Sequence[str]) -> list[str | None]:
        self.asked += prompts
        return [self._answer(prompt) for prompt in prompts]

    def log_odds(self, prompts: Sequence[str], yes: str, no: str) -> list[float | None]:
        if not self.by_odds:
            return [None] * len(prompts)
        self.asked += prompts
        return [4.0 if self._answer(prompt) == "yes" else -4.0 for prompt in prompts]

    def _answer(self, prompt: str) -> str:
        marked = {word for part in re.findall(r"<<(?!like this)(.*?)>>", prompt) for word in part.split()}
        if not prompt.startswith("Description: "):
            return " ".join(sorted(marked))
        label = set(re.findall(r"\w+", prompt.splitlines()[0].removeprefix("Description: ")))
        text = next(line for line in prompt.splitlines() if line.startswith("Text"))
        words = marked if "marked" in text else set(re.findall(r"\w+", text.removeprefix("Text: ")))
        return "yes" if words & label else "no"


@dataclass
class Saying:
    """Labels well, and answers every question the same, or what `answer` makes of its number."""

    answer: object
    name: str = "saying"

    def ask(self, prompts: Sequence[str]) -> list[str | None]:
        made = [self.answer(i) if callable(self.answer) else self.answer for i in range(len(prompts))]
        return [Perfect()._answer(p) if not p.startswith("Description: ") else a for p, a in zip(prompts, made, strict=True)]

    def log_odds(self, prompts: Sequence[str], yes: str, no: str) -> list[float | None]:
        return [None] * len(prompts)


@dataclass
class HalfFailing:
    """Right, but fails on every other pair of questions."""

    name: str = "half failing"

    def ask(self, prompts: Sequence[str]) -> list[str | None]:
        return list(Perfect().ask(prompts))

    def log_odds(self, prompts: Sequence[str], yes: str, no: str) -> list[float | None]:
        return [None if (i // 2) % 2 else odds for i, odds in enumerate(Perfect().log_odds(prompts, yes, no))]
