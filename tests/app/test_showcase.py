"""Which features a page shows: the rule, and the sizes of the demo's fits."""

from __future__ import annotations

import pytest

from armillary.app.demo_sizes import FEATURES, LEAST_ROWS, TOKENS, Sizes, n_tokens_for
from armillary.app.showcase import choose
from armillary.errors import TooFewRowsError

TABLE = {
    "density": [0.5, 0.05, 0.02, 0.0, 0.00001, 0.01, 0.09],
    "mean_activation": [9.0, 1.0, 4.0, 0.0, 50.0, 2.0, 0.1],
}


def test_the_strongest_are_those_with_most_activation_among_the_neither_rare_nor_common() -> None:
    # density * mean_activation: 1 -> 0.05, 2 -> 0.08, 5 -> 0.02, 6 -> 0.009; 0 is too common, 4 too rare, 3 dead
    assert choose(TABLE, n=3, n_random=0, seed=0) == {2: "strongest", 1: "strongest", 5: "strongest"}


def test_the_random_ones_are_drawn_from_all_others_that_fire() -> None:
    drawn = [frozenset(i for i, why in choose(TABLE, n=3, n_random=2, seed=seed).items() if why == "random") for seed in range(40)]
    assert set().union(*drawn) == {0, 4, 6}
    assert all(len(some) == 2 for some in drawn)
    assert choose(TABLE, n=3, n_random=2, seed=5) == choose(TABLE, n=3, n_random=2, seed=5)


def test_dense_codes_have_no_density_and_are_ranked_by_size() -> None:
    table = {"density": [None] * 3, "mean_activation": [1.0, 3.0, 2.0]}
    assert list(choose(table, n=2, n_random=0, seed=0)) == [1, 2]


def test_without_a_feature_in_the_band_all_that_fire_compete() -> None:
    table = {"density": [0.5, 0.9, 0.0], "mean_activation": [1.0, 1.0, 0.0]}
    assert list(choose(table, n=2, n_random=1, seed=0)) == [1, 0]


def test_no_feature_fires() -> None:
    assert choose({"density": [0.0], "mean_activation": [0.0]}, n=5, n_random=3, seed=0) == {}


# ---------------------------------------------------------------- sizes


def test_with_enough_text_sizes_are_the_full_ones_and_nothing_is_remarked() -> None:
    sizes = Sizes.of(TOKENS, 256)
    assert (sizes.n_features, sizes.k, sizes.n_components, sizes.n_clusters) == (FEATURES, 32, 32, 256)
    assert sizes.remark(TOKENS) == ""


@pytest.mark.parametrize(("n", "d"), [(LEAST_ROWS, 8), (100, 4096), (1_000, 16), (5_000, 768), (40_000, 3072), (10**7, 16_384)])
def test_sizes_always_make_methods_that_can_be_fitted(n: int, d: int) -> None:
    sizes = Sizes.of(n, d)
    methods = sizes.methods()
    assert all(method.min_rows(d) <= n for method in methods.values())
    assert sizes.k < sizes.n_features and sizes.n_components <= d and sizes.batch_size <= n
    assert sizes.n_features * d * sizes.n_steps < 2e10 or sizes.n_steps == 150


def test_little_text_makes_small_fits_and_says_so() -> None:
    assert "gives only 1,000 tokens" in Sizes.of(1_000, 64).remark(1_000)


def test_too_little_text_names_what_is_needed() -> None:
    with pytest.raises(TooFewRowsError, match=r"gives 12 tokens, the demo needs at least 64; give a longer --text"):
        Sizes.of(12, 64)


def test_large_models_read_less_text() -> None:
    assert n_tokens_for(5_000_000) == TOKENS
    assert 20_000 < n_tokens_for(124_000_000) < 60_000
    assert n_tokens_for(7_000_000_000) == 20_000
