"""The n best pairs per feature, in any order and any batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from armillary.core.artifact import read_state, write_state
from armillary.inspect.best import Best, Pairs


def some_pairs(n: int = 4000, n_features: int = 7, seed: int = 0) -> Pairs:
    """Distinct (feature, row) pairs with many tied scores; feature 6 has only a few."""
    rng = np.random.default_rng(seed)
    flat = rng.choice(n_features * n, size=n, replace=False)
    feature, row = flat // n, flat % n
    keep = (feature < 6) | (row < 20)
    score = rng.integers(0, 30, n).astype(float)
    return Pairs(feature, row, score, score * 2, row // 50)[keep]


def brute(pairs: Pairs, feature: int, n: int, one_per_group: bool = False) -> list[tuple[float, int]]:
    mine = pairs[pairs.feature == feature]
    ranked = sorted(zip((-mine.score).tolist(), mine.row.tolist(), mine.group.tolist(), strict=True))
    if one_per_group:
        seen: set[int] = set()
        ranked = [one for one in ranked if not (one[2] in seen or seen.add(one[2]))]  # type: ignore[func-returns-value]
    return [(-score, row) for score, row, _ in ranked[:n]]


def found(best: Best, feature: int) -> list[tuple[float, int]]:
    used = best.row[feature] >= 0
    return list(zip(best.score[feature][used].tolist(), best.row[feature][used].tolist(), strict=True))


@pytest.mark.parametrize("one_per_group", [False, True])
@pytest.mark.parametrize("step", [1, 37, 10_000])
@pytest.mark.parametrize("waiting", [1, 500, 10**6])
def test_equals_brute_force_for_any_order_and_batches(
    step: int, one_per_group: bool, waiting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("armillary.inspect.best.LEAST_WAITING", waiting)
    pairs = some_pairs(600 if step == 1 else 4000)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(pairs))
        best = Best(7, 10, one_per_group=one_per_group)
        for start in range(0, len(pairs), step):
            best.offer(pairs[order[start : start + step]])
        best.settle()
        for feature in range(7):
            assert found(best, feature) == brute(pairs, feature, 10, one_per_group)
            used = best.row[feature] >= 0
            np.testing.assert_array_equal(best.value[feature][used], 2 * best.score[feature][used])


def test_states_are_kept_and_absorbed(tmp_path: Path) -> None:
    pairs = some_pairs()
    whole, first, second = Best(7, 10), Best(7, 10), Best(7, 10)
    whole.offer(pairs)
    first.offer(pairs[np.arange(len(pairs) // 2)])
    second.offer(pairs[np.arange(len(pairs) // 2, len(pairs))])
    write_state(tmp_path / "state", second.state())
    first.absorb(read_state(tmp_path / "state"))
    first.settle(), whole.settle()
    for feature in range(7):
        assert found(first, feature) == found(whole, feature)
    copy = Best(7, 10)
    copy.load(read_state(tmp_path / "state"))
    np.testing.assert_array_equal(copy.row, second.row)


def test_keeping_none_keeps_none() -> None:
    best = Best(7, 0)
    best.offer(some_pairs())
    best.settle()
    assert best.row.shape == (7, 0)
