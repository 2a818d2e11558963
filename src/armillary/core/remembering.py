"""Remembering: a model with a memory, so that many studies find out once what it says of a text as it is.

What is kept is what was asked, not the passes themselves, whose logits would fill any memory: whether a prompt is answered so, activations
at a few tokens, the loss of a text. Whoever reads texts without an edit asks through `remembered`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar, final

from torch import Tensor

from armillary.core.model import Edit, Generation, Key, Model, Texts
from armillary.core.rows import Rows
from armillary.core.site import Site
from armillary.core.tokens import Tokens

Found = TypeVar("Found")


def remembered(model: Model, what: str, keys: Sequence[Hashable], find: Callable[[list[int]], Sequence[Found]]) -> list[Found]:
    """What a model says of texts without an edit, a value per key.

    Args:
        model: it; one that does not remember is asked for each different key of this call.
        what: the question.
        keys: tell its texts, and whatever else the answer depends on.
        find: the values of some of the keys, given their places: of each that is not known yet the first.
    """
    known: dict[tuple[str, Hashable], Any] = model.known if isinstance(model, Remembering) else {}
    new: dict[Hashable, int] = {}
    for place, key in enumerate(keys):
        if (what, key) not in known:
            new.setdefault(key, place)
    if new:
        known |= zip(((what, key) for key in new), find(list(new.values())), strict=True)
    return [known[what, key] for key in keys]


@final
class Remembering:
    """A model that knows what it was asked before. Satisfies `core.model.Model`.

    Args:
        model: it; its weights are not to be changed meanwhile.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        #: (question, key) -> answer.
        self.known: dict[tuple[str, Hashable], Any] = {}

    def __repr__(self) -> str:
        return f"Remembering({self.model!r}: {len(self.known):,} answers)"

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

    def capture(self, tokens: Tokens, sites: Sequence[Key], *, edits: Sequence[Edit] = ()) -> dict[Key, Tensor]:
        """As `Model.capture`."""
        return self.model.capture(tokens, sites, edits=edits)

    def logits(self, tokens: Tokens, *, edits: Sequence[Edit] = (), grad: bool = False) -> Tensor:
        """As `Model.logits`."""
        return self.model.logits(tokens, edits=edits, grad=grad)

    def read(self, tokens: Tokens, sites: Sequence[Key]) -> tuple[dict[Key, Tensor], Tensor]:
        """As `Model.read`."""
        return self.model.read(tokens, sites)

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
