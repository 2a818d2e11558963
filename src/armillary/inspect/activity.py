"""Activity: every activation of a few features, from one streaming pass over the rows, and the text around any of them.

Where `contexts` keeps the best rows of all features, this keeps all rows of a few: what labels are made from and scored on. A live model is
read once.

Letters: N rows, f features asked for, m rows on which one of them is active.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from armillary.core.columns import columns_for
from armillary.core.decomposition import Decomposition
from armillary.core.method import Consumer, Pass
from armillary.core.rows import Batch, Rows
from armillary.core.statistics import Floats
from armillary.core.tokens import Bools, Ints, Tokens
from armillary.errors import InputError
from armillary.inspect.windows import is_text

#: A region counts as active where it is more responsible than all others together.
MEMBER = 0.5
#: Coefficients that are looked at together, which bounds the memory of dense codes.
CHUNK = 1 << 20
#: Share of a text's largest activation from which on a token is marked.
MARKED = 0.3


@dataclass(frozen=True)
class Example:
    """A stretch of a text with a feature's activation on each of its tokens.

    Args:
        tokens: the texts of whole tokens; a character that several tokens share is with the last of them.
        activations: of each token, 0 where the feature is not active; on a character that several tokens share the largest of theirs is
            with its last one, and those that show nothing by themselves have 0.
        token: [t] which tokens of the rows' `Tokens` these are.
        document: index of the document.
    """

    tokens: tuple[str, ...]
    activations: tuple[float, ...]
    token: Ints = field(repr=False)
    document: int = -1

    @property
    def text(self) -> str:
        return "".join(self.tokens)

    @property
    def value(self) -> float:
        """The largest activation."""
        return max(self.activations, default=0.0)

    def is_marked(self, share: float = MARKED) -> tuple[bool, ...]:
        """Of each token whether its activation is at least this share of the largest."""
        least = share * self.value
        return tuple(value > 0 and value >= least for value in self.activations)

    def marked(self, share: float = MARKED) -> str:
        """The text with << >> around the stretches of marked tokens."""
        return marked(self.tokens, self.is_marked(share))


def marked(tokens: Sequence[str], is_marked: Sequence[bool]) -> str:
    """Tokens joined, with << >> around every stretch of marked ones; a leading space stays outside, unless it is all there is.

    Tokens without text, which hold bytes of a character that is shown later, begin and end no stretch.
    """
    parts: list[str] = []
    stretch = ""
    for text, on in [*((text, on) for text, on in zip(tokens, is_marked, strict=True) if text), ("", False)]:
        if on:
            stretch += text
            continue
        inner = stretch.lstrip() or stretch
        parts.append(f"{stretch[: len(stretch) - len(inner)]}<<{inner}>>" if inner else "")
        parts.append(text)
        stretch = ""
    return "".join(parts)


@dataclass(frozen=True)
class Active:
    """Where one feature is active.

    Args:
        row: [m] rows, ascending.
        value: [m] activations.
    """

    row: Ints
    value: Floats

    def __len__(self) -> int:
        return len(self.row)

    def among(self, is_in: Bools) -> Active:
        """Only the rows chosen by [N] bool."""
        kept = is_in[self.row]
        return Active(self.row[kept], self.value[kept])

    def from_value(self, least: float) -> Active:
        """Only activations of at least this value."""
        kept = self.value >= least
        return Active(self.row[kept], self.value[kept])

    def level(self, n: int) -> float:
        """The n-th largest activation: what is below is not among the n strongest; 0 where there are no more than n."""
        return 0.0 if len(self) <= n else float(np.partition(self.value, len(self) - n)[len(self) - n])

    def on(self, tokens: Tokens) -> Floats:
        """[n] activation on every token, 0 where there is none."""
        found = np.zeros(len(tokens))
        found[tokens.rows[self.row]] = self.value
        return found


@dataclass(frozen=True)
class Activations:
    """All activations of some features.

    Args:
        of: feature -> where it is active.
        seen: [N] bool, rows that were read and are text.
        tokens: the rows' tokens.
    """

    of: Mapping[int, Active]
    seen: Bools
    tokens: Tokens


class Activity(Consumer):
    """The pass; a feature is active where its activation is above 0 (and above what its encoder calls firing; a region: above a half).

    Args:
        fit: whose features.
        rows: where to look, with tokens; special tokens are left out.
        features: which.
        batch_size: rows per batch; changes speed only.
        max_rows: read the first rows only; None for all.

    Raises:
        InputError: a feature that does not exist, or rows without text.
        ShapeError: the rows do not hold what the fit reads.
    """

    def __init__(
        self, fit: Decomposition, rows: Rows, features: Sequence[int], *, batch_size: int = 4096, max_rows: int | None = None
    ) -> None:
        tokens = rows.tokens
        if tokens is None or not tokens.documents:
            raise InputError("labels are made from text, but these rows have none; harvest them, or give TensorRows its tokens")
        fit.dictionary.atoms_of(list(dict.fromkeys(features)))
        self.fit, self.rows, self.tokens, self.max_rows = fit, rows, tokens, max_rows
        self.features = np.array(list(dict.fromkeys(int(feature) for feature in features)), np.int64)
        self.columns = columns_for(fit, rows.layout)[0]
        kinds = [fit.dictionary.feature(int(feature)).kind for feature in self.features]
        self.least = torch.tensor([MEMBER if kind == "region" else fit.encoder.fires or 0.0 for kind in kinds])
        n_batches = None if max_rows is None else -(-max_rows // batch_size)
        self.order, self.is_done = Pass(batch_size, n_batches=n_batches), False
        self.parts: list[tuple[Ints, Ints, Floats]] = []  # row, place among the features, value
        self.seen: list[Ints] = []

    def next_pass(self) -> Pass | None:
        return None if self.is_done else self.order

    def end_pass(self) -> None:
        self.is_done = True

    def update(self, batch: Batch) -> None:
        kept = is_text(self.rows, batch.row) & (batch.row < (self.max_rows or np.iinfo(np.int64).max))
        x = batch.x[torch.from_numpy(kept).to(batch.x.device)][:, self.columns].to(self.fit.dictionary.atoms.device)
        row = batch.row[kept]
        self.seen.append(row)
        step = max(1, CHUNK // max(self.fit.dictionary.n_atoms, 1))
        for start in range(0, len(row), step):
            self._take(x[start : start + step], row[start : start + step])

    def _take(self, x: Tensor, row: Ints) -> None:
        value = self.fit.activations(x).columns(self.features.tolist()).double().cpu()  # [n, f]
        which, place = (value > self.least.double()).nonzero(as_tuple=True)
        self.parts.append((row[which.numpy()], place.numpy(), value[which, place].numpy()))

    def state(self) -> Mapping[str, Any]:
        row, place, value = self._joined()
        seen = np.concatenate([np.zeros(0, np.int64), *self.seen])
        tensors = {name: torch.from_numpy(array) for name, array in (("row", row), ("place", place), ("value", value), ("seen", seen))}
        return {**tensors, "is_done": self.is_done}

    def load(self, state: Mapping[str, Any]) -> None:
        self.parts = [(state["row"].numpy(), state["place"].numpy(), state["value"].numpy())]
        self.seen, self.is_done = [state["seen"].numpy()], state["is_done"]

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        joined = {name: torch.cat([state[name] for state in states]) for name in ("row", "place", "value", "seen")}
        self.load({**joined, "is_done": self.is_done})

    def _joined(self) -> tuple[Ints, Ints, Floats]:
        rows, places, values = zip(*self.parts, strict=True) if self.parts else ((), (), ())
        return (
            np.concatenate([np.zeros(0, np.int64), *rows]),
            np.concatenate([np.zeros(0, np.int64), *places]),
            np.concatenate([np.zeros(0), *values]),
        )

    def finish(self) -> Activations:
        row, place, value = self._joined()
        order = np.lexsort((row, place))
        row, place, value = row[order], place[order], value[order]
        ends = np.searchsorted(place, np.arange(len(self.features) + 1))
        seen = np.zeros(self.tokens.n_rows, bool)
        seen[np.concatenate([np.zeros(0, np.int64), *self.seen])] = True
        stretches = zip(self.features.tolist(), ends[:-1], ends[1:], strict=True)
        return Activations({feature: Active(row[a:b], value[a:b]) for feature, a, b in stretches}, seen, self.tokens)


# ---------------------------------------------------------------- text


def examples(tokens: Tokens, stretches: Sequence[Ints], value: Floats) -> list[Example]:
    """Stretches of tokens [t], each of one document, with the activation on every token, [n], of the rows' tokens."""
    return [_example(tokens, stretch, value) for stretch in stretches]


