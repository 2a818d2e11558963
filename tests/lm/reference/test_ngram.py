"""The yardstick: probabilities that sum to one, and a bigram model worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from armillary.errors import InputError
from armillary.lm.reference.ngram import NGram

TEXT = [np.array([1, 2, 1, 3, 1, 2]), np.array([2, 2, 1])]


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("context", [[], [1], [1, 2], [2, 1, 3, 1], [3, 3, 3]])
def test_probabilities_sum_to_one(order: int, context: list[int]) -> None:
    model = NGram.fit(TEXT, 5, order=order)
    total = sum(np.exp(model.log_probabilities(np.array([*context, token]))[-1]) for token in range(5))
    assert total == pytest.approx(1.0, abs=1e-12)


def test_a_bigram_model_by_hand() -> None:
    """One document 1 2 1 2 1 3 over V = 4, BOS 0: bigrams 01:1 12:2 21:2 13:1; too few counts of counts, so D = 0.75."""
    model = NGram.fit([np.array([1, 2, 1, 2, 1, 3])], 4, order=2)
    # unigrams by continuation: 1 follows {0, 2}, 2 follows {1}, 3 follows {1}: 2, 1, 1 of 4; gamma = 3 * 0.75 / 4
    lower = np.array([0, 1.25, 0.25, 0.25]) / 4 + (2.25 / 4) / 4
    assert lower.sum() == pytest.approx(1.0)
    # after 1: counts 2:2, 3:1 of 3; gamma = 2 * 0.75 / 3
    expected = np.array([0, 0, 1.25, 0.25]) / 3 + 0.5 * lower
    found = [np.exp(model.log_probabilities(np.array([1, token]))[-1]) for token in range(4)]
    assert found == pytest.approx(expected)


def test_an_unseen_context_falls_back_to_the_lower_order() -> None:
    model, lower = NGram.fit(TEXT, 5, order=2), NGram.fit(TEXT, 5, order=2).levels[0]
    expected = lower.interpolate(np.array([2]), np.array([1 / 5]), 5)
    assert np.exp(model.log_probabilities(np.array([4, 2]))[-1]) == pytest.approx(expected[0])


def test_repeated_text_is_predicted_better_than_chance() -> None:
    rng = np.random.default_rng(0)
    pattern = rng.integers(1, 50, 40)
    model = NGram.fit([np.tile(pattern, 20)], 50)
    assert model.log_probabilities(np.tile(pattern, 3)).mean() > -0.2
    assert model.log_probabilities(rng.integers(1, 50, 120)).mean() < -3.5


def test_the_discounts_are_chen_and_goodmans() -> None:
    """n1..n4 = 4, 2, 1, 1: Y = 4 / 8; D1 = 1 - 2 Y 2/4, D2 = 2 - 3 Y 1/2, D3 = 3 - 4 Y 1/1."""
    text = np.array([1, 2, 3, 4, *[5] * 2, *[6] * 2, *[7] * 3, *[8] * 4])
    level = NGram.fit([text], 10, order=1).levels[0]
    assert level.discounts == pytest.approx([0.0, 0.5, 1.25, 1.0])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="do not fit"):
        NGram.fit(TEXT, 50_000)
    with pytest.raises(InputError, match="at least one token"):
        NGram.fit([], 10)
