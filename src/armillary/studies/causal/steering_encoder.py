"""How like a feature's passages a text is, by an encoder of sentences; see `inspect.embedding`.

    similarity = cos(text, mean of the passages) - cos(text, mean of random ones)

Letters: n texts, D width.
"""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F

from armillary.core.model import Model
from armillary.core.rows import Rows
from armillary.core.statistics import Floats
from armillary.inspect.embedding import Embedder
from armillary.studies.causal.steering_aims import Aim
from armillary.studies.causal.steering_scores import Reading
from armillary.studies.causal.steering_writing import Texts


class Embeddings:
    """Of passages and texts, each read once.

    Args:
        encoder: any model; those made for sentences do best.
    """

    def __init__(self, encoder: Model) -> None:
        self.embed = Embedder(encoder)

    def likeness(self, aim: Aim, rows: Rows, size: int) -> Reading | None:
        """How like its passages texts are; None for a feature without."""
        near, far = ([self._text(rows, row, size) for row in some] for some in (aim.near, aim.far))
        near, far = ([text for text in some if text.strip()] for some in (near, far))
        if not near or not far:
            return None
        pull = F.normalize(self.embed(near).mean(0), dim=0) - F.normalize(self.embed(far).mean(0), dim=0)  # [D]

        def read(texts: Texts) -> Floats:
            values = np.full(len(texts.text), np.nan)
            there = [i for i, text in enumerate(texts.text) if text.strip()]
            if there:
                values[there] = (self.embed([texts.text[i] for i in there]) @ pull).numpy()
            return values

        return read

    @staticmethod
    def _text(rows: Rows, row: int, size: int) -> str:
        assert rows.tokens is not None
        return rows.tokens.window(row, size // 2, size - size // 2 - 1)