def _example(tokens: Tokens, stretch: Ints, value: Floats) -> Example:
    texts, is_open = zip(*_texts(tokens, stretch), strict=True)
    return Example(texts, tuple(_shown(texts, is_open, value[stretch].tolist())), stretch, int(tokens.document[stretch[0]]))


def _shown(texts: Sequence[str], is_open: Sequence[bool], values: Sequence[float]) -> Iterator[float]:
    """The activation of each token; what is active on bytes of a character is active where that is shown, not on a space before."""
    waiting = 0.0
    for text, is_part, value in zip(texts, is_open, values, strict=True):
        is_shown = bool(text.strip()) or not is_part
        yield max(value, waiting) if is_shown else 0.0
        # A token that ends one character and begins another hands on its own activation only.
        waiting = (value if is_shown else max(value, waiting)) if is_part else 0.0


def _texts(tokens: Tokens, stretch: Ints) -> Iterator[tuple[str, bool]]:
    """The text of each token, and whether it leaves a character open; bytes of a character wait for its last one."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for i, token in enumerate(stretch):
        document, (low, high) = int(tokens.document[token]), tokens.span[token]
        data = tokens.documents[document].data[low:high] if document >= 0 else b""
        text = decoder.decode(data, final=i == len(stretch) - 1)
        yield text, decoder.getstate()[0] != b""


def chunks(tokens: Tokens, length: int) -> list[Ints]:
    """All text cut into stretches [t] of at most `length` tokens of one document and sequence, as equally long as can be.

    No token is left over but special ones.
    """
    token = np.flatnonzero((tokens.document >= 0) & ~tokens.is_special)
    if len(token) == 0:
        return []
    sequence = np.searchsorted(tokens.starts, token, side="right")
    is_cut = (np.diff(tokens.document[token]) != 0) | (np.diff(sequence) != 0) | (np.diff(token) != 1)
    runs = np.split(token, np.flatnonzero(is_cut) + 1)
    return [part for run in runs for part in np.array_split(run, -(-len(run) // length))]
