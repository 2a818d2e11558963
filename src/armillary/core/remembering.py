"""Remembering: a model whose unedited passes are kept, so that many studies read every text once.

Texts are told apart by their token ids. The first time a sequence is read, for logits or for activations, both are kept: its logits, and
its activations at all sites that studies are known to ask for. What is kept has a limit; beyond it the oldest is forgotten and would be
read again. Edited passes, gradients and generation go to the model as they are.

Letters: B sequences, T positions, D width of a site, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
from torch import Tensor

from armillary.core.model import Edit, Generation, Key, Model, Texts
from armillary.core.prompted import take
from armillary.core.rows import Rows
from armillary.core.site import Site
from armillary.core.tokens import Tokens

#: Bytes that are kept at most.
LIMIT = 1 << 30
#: What of a sequence is kept under this name is its logits; all else is under the name of its site.
LOGITS = "logits"

#: Of one sequence, where the model left them: logits [T, V], and activations [T, D] by site.
_Read = dict[str, Tensor]


@final
class Remembering:
    """A model that is asked about every text once. Satisfies `core.model.Model`.

    Args:
        model: it; its weights are not to be changed meanwhile.
        sites: those that will be asked for, which the first reading of a text keeps all at once.
        limit: bytes that are kept at most.
    """

    def __init__(self, model: Model, sites: Sequence[Site] = (), *, limit: int = LIMIT) -> None:
        self.model, self.limit, self.n_bytes = model, limit, 0
        self._sites = {str(site): site for site in sites}
        self._known: dict[bytes, _Read] = {}

    def __repr__(self) -> str:
        return f"Remembering({self.model!r}: {len(self._known):,} texts, {self.n_bytes / 1e6:,.0f} MB)"

    # ------------------------------------------------------------ what is remembered

    def logits(self, tokens: Tokens | Texts, *, edits: Sequence[Edit] = (), grad: bool = False) -> Tensor:
        """As `Model.logits`."""
        given = self._tokens(tokens)
        if edits or grad:
            return self.model.logits(given, edits=edits, grad=grad)
        return self._together(given, LOGITS)

    def capture(self, tokens: Tokens | Texts, sites: Sequence[Key], *, edits: Sequence[Edit] = ()) -> dict[Key, Tensor]:
        """As `Model.capture`."""
        given = self._tokens(tokens)
        if edits:
            return self.model.capture(given, sites, edits=edits)
        self._sites |= {str(site): site for site in map(Site.parse, sites)}
        return {site: self._together(given, str(Site.parse(site))) for site in sites}

    def read(self, tokens: Tokens | Texts, sites: Sequence[Key]) -> tuple[dict[Key, Tensor], Tensor]:
        """As `Model.read`."""
        return self.capture(tokens, sites), self.logits(tokens)

    def _together(self, tokens: Tokens, name: str) -> Tensor:
        """[B, T, ...] what is kept of sequences under a name, after those that are new were read; 0 in the padding."""
        keys = [tokens.ids[low:high].tobytes() for low, high in zip(tokens.starts, tokens.starts[1:], strict=False)]
        held = {key: self._known[key] for key in keys if name in self._known.get(key, {})}
        new = [i for i, key in enumerate(keys) if key not in held]
        if new:
            first = {keys[i]: i for i in reversed(new)}  # a text that is there twice is read once
            held |= self._read(take(tokens, np.array(sorted(first.values()), np.int64)), sorted(first, key=first.__getitem__))
        parts = [held[key][name] for key in keys]
        out = parts[0].new_zeros(len(parts), int(tokens.lengths.max()), parts[0].shape[1])
        for row, part in zip(out, parts, strict=True):
            row[: len(part)] = part
        return out

    def _read(self, tokens: Tokens, keys: Sequence[bytes]) -> dict[bytes, _Read]:
        """Run sequences, and keep all that may be asked of them."""
        sites = dict(self._sites)
        if self.model.has_logits:
            values, logits = self.model.read(tokens, list(sites))
            values |= {LOGITS: logits}
        else:
            values = self.model.capture(tokens, list(sites))
        found = {}
        for i, (key, n) in enumerate(zip(keys, tokens.lengths.tolist(), strict=True)):
            found[key] = {name: x[i, :n].detach().clone() for name, x in values.items()}
            self._keep(key, found[key])
        return found

    def _keep(self, key: bytes, read: _Read) -> None:
        self._forget(key)
        self._known[key] = read
        self.n_bytes += _size(read)
        while self.n_bytes > self.limit and self._known:
            self._forget(next(iter(self._known)))

    def _forget(self, key: bytes) -> None:
        self.n_bytes -= _size(self._known.pop(key, {}))

    def _tokens(self, given: Tokens | Texts) -> Tokens:
        return given if isinstance(given, Tokens) else self.model.tokenize(given)

    # ------------------------------------------------------------ what is handed on

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def revision(self) -> str:
        return self.model.revision

    @property
    def n_layers(self) -> int:
        return self.model.n_layers

    @property
    def has_logits(self) -> bool:
        return self.model.has_logits

    def tokenize(self, texts: Texts) -> Tokens:
        """As `Model.tokenize`."""
        return self.model.tokenize(texts)

    def generate(self, prompts: Tokens | str | Sequence[str], **how: Any) -> list[Generation]:
        """As `Model.generate`."""
        return self.model.generate(prompts, **how)

    def unembed(self, direction: Tensor) -> Tensor:
        """As `Model.unembed`."""
        return self.model.unembed(direction)

    def readout(self, site: Site) -> Tensor:
        """As `Model.readout`."""
        return self.model.readout(site)

    def vocabulary(self) -> list[str]:
        """As `Model.vocabulary`."""
        return self.model.vocabulary()

    def rows(self, texts: Texts, site: Site | str) -> Rows:
        """As `Model.rows`."""
        return self.model.rows(texts, site)


def _size(read: _Read) -> int:
    return sum(x.numel() * x.element_size() for x in read.values())
