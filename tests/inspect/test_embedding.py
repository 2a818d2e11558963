"""Texts as vectors: each read once, alone or beside others, and only by what the tokenizer did not add."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from armillary.errors import InputError
from armillary.inspect import embedding
from armillary.inspect.embedding import Embedder
from support import ending_lm, tiny_lm
from toys import ToyLM

TEXTS = ["The cat sat on the mat.", "a", "Lisbon is in Portugal."]


def test_a_vector_is_the_mean_of_the_last_layer_over_a_text() -> None:
    lm = ending_lm("bert")
    found = Embedder(lm)(TEXTS)
    for text, vector in zip(TEXTS, found, strict=True):
        tokens = lm.tokenize(text)
        with torch.no_grad():
            x = lm.module(torch.from_numpy(tokens.ids)[None]).last_hidden_state[0]
        mean = x[1:-1].double().mean(0)  # between "<s>" and "<pad>"
        torch.testing.assert_close(vector, mean / mean.norm(), atol=1e-5, rtol=1e-4)
    assert found.dtype == torch.float64


@pytest.mark.parametrize("batch", [1, 2])
def test_what_is_beside_a_text_changes_nothing(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm("bert")
    together = Embedder(lm)(TEXTS)
    monkeypatch.setattr(embedding, "BATCH", batch)
    torch.testing.assert_close(Embedder(lm)(TEXTS), together, atol=1e-5, rtol=1e-4)


class Counting(ToyLM):
    """Counts the texts of each reading."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[int] = []

    def capture(self, tokens: Any, sites: Any, **told: Any) -> Any:
        self.read.append(tokens.n_sequences)
        return super().capture(tokens, sites, **told)


def test_a_text_is_read_once_and_an_empty_one_never() -> None:
    model = Counting()
    embed = Embedder(model)
    first = embed(["ab", "", "cab", "ab"])
    assert torch.equal(first[0], first[3]) and not first[1].any() and first[2].any()
    assert torch.equal(embed(["cab"]), first[2:3]) and model.read == [2]
    assert Embedder(model)([""]).tolist() == [[0.0]]


def test_a_text_longer_than_the_context_is_refused() -> None:
    with pytest.raises(InputError, match="reads at most"):
        Embedder(tiny_lm("bert"))(["long " * 100])
