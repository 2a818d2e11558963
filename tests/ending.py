"""A model that knows when to end: what it writes is whole, however few tokens it may write."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from armillary.core.model import Generation
from armillary.core.tokens import Tokens


class Ending:
    """Writes what a model of random weights writes, which ends nothing of itself, as if the last token had been its end."""

    def __init__(self, lm: Any) -> None:
        self.lm = lm

    def __getattr__(self, name: str) -> Any:
        return getattr(self.lm, name)

    def generate(self, prompts: Tokens, **told: Any) -> list[Generation]:
        return [replace(one, ids=one.ids[:-1]) for one in self.lm.generate(prompts, **told)]
