"""Families of edits that differ in one number, their strength, and the tokens that they may change.

Several strengths of several families go through the model together: every sequence has the edit and the strength that are its own.

Letters: B sequences, T positions, D width, P prompts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor

from armillary.core.decomposition import Decomposition
from armillary.core.edits import Add, Clamp, Strength, Toward
from armillary.core.model import At, Edit, Where
from armillary.core.rows import tensor_sha256
from armillary.core.site import Site
from armillary.core.tokens import Tokens
from armillary.errors import InputError

Position = Literal["all", "last", "generated"]


@dataclass(frozen=True)
class Family:
    """Edits that differ in one number, their strength.

    Args:
        make: from a strength (a number, or one per sequence [B]) and the tokens to change, the edit.
        length: how far strength 1 moves an activation; strengths are looked for around the site's mean length over it.
        most: the largest strength that makes sense, 1 for a way to a point; None where there is none.
        is_batched: whether `make` takes a strength per sequence, and its edits some of the sequences; if not, every strength is a pass of
            its own.
        name: equal exactly for equal families, so that what was written under one is not written again; "" if unknown.
    """

    make: Callable[[Strength, Where | None], Edit]
    length: float = 1.0
    most: float | None = None
    is_batched: bool = True
    name: str = ""

    @property
    def key(self) -> Hashable:
        """Equal for families that are known to be equal: those of one name, or one that has none and itself."""
        return self.name or self


def adding(site: Site | str, direction: Tensor) -> Family:
    """x + s direction, for a direction [D].

    Raises:
        InputError: a direction of length 0.
    """
    length = float(direction.norm())
    if not length > 0:
        raise InputError("the direction has length 0, so no strength changes anything")
    name = f"add {site} {tensor_sha256(direction)}"
    return Family(lambda strength, where: Add(site, direction, strength, where), length, name=name)


def moving(site: Site | str, point: Tensor) -> Family:
    """x + s (point - x), for a point [D] such as a region's centroid; strengths from 0 to 1."""
    name = f"toward {site} {tensor_sha256(point)}"
    return Family(lambda strength, where: Toward(site, point, strength, where), most=1.0, name=name)


def clamping(fit: Decomposition, feature: int, site: Site | str) -> Family:
    """The feature's code set to s; note that 0 also is a change.

    Raises:
        InputError: a feature of several atoms.
    """
    atom = fit.dictionary.atoms[fit.dictionary.atoms_of([feature])]
    digest = hashlib.sha256(f"{feature} {tensor_sha256(fit.dictionary.atoms)}".encode()).hexdigest()
    Clamp(site, fit, feature, 0.0)
    length = float(atom.norm())
    return Family(lambda strength, where: Clamp(site, fit, feature, strength, where), length, name=f"clamp {site} {digest}")


# ---------------------------------------------------------------- several at once

#: A family and a strength.
Asked = tuple[Family, float]


def key_of(asked: Asked) -> Hashable:
    """Equal for equal edits."""
    return asked[0].key, asked[1]


@dataclass(frozen=True)
class Beside(Edit):
    """Sequences under edits of their own; those of no part stay as they are.

    Args:
        site: what all parts write.
        parts: sequences, and the edit of these.
        where: of the whole; parts choose among its tokens.
    """

    site: Site | str
    parts: tuple[tuple[slice, Edit], ...]
    where: Where | None = None

    @property
    def reads(self) -> tuple[Site, ...]:
        return tuple(dict.fromkeys(site for _, edit in self.parts for site in edit.reads))

    def apply(self, x: Tensor, at: At) -> Tensor:
        out = x.clone()
        for some, edit in self.parts:
            out[some] = edit(x[some], _part(at, some))
        return out


def _part(at: At, some: slice) -> At:
    """Where an edit of some sequences finds itself."""
    rest = {name: getattr(at, name)[some] for name in ("where", "position", "row", "generated")}
    return replace(at, **rest, read=lambda site: at.read(site)[some])


def in_parts(asked: Sequence[Asked], size: int) -> Iterator[list[Asked]]:
    """What goes through the model together, in parts of much the same size, at most `size`; alone what is not batched."""
    batched = [one for one in asked if one[0].is_batched]
    n = -(-len(batched) // size)
    for i in range(n):
        yield batched[i * len(batched) // n : (i + 1) * len(batched) // n]
    for one in asked:
        if not one[0].is_batched:
            yield [one]


def edits_of(asked: Sequence[Asked], n: int, where: Where | None) -> list[Edit]:
    """The edits of sequences that stand side by side: n for each family and strength, in their order."""
    parts: dict[Site, list[tuple[slice, Edit]]] = {}
    first = 0
    for _, same in groupby(asked, key=lambda one: one[0].key):
        run = list(same)
        family, strengths = run[0][0], [strength for _, strength in run]
        edit = family.make(torch.tensor(strengths).repeat_interleave(n) if family.is_batched else strengths[0], where)
        if len(run) == len(asked):
            return [edit]
        last = first + n * len(run)
        parts.setdefault(edit.writes, []).append((slice(first, last), edit))
        first = last
    return [Beside(site, tuple(some)) for site, some in parts.items()]


# ---------------------------------------------------------------- which tokens


def positions(position: Position, tokens: Tokens) -> Where:
    """Which tokens are changed of prompts and of what is written after them.

    Args:
        position: "all" but those that the tokenizer adds; "last", the prompt's last token alone; "generated", that one and every token
            written, so that all that is written is written under the edit and nothing of the prompt is changed before it.
        tokens: the prompts; `Where` goes with these only.
    """
    if position == "all":
        special = torch.from_numpy(tokens.is_special)
        return lambda at: (at.row < 0) | ~special.to(at.row.device)[at.row.clamp_min(0)]
    return is_last if position == "last" else lambda at: at.generated | is_last(at)


def is_last(at: At) -> Tensor:
    """[B, T] the last token of each prompt."""
    is_prompt = at.where & ~at.generated
    last = at.position.masked_fill(~is_prompt, -1).amax(1, keepdim=True)
    return is_prompt & (at.position == last)


def every(tokens: Tokens) -> None:
    """No restriction: special tokens too."""
    return
