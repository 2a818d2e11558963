"""A language model of a few lines in which two variables lie in known subspaces, and tasks about them.

    planted = planted_lm();  planted.lm;  planted.task;  planted.colour [3, D], planted.shape [3, D]: orthonormal rows

An entity's embedding is u_colour + u_shape + noise, at the site `STREAM`; each token then sees the sum of all before it, and one of six
hidden units, one per value, says which value the entity has of the attribute that was asked for:

    "e7 colour" -> " red"        "e7 shape" -> " round"
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from armillary.core.site import Site
from armillary.core.task import Pair, Prompt, Task

STREAM = Site.parse("path:stream")
VALUES = {"colour": ("red", "green", "blue"), "shape": ("round", "square", "flat")}
N_ENTITIES = 72


class Stub(nn.Module):
    """What makes a module a causal language model for `LanguageModel`: it has a head, and returns its logits under that name."""

    def can_generate(self) -> bool:
        return True

    def get_output_embeddings(self) -> nn.Module:
        head: nn.Module = self.head
        return head


class PlantedNet(Stub):
    """See the module.

    Args:
        table: [V, D] embeddings.
        reading: [D, 6] how hidden units read the stream.
        answers: [6] ids of the words they speak for.
    """

    def __init__(self, table: Tensor, reading: Tensor, answers: Tensor) -> None:
        super().__init__()
        self.embed = nn.Embedding.from_pretrained(table)
        self.stream = nn.Identity()
        self.reading, self.bias = nn.Parameter(reading), nn.Parameter(torch.tensor(-2.0))
        self.head = nn.Linear(6, len(table), bias=False)
        with torch.no_grad():
            self.head.weight.zero_()[answers, torch.arange(6)] = 6.0

    def forward(self, ids: Tensor) -> Any:
        seen = self.stream(self.embed(ids)).cumsum(1)  # [B, T, D]
        hidden = (seen @ self.reading + self.bias).relu()  # [B, T, 6]
        return SimpleNamespace(logits=self.head(hidden))


def word_tokenizer(words: list[str]) -> Any:
    """One token per word; spaces belong to no token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<pad>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<pad>")


@dataclass(frozen=True)
class Planted:
    """The model and what is known of it.

    Args:
        lm: a `LanguageModel`.
        task: "colour" and "shape" of entities: causes and isolations.
        colour, shape: [3, D] orthonormal rows, the value's own direction each.
        entities: [E, D] the entities' embeddings.
        values: of the entities, by attribute.
    """

    lm: Any
    task: Task
    colour: Tensor
    shape: Tensor
    entities: Tensor
    values: dict[str, list[str]]


