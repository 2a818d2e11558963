"""Families of edits that differ in one number, their strength, and the tokens that they may change.

Letters: B sequences, T positions, D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
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
        is_batched: whether `make` takes a strength per sequence; if not, every strength is a pass of its own.
        name: equal exactly for equal families, so that what was written under one is not written again; "" if unknown.
    """

    make: Callable[[Strength, Where | None], Edit]
    length: float = 1.0
    most: float | None = None
    is_batched: bool = True
    name: str = ""


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
