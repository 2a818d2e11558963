"""Embedding: texts as vectors, by a model of this process.

    embed = Embedder(lm)
    embed(["a cat", "a dog"])           [2, D] of length 1: the mean of the last layer over a text's tokens

Letters: n texts, B of them together, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from armillary.core.model import Model
from armillary.core.site import Site

#: Texts that are read together.
BATCH = 32


@final
class Embedder:
    """Reads each text once.

    Args:
        model: any; those made for sentences do best.
    """

    def __init__(self, model: Model) -> None:
        self.model, self.site = model, Site("resid_post", model.n_layers - 1)
        self._known: dict[str, Tensor] = {}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """[n, D] float64 of length 1; 0 for a text that is empty.

        Raises:
            InputError: a text is longer than the model's context.
        """
        new = [text for text in dict.fromkeys(texts) if text and text not in self._known]
        for start in range(0, len(new), BATCH):
            some = new[start : start + BATCH]
            self._known |= dict(zip(some, self._read(some), strict=True))
        width = next((len(one) for one in self._known.values()), 1)
        return torch.stack([self._known.get(text, torch.zeros(width, dtype=torch.float64)) for text in texts])

    @torch.no_grad()
    def _read(self, texts: Sequence[str]) -> Tensor:
        """[B, D] of texts that are not empty; special tokens do not count."""
        tokens = self.model.tokenize(texts)
        x = self.model.capture(tokens, [self.site])[self.site].double().cpu()  # [B, T, D]
        counts = torch.from_numpy(tokens.spread(~tokens.is_special, fill=False))  # [B, T]
        return F.normalize((x * counts[..., None]).sum(1), dim=1)
