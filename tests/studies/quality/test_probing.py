"""k-sparse probing against its recipe: columns in their own scale, nothing chosen on held-out documents, settings, baselines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score

from armillary.core.dictionary import Dictionary
from armillary.core.report import Report
from armillary.core.rows import TensorRows
from armillary.core.study import Subject
from armillary.errors import InputError
from armillary.studies import probing
from armillary.studies.quality.pooled import Documents
from armillary.studies.quality.probing import Config
from armillary.studies.quality.probing_tasks import Columns, Score, Task, principal
from documents import LENGTH
from labelled_documents import WIDTH, planted, with_labels
from toys import ReluEncoder, SideBySide, fit_of, random_sae

QUICK = Config(n_bootstrap=100, ks=(1, 2, 5), n_random=1)
ROWS, FIT = planted()


def measure(fit: object = FIT, rows: object = ROWS, **settings: object) -> Report:
    config = QUICK.model_copy(update=settings)
    return probing.run(Subject(fit, rows=rows), config=config)  # type: ignore[arg-type]


def tasks(report: Report, name: str, k: int) -> dict[str, object]:
    table = report.tables["tasks"]
    i = next(i for i, pair in enumerate(zip(table["concept"], table["k"], strict=True)) if pair == (name, k))
    return {key: column[i] for key, column in table.items()}


def test_one_feature_suffices_for_what_one_feature_tells() -> None:
    report = measure()
    code, noise = tasks(report, "kind=code", 1), tasks(report, "noise=0", 1)
    assert code["auroc"] == 1.0 and code["best features"] == "0" and code["f1"] > 0.95 and code["accuracy"] > 0.95  # type: ignore[operator]
    assert 0.3 < noise["auroc"] < 0.7  # type: ignore[operator]
    assert code["random features"] < 0.9  # type: ignore[operator]
    assert report["auroc_1"].ceiling == report["full_vector"].value
    assert report["auroc_1"].units.kind == "concept"


def test_a_probe_is_scikit_learns_on_scaled_columns_with_the_penalty_that_was_chosen() -> None:
    report = measure(pool="mean")
    row = tasks(report, "kind=code", 2)
    documents = Documents.of(ROWS, n_documents=None, seed=0)
    is_test = documents.held_out(0.5, None)
    codes = FIT.encode(ROWS.x).dense().reshape(-1, LENGTH, 2 * WIDTH).mean(1).numpy()
    positive = np.array([document.labels["kind"] == "code" for document in documents])
    sides = [_balanced(positive, side) for side in (~is_test, is_test)]
    assert [len(side) for side in sides] == [row["training documents"], row["held-out documents"]]
    best = [int(feature) for feature in str(row["best features"]).split(", ")]
    held = [codes[~is_test][:, feature] for feature in best]
    assert all(column.any() for column in held)
    # both classes are equally frequent here, up to the draw, so the probe on all documents scores nearly the same
    scale = [column[column > 0].mean() for column in held]
    model = LogisticRegression(C=row["C"], tol=1e-10, max_iter=5000).fit(codes[~is_test][:, best] / scale, positive[~is_test])
    score = model.decision_function(codes[is_test][:, best] / scale)
    assert row["auroc"] == pytest.approx(roc_auc_score(positive[is_test], score), abs=0.02)


def _balanced(positive: np.ndarray, side: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    n = min((positive & side).sum(), (~positive & side).sum())
    return np.arange(2 * n)


def test_columns_are_ranked_in_units_of_their_mean_over_non_zeros() -> None:
    rng = np.random.default_rng(0)
    task = probing_task(60)
    positive = task.concept.positive
    table = np.zeros((60, 3))
    table[:, 0] = 100 * rng.random(60) + 20 * positive  # large, hardly different
    table[positive, 1] = 0.01  # tiny, entirely different
    found = Columns.of(table, task, 2)
    assert found.order.tolist() == [1, 0]
    assert found.alive.tolist() == [0, 1]
    assert found.scale[0] == pytest.approx(0.01)


def probing_task(n: int) -> Task:
    from armillary.studies.quality.labelled import Concept

    rows = np.arange(n)
    return Task(Concept("a=b", "a", rows % 2 == 0, rows[: n // 2], rows[n // 2 :]), rows[: n // 2], rows[n // 2 :])


def test_columns_and_principal_axes_do_not_look_at_held_out_documents() -> None:
    """Note 2.4, row 3."""
    task, rng = probing_task(60), np.random.default_rng(0)
    table = rng.normal(size=(60, 6))
    other = table.copy()
    other[task.test] = 50 * rng.normal(size=(30, 6))
    assert Columns.of(table, task, 3).order.tolist() == Columns.of(other, task, 3).order.tolist()
    np.testing.assert_allclose(principal(table, task.train)[task.train], principal(other, task.train)[task.train])


def test_what_is_chosen_does_not_change_with_the_test_documents() -> None:
    is_test = Documents.of(ROWS, n_documents=None, seed=0).held_out(0.5, None)
    other = ROWS.x.clone().reshape(-1, LENGTH, WIDTH)
    other[torch.from_numpy(is_test)] = other[torch.from_numpy(is_test)].roll(3, dims=2)
    one, two = measure(), measure(rows=TensorRows(other.reshape(-1, WIDTH), tokens=ROWS.tokens))
    assert one.tables["tasks"]["C"] == two.tables["tasks"]["C"]
    assert one.tables["tasks"]["best features"] == two.tables["tasks"]["best features"]
    assert tasks(two, "kind=code", 1)["auroc"] < 0.8  # type: ignore[operator]


def test_scores_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    score, positive = rng.normal(size=50), rng.random(50) < 0.4
    found = Score.of(score, positive)
    assert found.auroc == pytest.approx(roc_auc_score(positive, score))
    assert found.f1 == pytest.approx(f1_score(positive, score > 0))
    assert Score.of(-np.ones(50), positive).f1 == 0.0


def test_settings_draw_the_documents_they_say() -> None:
    normal, scarce, few = (measure(setting=setting, n_scarce=8, positive_share=0.2) for setting in ("normal", "scarcity", "imbalance"))
    assert tasks(normal, "kind=code", 1)["training documents"] > 60  # type: ignore[operator]
    assert tasks(scarce, "kind=code", 1)["training documents"] == 8
    assert tasks(scarce, "kind=code", 1)["held-out documents"] == tasks(normal, "kind=code", 1)["held-out documents"]
    documents = tasks(few, "kind=code", 1)["training documents"]
    assert isinstance(documents, int) and documents < 65
    from armillary.studies.quality.labelled import Concept

    rows = np.arange(200)
    concept = Concept("a=b", "a", rows % 4 == 0, rows[:100], rows[100:])
    for share in (0.5, 0.1):
        task = Task.of(concept, share=share, n_train=40, n_test=None, seed=0)
        assert len(task.train) == 40 and task.labels.mean() == pytest.approx(share)
        assert task.test_labels.mean() == pytest.approx(share, abs=0.02)


def test_a_fit_with_few_features_leaves_the_larger_k_out_and_says_so() -> None:
    report = measure(ks=(1, 16, 17))
    assert "auroc_16" in report.estimates and "auroc_17" not in report.estimates
    assert any("only 16 features: k = 17" in warning for warning in report.warnings)
    assert report["above_raw_16"].value is None and "fewer than 16 raw dimensions" in report["above_raw_16"].reason


def test_features_that_are_raw_dimensions_are_no_better_than_these() -> None:
    eye = torch.eye(WIDTH, dtype=torch.float64)
    shifted = TensorRows(ROWS.x + 10, tokens=ROWS.tokens)  # positive everywhere, so that nothing is cut off
    fit = fit_of(Dictionary.of_directions(eye), ReluEncoder(eye, torch.zeros(WIDTH, dtype=torch.float64)), shifted)
    report = measure(fit, shifted)
    for k in (1, 2, 5):
        assert report[f"above_raw_{k}"].value == pytest.approx(0, abs=1e-9)
    assert any("no better than 1 raw dimension." in warning for warning in report.warnings)


@pytest.mark.parametrize("penalty", ["l1", "l2"])
def test_either_penalty_finds_the_planted_feature(penalty: str) -> None:
    report = measure(penalty=penalty, concepts=("kind",), ks=(5,))
    assert tasks(report, "kind=code", 5)["auroc"] > 0.95  # type: ignore[operator]


def test_a_fit_that_never_fires_is_said_to_and_names_no_feature() -> None:
    silent = replace(FIT, encoder=replace(FIT.encoder, bias=torch.full((2 * WIDTH,), -1e6).double()))
    report = measure(silent)
    assert any("No feature fires in a training document of 2 of the concepts" in warning for warning in report.warnings)
    assert set(report.tables["tasks"]["best features"]) == {""}
    assert report["auroc_5"].value == 0.5
    assert not any("fire" in warning for warning in measure().warnings)


def test_features_that_never_fire_are_not_among_the_best() -> None:
    bias = torch.full((2 * WIDTH,), -1e6).double()
    bias[:2] = -0.4
    report = measure(replace(FIT, encoder=replace(FIT.encoder, bias=bias)))
    assert set(str(tasks(report, "kind=code", 5)["best features"]).split(", ")) == {"0", "1"}
    assert any("only 2 features fire in a training document: a probe of more is one of these" in warning for warning in report.warnings)


def test_few_held_out_documents_with_a_concept_are_warned_of() -> None:
    few = measure(setting="imbalance", positive_share=0.05)
    assert any("held-out documents with them" in warning for warning in few.warnings)
    assert not any("held-out documents with them" in warning for warning in measure().warnings)


def test_words_that_tell_the_concept_are_said_to() -> None:
    kinds = np.repeat(np.arange(160) % 2, LENGTH)
    report = measure(rows=with_labels(ROWS.x, {i: {"kind": str(i % 2)} for i in range(160)}, 5 + kinds))
    assert report["bag_of_words"].value == 1.0
    assert any("words alone" in warning for warning in report.warnings)


def test_labels_of_one_class_give_no_estimate_and_no_zero() -> None:
    report = measure(concepts=("constant",))
    assert all(one.value is None for one in report.estimates.values())
    assert "without it" in report["auroc_1"].reason
    only = measure(concepts=("kind=code", "kind=poem"))
    assert only.tables["left_out"]["concept"] == ["kind=poem"]


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match="different numbers from 1 on"):
        Config(ks=(0, 1))
    with pytest.raises(InputError, match="no document has a label"):
        measure(rows=with_labels(ROWS.x, {}))
    assert Config(ks=(5, 1)).ks == (1, 5)


def test_the_size_of_batches_changes_nothing_and_subjects_share_a_reading() -> None:
    sae = random_sae(ROWS)
    assert measure(sae, batch_size=7).tables == measure(sae).tables
    stream = SideBySide(ROWS)
    report = probing.run([Subject(fit, rows=stream, name=name) for name, fit in (("a", FIT), ("b", sae))], config=QUICK)
    assert stream.n_reads == 1
    names = [trace["name"] for trace in report.figures["curves"]["data"]]
    assert names[:2] == ["a", "b"] and "all dimensions" in names
