"""Pooling by document, ranks and the small regressions, each against a direct computation or scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from armillary.core.artifact import read_state, write_state
from armillary.core.codes import Codes, dense_codes
from armillary.core.method import Pass
from armillary.errors import InputError, TooFewRowsError
from armillary.studies.quality.logistic import fit, fit_best, folds
from armillary.studies.quality.pooled import Documents, Pool, Pooled
from armillary.studies.quality.ranks import Ranked, auroc, interval
from documents import LENGTH, in_documents

N_DOCUMENTS, WIDTH = 30, 7
X = torch.randn(N_DOCUMENTS * LENGTH, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
ROWS = in_documents(X)
DOCUMENTS = Documents.of(ROWS, n_documents=None, seed=0)


def shrunk(x: torch.Tensor) -> Codes:
    """Activations of either sign, most of them 0."""
    return dense_codes(x.sign() * (x.abs() - 1.2).clamp_min(0))


def pooled(size: int, fires: float | None = 0.0, read: object = shrunk) -> Pooled:
    pool = Pool(read, WIDTH, fires, DOCUMENTS, Pass(size))  # type: ignore[arg-type]
    for batch in ROWS.batches(size):
        pool.update(batch)
    return pool.finish()


def array(table: object) -> np.ndarray:  # type: ignore[type-arg]
    return table.toarray() if sparse.issparse(table) else np.asarray(table)  # type: ignore[attr-defined]


@pytest.mark.parametrize("fires", [0.0, None])
def test_pools_equal_the_direct_ones(fires: float | None) -> None:
    found = pooled(64, fires)
    by_document = shrunk(X).value.reshape(N_DOCUMENTS, LENGTH, WIDTH)
    np.testing.assert_allclose(array(found.largest), by_document.amax(1), rtol=1e-6)
    np.testing.assert_allclose(array(found.least), by_document.amin(1), rtol=1e-6)
    np.testing.assert_allclose(array(found.mean), by_document.mean(1), rtol=1e-12)


@pytest.mark.parametrize("fires", [0.0, None])
def test_batches_of_any_size_give_the_same_bits_and_the_last_partial_one_counts(fires: float | None) -> None:
    one, other, third = pooled(7, fires), pooled(N_DOCUMENTS * LENGTH, fires), pooled(256, fires)  # 600 is no multiple of 7 or 256
    for name in ("largest", "least", "mean"):
        np.testing.assert_array_equal(array(getattr(one, name)), array(getattr(other, name)))
        np.testing.assert_array_equal(array(getattr(third, name)), array(getattr(other, name)))


@pytest.mark.parametrize("fires", [0.0, None])
def test_pools_resume_to_the_same_bits_and_ranks_add_up(fires: float | None, tmp_path: Path) -> None:
    whole = pooled(50, fires)
    first = Pool(shrunk, WIDTH, fires, DOCUMENTS, Pass(50))
    batches = list(ROWS.batches(50))
    for batch in batches[:5]:
        first.update(batch)
    write_state(tmp_path / "state", first.state())
    second = Pool(shrunk, WIDTH, fires, DOCUMENTS, Pass(50))
    second.load(read_state(tmp_path / "state"))
    for batch in batches[5:]:
        second.update(batch)
    np.testing.assert_array_equal(array(second.finish().mean), array(whole.mean))
    ranks = [Pool(shrunk, WIDTH, fires, DOCUMENTS, Pass(50)) for _ in range(3)]
    for rank, pool in enumerate(ranks):
        for batch in ROWS.batches(50, rank=rank, world=3):
            pool.update(batch)
    ranks[0].merge([dict(pool.state()) for pool in ranks])
    for name in ("largest", "least", "mean"):
        np.testing.assert_allclose(array(getattr(ranks[0].finish(), name)), array(getattr(whole, name)), rtol=1e-12)


def test_special_tokens_and_tokens_of_no_document_are_left_out() -> None:
    from dataclasses import replace

    from armillary.core.rows import TensorRows

    tokens = ROWS.tokens
    assert tokens is not None
    is_special = tokens.position == 0
    huge = X.clone()
    huge[torch.from_numpy(is_special)] = 1e6
    document = np.where(tokens.position == 1, -1, tokens.document)
    huge[torch.from_numpy(tokens.position == 1)] = -1e6
    rows = TensorRows(huge, tokens=replace(tokens, is_special=is_special, document=document))
    documents = Documents.of(rows, n_documents=None, seed=0)
    pool = Pool(dense_codes, WIDTH, None, documents, Pass(64))
    for batch in rows.batches(64):
        pool.update(batch)
    assert np.abs(array(pool.finish().mean)).max() < 10
    assert (documents.n_rows == LENGTH - 2).all()
    with pytest.raises(TooFewRowsError, match="no document is left; harvest longer texts"):
        Documents.of(in_documents(X, special=True), n_documents=None, seed=0)


def test_documents_are_split_by_their_text_or_by_a_label() -> None:
    labels = {i: {"split": "train" if i % 3 else "test"} for i in range(N_DOCUMENTS)}
    documents = Documents.of(in_documents(X, labels=labels), n_documents=None, seed=0)
    assert documents.held_out(0.5, "split").sum() == N_DOCUMENTS / 3
    with pytest.raises(InputError, match=r"split='kind' puts all 30 documents on the held-out side; one of its values must be 'train'"):
        documents.held_out(0.5, "kind")
    # all of these documents have one text, and equal texts are on one side
    with pytest.raises(InputError, match="harvest more texts"):
        documents.held_out(0.5, None)


# ---------------------------------------------------------------- ranks


def test_auroc_is_scikit_learns_with_ties_negatives_and_zeros() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(-2, 4, size=(60, 9)) * (rng.random((60, 9)) < 0.4)
    x[:, 3] = 0
    x[:, 4] = np.abs(x[:, 4]) + 1
    positive = rng.random((5, 60)) < 0.3
    expected = [[roc_auc_score(label, column) for column in x.T] for label in positive]
    for table in (sparse.csc_matrix(x.astype(float)), x.astype(float)):
        ranked = Ranked.of(table)
        np.testing.assert_allclose(ranked.auroc(positive), expected, rtol=1e-12)
        assert (ranked.auroc(positive)[:, 3] == 0.5).all()  # a constant column counts a half
        picked = np.array([1, 0, 8, 3, 1])
        np.testing.assert_allclose(ranked.columns(picked).each(positive), ranked.auroc(positive)[np.arange(5), picked], rtol=1e-12)


def test_a_label_of_one_class_has_no_auroc() -> None:
    assert np.isnan(Ranked.of(np.arange(4.0)[:, None]).auroc(np.ones((1, 4), bool))).all()


def test_intervals_of_an_auroc_cover() -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        label = np.arange(60) % 2 == 0
        low, high = interval(rng.normal(size=60) + label, label)
        held += low <= 0.7602 <= high  # the chance that N(1, 1) is above N(0, 1)
    assert 0.9 < held / 300 < 0.985


@pytest.mark.parametrize(("gap", "value"), [(2.0, 0.9214), (3.0, 0.9831)])
def test_intervals_of_an_auroc_cover_near_its_end(gap: float, value: float) -> None:
    """About the estimate (DeLong, DeLong and Clarke-Pearson 1988) they hold the second in 80 of 100 cases."""
    rng, held = np.random.default_rng(0), 0
    label = np.arange(60) % 2 == 0
    for _ in range(300):
        low, high = interval(rng.normal(size=60) + gap * label, label)
        held += low <= value <= high
    assert 0.93 < held / 300 < 1


def test_a_perfect_auroc_is_not_certain() -> None:
    label = np.arange(20) < 10
    low, high = interval(label.astype(float), label)
    assert low == pytest.approx(0.80, abs=0.01) and high == 1.0
    assert interval(-label.astype(float), label) == (0.0, pytest.approx(1 - low))
    assert interval(label.repeat(10).astype(float), label.repeat(10))[0] > 0.97
    low, high = interval(np.zeros(20), label)
    assert low < 0.4 and high > 0.6


# ---------------------------------------------------------------- regressions


@pytest.mark.parametrize("shape", [(80, 5), (40, 90)])
@pytest.mark.parametrize("c", [1e-5, 1.0, 1e3])
@pytest.mark.parametrize("balanced", [False, True])
def test_the_regression_is_scikit_learns(shape: tuple[int, int], c: float, balanced: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape)
    positive = x[:, 0] + rng.normal(size=len(x)) > 0.7
    ours = fit(x, positive, c, balanced=balanced)
    theirs = LogisticRegression(C=c, tol=1e-10, max_iter=10_000, class_weight="balanced" if balanced else None).fit(x, positive)
    np.testing.assert_allclose(ours(x), theirs.decision_function(x), rtol=1e-3, atol=1e-3 * np.abs(ours(x)).max())


def test_an_l1_penalty_leaves_the_columns_that_matter() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 20))
    positive = x[:, 3] - x[:, 7] > 0
    weight = fit(x, positive, 0.1, penalty="l1").weight
    assert set(np.flatnonzero(np.abs(weight) > 1e-6)) == {3, 7}
    slope = x.T @ (positive - 1 / (1 + np.exp(-fit(x, positive, 0.1, penalty="l1")(x)))) * 0.1
    assert np.abs(slope).max() == pytest.approx(1, abs=1e-3)  # the condition of a minimum


@pytest.mark.parametrize("penalty", ["l2", "l1"])
def test_the_penalty_is_the_one_that_tells_left_out_rows_apart(penalty: str) -> None:
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.normal(size=(100, 1)), rng.normal(size=(100, 60))], axis=1)
    positive = x[:, 0] + rng.normal(size=100) > 0
    found = fit_best(x, positive, penalty=penalty)  # type: ignore[arg-type]
    assert found.c < 10  # sixty columns of noise ask for a strong one
    fresh = np.concatenate([rng.normal(size=(400, 1)), rng.normal(size=(400, 60))], axis=1)
    assert auroc(found(fresh), fresh[:, 0] > 0) > auroc(fit(x, positive, 1e5)(fresh), fresh[:, 0] > 0)


def test_folds_hold_both_classes() -> None:
    positive = np.arange(23) < 7
    fold = folds(positive, 5, 0)
    for i in range(5):
        assert positive[fold == i].any() and (~positive[fold == i]).any()
    one_each = fit_best(np.array([[0.0], [1.0]]), np.array([False, True]))
    assert one_each.c == 1.0