@cache
def planted_lm(d: int = 16, *, rotated: bool = True, noise: float = 1.0, shapes: float = 1.0, seed: int = 0) -> Planted:
    """The model.

    Args:
        d: width, at least 10.
        rotated: whether the subspaces lie askew; else value v of the colour is dimension v, of the shape dimension 3 + v.
        noise: standard deviation of what else entities hold, in the remaining dimensions.
        shapes: length of the shape's part; with 0 the model does not know shapes.
        seed: of everything.
    """
    from armillary.lm.model import LanguageModel

    generator = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(d, d, generator=generator))[0] if rotated else torch.eye(d)
    words = [*(f"e{i}" for i in range(N_ENTITIES)), *VALUES, *(value for values in VALUES.values() for value in values), "the"]
    number = {word: i + 1 for i, word in enumerate(words)}
    values = {name: [known[(i // 3**j) % 3] for i in range(N_ENTITIES)] for j, (name, known) in enumerate(VALUES.items())}
    table = torch.zeros(len(words) + 1, d)
    for i in range(N_ENTITIES):
        table[1 + i] = axes[VALUES["colour"].index(values["colour"][i])] + shapes * axes[3 + VALUES["shape"].index(values["shape"][i])]
    table[1 : 1 + N_ENTITIES] += noise * torch.randn(N_ENTITIES, d - 8, generator=generator) @ axes[8:]
    for j, name in enumerate(VALUES):
        table[number[name]] = 2 * axes[6 + j]
    reading = torch.cat([axes[:6] + torch.repeat_interleave(axes[6:8], 3, dim=0)]).T.contiguous()
    answers = torch.tensor([number[value] for known in VALUES.values() for value in known])
    lm = LanguageModel(PlantedNet(table, reading, answers), word_tokenizer(words))
    return Planted(lm, entity_task(values), axes[:3], axes[3:6], table[1 : 1 + N_ENTITIES], values)


def prompt(values: dict[str, list[str]], i: int, attribute: str, opening: str = "") -> Prompt:
    """ "e7 colour" """
    low = len(opening)
    own = {name: known[i] for name, known in values.items()}
    text = f"{opening}e{i} {attribute}"
    return Prompt(text, f" {own[attribute]}", own, {"entity": (low, low + len(f"e{i}"))}, {"entity": f"e{i}"})


def entity_task(values: dict[str, list[str]]) -> Task:
    """Every attribute taken from entities that differ from the base in both; the last third of the entities are left to the test."""
    cut = 2 * N_ENTITIES // 3
    splits = [range(cut), range(cut, N_ENTITIES)]
    train, test = (tuple(pair for i in split for j in split for pair in _of(values, i, j)) for split in splits)
    return Task("planted", train, test, ("entity", "last"))


def _of(values: dict[str, list[str]], i: int, j: int) -> list[Pair]:
    if any(known[i] == known[j] for known in values.values()) or (3 * i + j * j) % 5:
        return []
    out = []
    for variable in values:
        for asked in values:
            base, source = prompt(values, i, asked, "the " if i % 2 else ""), prompt(values, j, asked)
            is_cause = asked == variable
            expected = f" {values[asked][j if is_cause else i]}"
            out.append(Pair(base, source, variable, expected, "cause" if is_cause else f"isolate:{asked}"))
    return out


# ---------------------------------------------------------------- rows whose class lies in a plane


class PlaneNet(Stub):
    """The next word is read off a subspace of the last word's embedding alone.

    Args:
        table: [V, D] embeddings.
        basis: [R, D] orthonormal rows.
        reading: [V, R] logits of every word.
    """

    def __init__(self, table: Tensor, basis: Tensor, reading: Tensor) -> None:
        super().__init__()
        self.embed = nn.Embedding.from_pretrained(table)
        self.stream = nn.Identity()
        self.basis = nn.Parameter(basis)
        self.head = nn.Linear(len(basis), len(table), bias=False)
        with torch.no_grad():
            self.head.weight.copy_(reading)

    def forward(self, ids: Tensor) -> Any:
        return SimpleNamespace(logits=self.head(self.stream(self.embed(ids)) @ self.basis.T))


#: Words to begin with, and answers.
BASES, ANSWERS = tuple(f"b{i}" for i in range(6)), tuple(f"a{i}" for i in range(3))


@cache
def plane_lm(d: int, seed: int = 0) -> Any:
    """A `LanguageModel` of width D that says answer v where the last word lies towards corner v of a triangle in a plane."""
    from armillary.lm.model import LanguageModel

    generator = torch.Generator().manual_seed(seed)
    basis = plane(d, seed)
    table = torch.randn(1 + len(BASES) + len(ANSWERS), d, generator=generator)
    reading = torch.zeros(len(table), len(basis))
    reading[-len(ANSWERS) :] = 2 * corners()[:, : len(basis)]
    return LanguageModel(PlaneNet(table, basis, reading), word_tokenizer([*BASES, *ANSWERS]))


def plane(d: int, seed: int = 0) -> Tensor:
    """[min(2, D), D] orthonormal rows: the plane."""
    return torch.linalg.qr(torch.randn(d, min(2, d), generator=torch.Generator().manual_seed(seed + 1)))[0].T.contiguous()


def corners() -> Tensor:
    """[3, 2] corners of a triangle."""
    angle = torch.arange(3) * 2 * torch.pi / 3
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def plane_pairs(rows: Any, labels: Any) -> Any:
    """`Pairs` whose sources have the given rows [N, D], with answers [N]."""
    from armillary.core.pairs import Pairs
    from armillary.core.rows import as_rows, width

    given = as_rows(rows)
    bases = [Prompt(word, " a0") for word in BASES]
    known = {(i, int(v)): Pair(one, one, "corner", f" a{int(v)}", "cause") for i, one in enumerate(bases) for v in range(3)}
    pairs = tuple(known[n % len(BASES), int(label)] for n, label in enumerate(labels))
    return Pairs(plane_lm(width(given.layout)), STREAM, "last", pairs, given)
