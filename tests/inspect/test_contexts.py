"""Contexts equal brute force over all rows; windows show the text and the activations around them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from armillary.core.artifact import read_state, write_state
from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import Dictionary
from armillary.core.encoders import NearestEncoder
from armillary.core.rows import PRIORITIES, Permutation, Rows, TensorRows
from armillary.errors import InputError, UnknownNameError
from armillary.inspect import contexts
from armillary.inspect.contexts import ContextSearch
from toys import RESID, SideBySide, ToyLM, fit_of, identity_fit, random_sae, toy_rows, toy_texts


@pytest.fixture(scope="module")
def rows() -> TensorRows:
    model = ToyLM()
    rows = toy_rows(model, model.tokenize(toy_texts(60)), RESID)
    return TensorRows((rows.x * 4).round(), source=rows.layout[0][0], tokens=rows.tokens)


def exact_sae(rows: Rows, k: int = 3) -> Decomposition:
    """With weights that are whole numbers: matrix products of different sizes then agree to the last bit."""
    fit = random_sae(rows, k=k)
    return replace(fit, encoder=replace(fit.encoder, weight=(fit.encoder.weight * 4).round()))


def brute_top(fit: Decomposition, rows: TensorRows, feature: int, n: int) -> list[int]:
    value = fit.activations(rows.x).dense()[:, feature].numpy()
    fires = -np.inf if fit.encoder.fires is None else fit.encoder.fires
    on = np.flatnonzero(np.abs(value) > fires)
    return on[np.lexsort((on, -value[on]))][:n].tolist()


@pytest.mark.parametrize("k", [0, 3])
@pytest.mark.parametrize("batch_size", [7, 4096])
def test_top_contexts_equal_brute_force(rows: TensorRows, k: int, batch_size: int) -> None:
    # Letters repeat, so nearly every activation is tied many times over.
    fit = exact_sae(rows, k=k)
    found = contexts(fit, rows, n_top=15, batch_size=batch_size)
    value = fit.activations(rows.x).dense()
    for feature in range(16):
        row, top = found.top(feature)
        assert row.tolist() == brute_top(fit, rows, feature, 15)
        np.testing.assert_array_equal(top, value[row, feature])
        assert found.density(feature) == pytest.approx(float((value[:, feature] > 0).double().mean()))
    assert found.n_rows == rows.n_rows


def test_dense_coefficients_all_count(rows: TensorRows) -> None:
    found = contexts(fit := identity_fit(rows), rows, n_top=5)
    for feature in range(6):
        assert found.top(feature)[0].tolist() == brute_top(fit, rows, feature, 5)
        assert found.density(feature) == 1


@pytest.mark.parametrize("batch_size", [7, 64, 4096])
def test_the_sample_equals_brute_force(rows: TensorRows, batch_size: int) -> None:
    fit = exact_sae(rows)
    found = contexts(fit, rows, n_quantiles=4, per_quantile=3, seed=5, batch_size=batch_size)
    value = fit.activations(rows.x).dense().numpy()
    priority = Permutation(PRIORITIES, 5)
    for feature in range(15):
        on = np.flatnonzero(value[:, feature] > 0)
        drawn = on[np.argsort(priority(on * 16 + feature))][:12]
        quantiles = found.quantiles(feature)
        assert {int(row) for part, _ in quantiles for row in part} == set(drawn.tolist())
        assert [len(part) for part, _ in quantiles] == [len(part) for part in np.array_split(drawn, 4)]
        joined = [x for _, part in quantiles for x in part[::-1]]
        np.testing.assert_array_equal(joined, np.sort(value[drawn, feature]))


def test_the_sample_is_uniform_and_differs_between_features() -> None:
    x = torch.rand(400, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1
    fit = identity_fit(TensorRows(x))
    counts = np.zeros(400)
    for seed in range(40):
        found = contexts(fit, TensorRows(x), n_top=0, n_quantiles=1, per_quantile=40, seed=seed)
        counts[found.sample_row[0]] += 1
        assert len(set(found.sample_row[0]) & set(found.sample_row[1])) < 20
    quarters = counts.reshape(4, 100).sum(1)  # 400 expected, standard deviation 16
    assert quarters.min() > 330
    assert quarters.max() < 470


def test_only_some_features_and_one_context_per_document(rows: TensorRows) -> None:
    fit = exact_sae(rows)
    some = contexts(fit, rows, features=[9, 2, 9], n_top=10, one_per_document=True)
    assert some.features.tolist() == [9, 2]
    document = rows.tokens.document[rows.tokens.rows]
    every = brute_top(fit, rows, 2, rows.n_rows)
    first = list(dict.fromkeys(document[every].tolist()))[:10]
    row, _ = some.top(2)
    assert document[row].tolist() == first
    assert row.tolist() == [next(r for r in every if document[r] == d) for d in first]
    with pytest.raises(UnknownNameError, match="unknown feature among the contexts '3'"):
        some.top(3)


def test_special_tokens_are_left_out() -> None:
    model = ToyLM()
    plain = model.tokenize(toy_texts(8))
    tokens = replace(plain, is_row=np.ones(len(plain), bool))
    rows = toy_rows(model, tokens, RESID)
    found = contexts(identity_fit(rows), rows, n_top=500)
    assert found.n_rows == plain.n_rows
    assert not rows.tokens.is_special[found.top(0)[0]].any()


def test_windows_show_text_and_activations(rows: TensorRows) -> None:
    fit = exact_sae(rows)
    found = contexts(fit, rows, n_top=6, window=(3, 2))
    value = fit.activations(rows.x).dense()
    windows = found.windows(4)
    assert [window.row for window in windows] == found.top(4)[0].tolist()
    for window in windows:
        token = rows.tokens.rows[window.row]
        assert window.tokens[window.centre] == rows.tokens.text(token)
        assert window.text == rows.tokens.window(window.row, 3, 2)
        assert len(window.tokens) == len(window.activations) <= 6
        assert window.activations[window.centre] == window.value == value[window.row, 4]
        around = [float(value[window.row + i - window.centre, 4]) for i in range(len(window.tokens))]  # no special token lies inside a text
        assert list(window.activations) == pytest.approx(around, rel=1e-12)
        assert window.name == f"text {window.document}"
    assert [len(part) for part in found.quantile_windows(4)] == [len(part) for part, _ in found.quantiles(4)]


def test_rows_that_cannot_be_fetched_show_the_centre(rows: TensorRows) -> None:
    stream = SideBySide(rows)
    found = contexts(exact_sae(rows), stream, n_top=2, window=(3, 2))
    assert stream.n_reads == 1
    for window in found.windows(4):
        assert [x for x in window.activations if x is not None] == [window.value]
        assert window.text == rows.tokens.window(window.row, 3, 2)


def test_rows_without_text() -> None:
    rows = TensorRows(torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    window = contexts(identity_fit(rows), rows, n_top=1).windows(0)[0]
    assert (window.tokens, window.activations, window.document) == (("",), (window.value,), -1)


def test_a_region_has_contexts(rows: TensorRows) -> None:
    regions = Dictionary.of_regions(rows.x[:5])
    found = contexts(fit := fit_of(regions, NearestEncoder(regions.atoms), rows), rows, n_top=8)
    assert found.top(0)[0].tolist() == brute_top(fit, rows, 0, 8)  # all tied at 1: the first rows of the region
    assert int(found.n_fires.sum()) == rows.n_rows


def search(rows: TensorRows) -> ContextSearch:
    settings = {"n_top": 6, "n_quantiles": 2, "per_quantile": 4, "window": (2, 2), "features": None, "one_per_document": False}
    return ContextSearch(exact_sae(rows), rows, **settings, batch_size=50, seed=1)


def test_killed_and_resumed_or_split_over_ranks_gives_the_same(rows: TensorRows, tmp_path: Path) -> None:
    batches = list(rows.batches(50))
    whole, first, second = search(rows), search(rows), search(rows)
    for i, batch in enumerate(batches):
        whole.update(batch)
        (first if i % 2 else second).update(batch)
    write_state(tmp_path / "state", second.state())
    resumed = search(rows)
    resumed.load(read_state(tmp_path / "state"))
    resumed.merge([read_state(tmp_path / "state"), dict(first.state())])
    for name in ("top_row", "top_value", "sample_row", "n_fires", "n_rows"):
        np.testing.assert_array_equal(getattr(resumed.finish(), name), getattr(whole.finish(), name))


def test_dense_codes_are_looked_at_in_pieces(rows: TensorRows, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = contexts(exact_sae(rows, k=0), rows)
    monkeypatch.setattr(sys.modules["armillary.inspect.contexts"], "CHUNK", 40)
    pieces = contexts(exact_sae(rows, k=0), rows)
    np.testing.assert_array_equal(whole.top_row, pieces.top_row)
    np.testing.assert_array_equal(whole.sample_row, pieces.sample_row)


def test_what_is_asked_must_make_sense(rows: TensorRows) -> None:
    with pytest.raises(InputError, match="something to keep"):
        contexts(exact_sae(rows), rows, n_top=0, per_quantile=0)
    with pytest.raises(InputError, match="feature 99 is out of range"):
        contexts(exact_sae(rows), rows, features=[99])
