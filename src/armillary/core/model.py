"""Model: what studies ask of a language model, and Edit: a change of its activations on the way.

Letters: B sequences, T positions, D width of a site, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, final, runtime_checkable

import torch
from torch import Tensor

from armillary.core.rows import Rows
from armillary.core.site import Site
from armillary.core.tokens import Document, Tokens

#: A site, or a spelling of one; captured values come back under the key that was asked for.
Key = TypeVar("Key", bound=Site | str)

#: What a model reads: texts, documents with names and labels, or tokens already.
Texts = str | Sequence[str] | Iterable[Document]


@dataclass(frozen=True)
class At:
    """Where an edit finds itself, made by the model and right under padding and caching.

    Args:
        where: [B, T] bool, real tokens (padding is False).
        position: [B, T] int64 position in the sequence.
        row: [B, T] int64 index of the token in the Tokens given; -1 for generated tokens.
        generated: [B, T] bool, tokens the model wrote itself.
        read: the value [B, T, D] at another site of the same pass, one of the edit's `reads`.
    """

    where: Tensor
    position: Tensor
    row: Tensor
    generated: Tensor
    read: Callable[[Site], Tensor]


@dataclass(frozen=True)
class Generation:
    """What a model wrote.

    Args:
        prompt: the text it was given.
        text: the continuation alone.
        ids: [n] token ids of the continuation, the end-of-text token left out.
    """

    prompt: str
    text: str
    ids: tuple[int, ...]

    def __str__(self) -> str:
        return self.text


#: Chooses tokens [B, T] among those of `At`.
Where = Callable[[At], Tensor]


class Edit(ABC):
    """A pure, differentiable change of one site. Subclasses are frozen dataclasses with a `site`, or a spelling of one, and a `where`.

    Only `apply` (and `reads`) is overridden; calling an edit applies it to the chosen tokens and leaves the others bit for bit.
    """

    site: Site | str
    where: Where | None

    @property
    def writes(self) -> Site:
        """The site whose value the edit replaces."""
        return Site.parse(self.site)

    @property
    def reads(self) -> tuple[Site, ...]:
        """Sites other than `writes` whose values the edit needs; they must come earlier in the forward pass."""
        return ()

    @abstractmethod
    def apply(self, x: Tensor, at: At) -> Tensor:
        """The new value [B, T, D] of every token, chosen or not."""

    @final
    def __call__(self, x: Tensor, at: At) -> Tensor:
        """The site's value with the chosen tokens changed, in x's dtype."""
        chosen = at.where if self.where is None else at.where & self.where(at)
        return torch.where(chosen[..., None], self.apply(x, at).to(x.dtype), x)


@runtime_checkable
class Model(Protocol):
    """A language model as studies see it; `armillary.LanguageModel` is the one that ships."""

    @property
    def name(self) -> str: ...

    @property
    def revision(self) -> str:
        """A commit or a hash of the weights: equal exactly when the weights are."""
        ...

    @property
    def n_layers(self) -> int: ...

    @property
    def has_logits(self) -> bool:
        """False for encoder-only models; then whatever needs logits raises `CapabilityError`."""
        ...

    def tokenize(self, texts: Texts) -> Tokens: ...

    def capture(self, tokens: Tokens, sites: Sequence[Key], *, edits: Sequence[Edit] = ()) -> dict[Key, Tensor]:
        """{site as given: [B, T, D]}, aligned with `tokens.padded()`."""
        ...

    def logits(self, tokens: Tokens, *, edits: Sequence[Edit] = (), grad: bool = False) -> Tensor:
        """[B, T, V] next-token logits, aligned with `tokens.padded()`; with `grad` a loss can be differentiated down to the edits."""
        ...

    def read(self, tokens: Tokens, sites: Sequence[Key]) -> tuple[dict[Key, Tensor], Tensor]:
        """What `capture` and `logits` give without edits, from one pass."""
        ...

    def generate(
        self,
        prompts: Tokens | str | Sequence[str],
        *,
        max_new_tokens: int = 32,
        edits: Sequence[Edit] = (),
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | Sequence[int] = 0,
    ) -> list[Generation]:
        """Continue each prompt, with edits applied to it and to every token as it is written."""
        ...

    def unembed(self, direction: Tensor) -> Tensor:
        """[..., V] logits of residual-stream vectors [..., D] through the model's own final norm."""
        ...

    def readout(self, site: Site) -> Tensor:
        """[D_site, D] the linear map by which the vectors of an `mlp_act` or `attn_z` site reach the residual stream.

        Raises:
            CapabilityError: another kind of site, or a model without such a projection.
        """
        ...

    def vocabulary(self) -> list[str]:
        """V strings, the text of every token id."""
        ...

    def rows(self, texts: Texts, site: Site | str) -> Rows:
        """A live stream of the site's rows."""
        ...
