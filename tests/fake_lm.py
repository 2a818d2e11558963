"""A language model made of a table and a running sum: fast, deterministic, and equal for every way of batching.

One token per byte of UTF-8, with a leading special token 256 and, if asked for, a trailing 257.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from armillary.core.site import Site, Source
from armillary.core.tokens import Document, Tokens

BOS, EOS = 256, 257
WIDTHS = {"resid_post": 8, "mlp_act": 12}


class FakeLM:
    """See the module.

    Args:
        seed: of the table; part of the revision.
        suffix: whether texts end with a special token, as BERT's do.
        bad: a byte whose activations are `bad_value`.
        seconds: how long a forward pass takes.
    """

    n_layers = 2
    name = "fake"
    dtype = torch.float32
    has_logits = False

    def __init__(
        self,
        seed: int = 0,
        *,
        context: int | None = 16,
        suffix: bool = False,
        bad: str = "",
        bad_value: float = float("nan"),
        seconds: float = 0,
    ) -> None:
        self.revision, self.context, self.suffix, self.seconds = f"seed{seed}", context, suffix, seconds
        self.bad, self.bad_value = (ord(bad) if bad else -1), bad_value
        generator = torch.Generator().manual_seed(seed)
        self.table = {d: torch.randn(258, d, generator=generator) for d in WIDTHS.values()}
        self.calls: list[tuple[int, int]] = []

    def tokenize(self, texts: Sequence[str | Document]) -> Tokens:
        documents = [text if isinstance(text, Document) else Document(text) for text in texts]
        ends = [EOS] if self.suffix else []
        ids = [np.array([BOS, *document.data, *ends], np.int64) for document in documents]
        lengths = [len(one) for one in ids]
        spans = [_spans(len(document.data), len(ends)) for document in documents]
        flat = np.concatenate([*ids, np.zeros(0, np.int64)])
        is_special = flat >= BOS
        return Tokens(
            ids=flat,
            starts=np.cumsum([0, *lengths]),
            document=np.where(is_special, -1, np.repeat(np.arange(len(ids)), lengths)),
            position=np.concatenate([*(np.arange(n) for n in lengths), np.zeros(0, np.int64)]),
            span=np.concatenate([*spans, np.zeros((0, 2), np.int64)]),
            is_special=is_special,
            is_row=~is_special,
            documents=documents,
        )

    def capture(self, tokens: Tokens, sites: Sequence[Site], **_: Any) -> dict[Site, Tensor]:
        if self.seconds:
            time.sleep(self.seconds)
        ids, mask = tokens.padded()
        self.calls.append((int(mask.sum()), mask.size))
        return {site: self._values(torch.from_numpy(ids), site) for site in sites}

    def _values(self, ids: Tensor, site: Site) -> Tensor:
        x = self.table[self.width(site)][ids] * (1 + (site.layer or 0))
        x = x + 0.1 * x.cumsum(dim=1)
        return torch.where((ids == self.bad)[..., None], self.bad_value, x)

    def source(self, site: Site) -> Source:
        return Source(self.name, self.revision, site.resolved(self.n_layers))

    def width(self, site: Site) -> int:
        return WIDTHS[site.kind]

    def vocabulary(self) -> list[str]:
        return [chr(i) for i in range(258)]


def _spans(n: int, n_ends: int) -> Any:
    inner = np.stack([np.arange(n), np.arange(n) + 1], axis=1)
    return np.concatenate([np.zeros((1, 2), np.int64), inner, np.zeros((n_ends, 2), np.int64)]).astype(np.int64)
