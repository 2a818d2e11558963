"""How like a feature's passages a text is, by an encoder of sentences: the mean of its last layer over a text's tokens.

    similarity = cos(text, mean of the passages) - cos(text, mean of random ones)

Letters: n texts, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from armillary.core.model import Model
from armillary.core.rows import Rows
from armillary.core.site import Site
from armillary.core.statistics import Floats
from armillary.studies.causal.steering_aims import Aim
from armillary.studies.causal.steering_scores import Reading
from armillary.studies.causal.steering_writing import Texts

#: Texts that are read together.
BATCH = 32


class Embeddings:
    """Of texts, each read once.

    Args:
        encoder: any model; those made for sentences do best.
    """

    def __init__(self, encoder: Model) -> None:
        self.encoder, self.site = encoder, Site("resid_post", encoder.n_layers - 1)
        self._known: dict[str, Tensor] = {}

    def of(self, texts: Sequence[str]) -> Tensor:
        """[n, D] of length 1; texts must not be empty."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        for start in range(0, len(new), BATCH):
            some = new[start : start + BATCH]
            tokens = self.encoder.tokenize(some)
            with torch.no_grad():
                x = self.encoder.capture(tokens, [self.site])[self.site].double().cpu()  # [b, T, D]
            counts = torch.from_numpy(tokens.spread(~tokens.is_special, fill=False))
            mean = (x * counts[..., None]).sum(1) / counts.sum(1, keepdim=True).clamp_min(1)
            self._known |= dict(zip(some, F.normalize(mean, dim=1), strict=True))
        return torch.stack([self._known[text] for text in texts])

    def likeness(self, aim: Aim, rows: Rows, size: int) -> Reading | None:
        """How like its passages texts are; None for a feature without."""
        near, far = ([self._text(rows, row, size) for row in some] for some in (aim.near, aim.far))
        near, far = ([text for text in some if text.strip()] for some in (near, far))
        if not near or not far:
            return None
        pull = F.normalize(self.of(near).mean(0), dim=0) - F.normalize(self.of(far).mean(0), dim=0)  # [D]

        def read(texts: Texts) -> Floats:
            values = np.full(len(texts.text), np.nan)
            there = [i for i, text in enumerate(texts.text) if text.strip()]
            if there:
                values[there] = (self.of([texts.text[i] for i in there]) @ pull).numpy()
            return values

        return read

    @staticmethod
    def _text(rows: Rows, row: int, size: int) -> str:
        assert rows.tokens is not None
        return rows.tokens.window(row, size // 2, size - size // 2 - 1)
