"""A language model that counts how often each text passes it as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import armillary as arm
from armillary.core.model import Edit
from armillary.core.tokens import Tokens


class Counted:
    """A model that counts, by token ids, how often each sequence passes it without an edit."""

    def __init__(self, lm: arm.LanguageModel) -> None:
        self.lm = lm
        self.seen: Counter[bytes] = Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.lm, name)

    def _note(self, tokens: Tokens, edits: Sequence[Edit]) -> None:
        if not edits:
            self.seen.update(tokens.ids[low:high].tobytes() for low, high in zip(tokens.starts, tokens.starts[1:], strict=False))

    def capture(self, tokens: Tokens, sites: Any, *, edits: Sequence[Edit] = ()) -> Any:
        self._note(tokens, edits)
        return self.lm.capture(tokens, sites, edits=edits)

    def logits(self, tokens: Tokens, *, edits: Sequence[Edit] = (), grad: bool = False) -> Any:
        self._note(tokens, edits)
        return self.lm.logits(tokens, edits=edits, grad=grad)

    def read(self, tokens: Tokens, sites: Any) -> Any:
        self._note(tokens, ())
        return self.lm.read(tokens, sites)
