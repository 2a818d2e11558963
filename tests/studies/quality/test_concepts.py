"""Concept detection: planted features, chosen on one side and judged on the other; every number against a direct one."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from armillary.core.dictionary import Dictionary
from armillary.core.report import Report
from armillary.core.rows import TensorRows
from armillary.core.study import Subject
from armillary.errors import InputError, UnknownNameError
from armillary.studies import concepts
from armillary.studies.quality.bag_of_words import hard_negatives, weigh, word_counts
from armillary.studies.quality.concept_picks import dealings, picks
from armillary.studies.quality.concepts import Config
from armillary.studies.quality.labelled import Concept
from armillary.studies.quality.pooled import Documents, Pooled
from documents import LENGTH
from labelled_documents import WIDTH, planted, signed_fit, with_labels
from toys import SideBySide, identity_fit, random_sae

QUICK = Config(n_bootstrap=100, n_draws=20)
ROWS, FIT = planted()


def measure(fit: object = FIT, rows: object = ROWS, **settings: object) -> Report:
    config = QUICK.model_copy(update=settings)
    return concepts.run(Subject(fit, rows=rows), config=config)  # type: ignore[arg-type]


def of_concept(report: Report, name: str) -> dict[str, object]:
    table = report.tables["concepts"]
    i = list(table["concept"]).index(name)
    return {key: column[i] for key, column in table.items()}


def test_a_planted_feature_is_found_and_noise_is_not() -> None:
    report = measure(concepts=("kind=code", "kind=prose", "noise=0", "noise=1"))
    code, noise = of_concept(report, "kind=code"), of_concept(report, "noise=1")
    assert (code["feature"], code["sign"]) == (0, 1)
    assert code["auroc"] == 1.0 and code["p"] == pytest.approx(1 / 21)
    low, high = noise["least"], noise["most"]
    assert isinstance(low, float) and isinstance(high, float) and low < 0.5 < high
    # choosing among sixteen features gains something on the side it is done on, and nothing on the other
    assert report["auroc_train"].null > 0.55
    assert report["auroc"].null == pytest.approx(0.5, abs=0.05)
    assert report["auroc"].ceiling == report["full_vector"].value


def test_a_draw_of_the_null_deals_all_values_of_a_label_together() -> None:
    """What a column tells of one of two values its negative tells of the other, so each draw must give both the same."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 5))
    rows, positive = np.arange(400), rng.random(400) < 0.4
    train, test = rows[:200], rows[200:]
    for other in ("kind", "tone"):  # another label of the same documents may say the same
        two = [Concept("kind=a", "kind", positive, train, test), Concept(f"{other}=b", other, ~positive, train, test)]
        one, negative = picks(Pooled(x, x, x), two, n_draws=30, seed=0)
        np.testing.assert_allclose(one.null_test, negative.null_test)
        np.testing.assert_allclose(one.null_train, negative.null_train)
        assert one.null_test.std() > 0.01 and len(one.null_test) == 30


def test_labels_that_most_documents_share_are_dealt_alike() -> None:
    """A document without one of two labels that say the same must not break up their draws."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 5))
    rows, positive = np.arange(400), rng.random(400) < 0.4
    fewer = np.delete(rows, [3, 150, 260])
    two = [Concept("kind=a", "kind", positive, rows[:200], rows[200:])]
    two.append(Concept("tone=a", "tone", positive, fewer[fewer < 200], fewer[fewer >= 200]))
    one, other = picks(Pooled(x, x, x), two, n_draws=100, seed=0)
    assert np.corrcoef(one.null_train, other.null_train)[0, 1] > 0.9


def test_a_feature_that_never_fires_is_no_choice_though_all_others_do_worse() -> None:
    positive = np.arange(200) % 2 == 0
    x = np.zeros((200, 3))
    x[~positive, 1:] = 1.0  # what fires, fires without the concept
    (one,) = picks(Pooled(x, x, x), [Concept("kind=a", "kind", positive, np.arange(100), np.arange(100, 200))], n_draws=5, seed=0)
    assert one.is_tied and one.train == 0.5


def test_dealings_of_some_documents_are_uniform_orders_of_them() -> None:
    orders = np.array(list(permutations(range(5))))
    has_label = np.array([True, False, True, True, False])
    found = Counter(map(tuple, dealings(orders, has_label).tolist()))
    assert found == Counter(dict.fromkeys(permutations(range(3)), 20))  # each of six orders as often as any other
    np.testing.assert_array_equal(dealings(orders, np.ones(5, bool)), orders)


def test_the_table_equals_scikit_learns_numbers() -> None:
    report = measure(concepts=("kind=code", "noise=0"))
    documents = Documents.of(ROWS, n_documents=None, seed=0)
    is_test = documents.held_out(0.5, None)
    codes = FIT.encode(ROWS.x).dense().reshape(-1, LENGTH, 2 * WIDTH).amax(1).numpy()
    for name, label, value in (("kind=code", "kind", "code"), ("noise=0", "noise", "0")):
        positive = np.array([document.labels[label] == value for document in documents])
        train = [roc_auc_score(positive[~is_test], column) for column in codes[~is_test].T]
        row = of_concept(report, name)
        assert row["feature"] == int(np.argmax(train)) and row["auroc_train"] == pytest.approx(max(train))
        assert row["auroc"] == pytest.approx(roc_auc_score(positive[is_test], codes[is_test, int(np.argmax(train))]))


def test_nothing_is_chosen_on_held_out_documents() -> None:
    """The reference code keeps what is best on test data: note 2.4, row 3."""
    is_test = Documents.of(ROWS, n_documents=None, seed=0).held_out(0.5, None)
    other = ROWS.x.clone().reshape(-1, LENGTH, WIDTH)
    other[torch.from_numpy(is_test)] = other[torch.from_numpy(is_test)].roll(3, dims=2)  # the concept is elsewhere in test documents
    rows = TensorRows(other.reshape(-1, WIDTH), tokens=ROWS.tokens)
    one, two = measure(), measure(rows=rows)
    for name in ("feature", "sign", "auroc_train"):
        assert one.tables["concepts"][name] == two.tables["concepts"][name]
    assert of_concept(two, "kind=code")["auroc"] < 0.8  # type: ignore[operator]


def test_constant_scores_count_a_half() -> None:
    bias = torch.full((2 * WIDTH,), -1e6).double()
    report = measure(replace(FIT, encoder=replace(FIT.encoder, bias=bias)))
    assert report["auroc"].value == 0.5 and report["auroc_train"].value == 0.5 and report["auroc_hard"].value == 0.5


def test_a_fit_that_never_fires_is_said_to_and_names_no_feature() -> None:
    bias = torch.full((2 * WIDTH,), -1e6).double()
    report = measure(replace(FIT, encoder=replace(FIT.encoder, bias=bias)))
    assert any("No feature fires in a training document of 2 of the concepts" in warning for warning in report.warnings)
    assert report.tables["concepts"]["feature"] == [None, None] == report.tables["concepts"]["sign"]
    assert report["s_cd"].value is None and "no feature was picked" in report["s_cd"].reason  # not that of the first atom
    assert not any("No feature fires" in warning for warning in measure().warnings)
    assert not any("lengths alone" in warning for warning in report.warnings)  # neither tells anything


def test_a_feature_of_either_sign_counts() -> None:
    """A dense fit whose first axis points away from the concept."""
    turned = identity_fit(ROWS)
    encoder = replace(turned.encoder, weight=-turned.encoder.weight)  # type: ignore[type-var]
    flipped = replace(turned, encoder=encoder, dictionary=Dictionary.of_directions(-turned.dictionary.atoms))
    row = of_concept(measure(flipped), "kind=code")
    assert (row["feature"], row["sign"], row["auroc"]) == (0, -1, 1.0)
    assert row["s_cd"] == of_concept(measure(), "kind=code")["s_cd"]  # of the direction that tells it, not of the atom


# ---------------------------------------------------------------- S_CD


def test_s_cd_does_not_see_the_length_of_a_direction_but_its_sign() -> None:
    one, long = (measure(signed_fit(ROWS, scale)) for scale in (1.0, 50.0))
    assert one["s_cd"].value == pytest.approx(long["s_cd"].value)
    assert one["auroc"].value == pytest.approx(long["auroc"].value)
    turned = measure(replace(FIT, dictionary=Dictionary.of_directions(-FIT.dictionary.atoms)))
    assert turned["auroc"].value == one["auroc"].value  # the codes are the same
    assert of_concept(turned, "kind=code")["s_cd"] != of_concept(one, "kind=code")["s_cd"]


def test_s_cd_is_the_log_of_the_ratio_of_mean_largest_cosines() -> None:
    documents = Documents.of(ROWS, n_documents=None, seed=0)
    is_test = documents.held_out(0.5, None)
    cosine = torch.nn.functional.normalize(ROWS.x, dim=1)[:, 0].reshape(-1, LENGTH).amax(1).numpy()
    positive = np.array([document.labels["kind"] == "code" for document in documents])
    expected = math.log(cosine[is_test & positive].mean() / cosine[is_test & ~positive].mean())
    assert of_concept(measure(), "kind=code")["s_cd"] == pytest.approx(expected, rel=1e-6)


def test_special_tokens_do_not_count() -> None:
    tokens = ROWS.tokens
    assert tokens is not None
    x = ROWS.x.clone()
    first = torch.from_numpy(tokens.position == 0)
    x[first, 0] = 1e3  # as large as a BOS
    rows = TensorRows(x, tokens=replace(tokens, is_special=tokens.position == 0))
    row = of_concept(measure(rows=rows), "kind=code")
    assert row["auroc"] > 0.95 and row["s_cd"] > 0.1  # type: ignore[operator]


def test_without_a_second_reading_s_cd_is_missing_and_says_why() -> None:
    assert "switched off" in measure(cosines=False)["s_cd"].reason
    stream = SideBySide(ROWS)
    report = measure(rows=stream)
    assert stream.n_reads == 1 and "live stream" in report["s_cd"].reason
    assert report["auroc"].value == measure()["auroc"].value


# ---------------------------------------------------------------- words and baselines


def test_hard_negatives_share_words_and_rarity_is_learnt_on_training_documents() -> None:
    ids = np.random.default_rng(0).integers(100, 200, size=len(ROWS.x))
    for document, own in ((1, 7), (3, 7), (5, 7)):
        ids[document * LENGTH : document * LENGTH + 5] = own
    rows = with_labels(ROWS.x, {}, ids)
    documents = Documents.of(rows, n_documents=None, seed=0)
    is_train = np.arange(len(documents)) != 3
    words = weigh(word_counts(documents), is_train)
    assert set(hard_negatives(words, np.array([1]), np.array([2, 3, 4, 5, 6]), 2)) == {3, 5}
    np.testing.assert_allclose(np.asarray(words.multiply(words).sum(1)).ravel(), 1)
    alone = np.full(len(ids), 9)
    alone[3 * LENGTH :: 1] = 9
    alone[3 * LENGTH : 4 * LENGTH] = 10  # only in the document that is held out
    held = weigh(word_counts(Documents.of(with_labels(ROWS.x, {}, alone), n_documents=None, seed=0)), is_train)
    assert held[3].nnz == 0 or not held[3].data.any()


def test_words_that_tell_the_concept_are_said_to() -> None:
    kinds = np.repeat(np.arange(160) % 2, LENGTH)
    rows = with_labels(ROWS.x, {i: {"kind": str(i % 2)} for i in range(160)}, 5 + kinds)
    report = measure(rows=rows)
    assert report["bag_of_words"].value == 1.0
    assert any("words alone" in warning for warning in report.warnings)


def test_what_the_length_of_documents_tells_stands_beside_the_features() -> None:
    """A maximum over more tokens is larger: noise tells long documents from short ones."""
    rng = np.random.default_rng(0)
    tokens = ROWS.tokens
    assert tokens is not None
    is_long = rng.random(160) < 0.5
    counts = is_long[tokens.document] | (tokens.position < 3)
    rows = with_labels(torch.from_numpy(rng.normal(size=ROWS.x.shape)), {i: {"is": "long" if is_long[i] else "short"} for i in range(160)})
    assert rows.tokens is not None
    report = measure(rows=TensorRows(rows.x, tokens=replace(rows.tokens, is_special=~counts)))
    assert report["length"].value == 1.0 and report["length"].null == 0.5
    assert report["auroc"].value > 0.8  # of noise  # type: ignore[operator]
    assert any("lengths alone" in warning for warning in report.warnings)
    assert measure()["length"].value == 0.5  # where all are of one length
    flipped = {i: {"is": "long" if is_long[i] else "short", "few": "yes" if not is_long[i] and i % 3 else "no"} for i in range(160)}
    shorter = with_labels(rows.x, flipped)
    assert shorter.tokens is not None
    few = measure(rows=TensorRows(rows.x, tokens=replace(shorter.tokens, is_special=~counts)), concepts=("few=yes",))
    assert few["length"].value > 0.6  # shorter ones  # type: ignore[operator]


def test_the_ceiling_and_the_raw_dimension_find_the_planted_direction() -> None:
    row = of_concept(measure(), "kind=code")
    assert row["full_vector"] > 0.9 and row["diffmeans"] > 0.9 and row["raw_dimension"] == 1.0  # type: ignore[operator]


# ---------------------------------------------------------------- what cannot be asked


def test_a_value_that_no_document_has_is_answered_with_the_nearest_ones() -> None:
    report = measure(concepts=("kind=prosa", "kind=code", "rare=yes"))
    assert "No document has kind=prosa; did you mean kind=prose?" in report.warnings
    assert not any("kind=code" in warning or "No document has rare" in warning for warning in report.warnings[1:])
    alone = measure(concepts=("kind=prosa",))
    assert alone["auroc"].value is None and "lower min_positives or ask for another label" in alone["auroc"].reason
    assert any("did you mean kind=prose" in warning for warning in alone.warnings)


def test_concepts_without_documents_are_left_out_and_named() -> None:
    report = measure(concepts=("kind=code", "kind=poem", "rare=yes", "constant"))
    left = dict(zip(*report.tables["left_out"].values(), strict=True))
    assert left["kind=poem"] == "0 training documents with it, and 10 are needed"
    assert "with it" in left["rare=yes"] and "without it" in left["constant=one"]
    assert report.tables["concepts"]["concept"] == ["kind=code"]
    assert report["auroc"].n == 1 and report["auroc"].low is None
    assert "3 of the concepts asked for have no value" in report.warnings[0]


def test_of_a_label_of_two_values_the_rarer_one_is_a_concept() -> None:
    labels = {i: {"kind": "a" if i % 5 < 3 else "b", "three": "xyz"[i % 3]} for i in range(160)}
    rows = with_labels(ROWS.x, labels)
    assert sorted(measure(rows=rows).tables["concepts"]["concept"]) == ["kind=b", "three=x", "three=y", "three=z"]
    assert sorted(measure(rows=rows, concepts=("kind=a", "kind")).tables["concepts"]["concept"]) == ["kind=a", "kind=b"]


def test_values_of_few_documents_are_left_out_in_one_line() -> None:
    labels = {i: {"id": str(i), "kind": "abc"[i % 3] if i > 15 else f"odd {i // 4}"} for i in range(160)}
    report = measure(rows=with_labels(ROWS.x, labels))
    assert sorted(report.tables["concepts"]["concept"]) == ["kind=a", "kind=b", "kind=c"]
    assert dict(zip(*report.tables["left_out"].values(), strict=True)) == {
        "id": "160 of its 160 values are in fewer than 20 documents, the commonest of them in 1",
        "kind": "4 of its 7 values are in fewer than 20 documents, the commonest of them in 4",
    }


def test_labels_of_one_class_give_no_estimate_and_no_zero() -> None:
    report = measure(concepts=("constant",))
    assert all(one.value is None for one in report.estimates.values())
    assert "constant=one: 0 training documents without it" in report["auroc"].reason


def test_bad_input_is_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown label 'kinds'\. Did you mean 'kind'"):
        measure(concepts=("kinds=code",))
    with pytest.raises(InputError, match="no document has a label"):
        measure(rows=with_labels(ROWS.x, {}))
    split = {i: {"split": "train" if i % 2 else "test"} for i in range(160)}
    with pytest.raises(InputError, match="no document has a label but 'split', by which they are split"):
        measure(rows=with_labels(ROWS.x, split), split="split")
    with pytest.raises(InputError, match="the rows have no text"):
        measure(rows=TensorRows(ROWS.x))


def test_a_label_can_split_documents_and_is_then_no_concept() -> None:
    labels = {i: {"kind": str(i % 2), "split": "train" if i % 3 else "test"} for i in range(160)}
    report = measure(rows=with_labels(ROWS.x, labels), split="split")
    assert set(report.tables["concepts"]["concept"]) == {"kind=0"}
    row = of_concept(report, "kind=0")
    assert row["with it, training"] == sum(i % 3 > 0 and i % 2 == 0 for i in range(160))


@pytest.mark.parametrize("size", [7, 333, 100_000])
def test_the_size_of_batches_changes_nothing(size: int) -> None:
    sae = random_sae(ROWS)
    assert measure(sae, batch_size=size).tables == measure(sae).tables


def test_several_subjects_share_the_reading_and_are_paired_by_concept() -> None:
    stream = SideBySide(ROWS)
    report = concepts.run([Subject(fit, rows=stream, name=name) for name, fit in (("a", FIT), ("b", random_sae(ROWS)))], config=QUICK)
    assert stream.n_reads == 1
    differences = report.tables["differences"]
    assert differences["verdict"][list(differences["estimate"]).index("auroc")] in ("better", "not distinguishable")
    assert report["a: auroc"].units.kind == "concept"


def test_s_cd_of_several_subjects_takes_one_more_reading() -> None:
    class Stored(SideBySide):
        def read(self, row: np.ndarray) -> torch.Tensor:  # type: ignore[type-arg]
            return self.x[torch.from_numpy(row)]

    stored = Stored(ROWS)
    report = concepts.run([Subject(fit, rows=stored, name=name) for name, fit in (("a", FIT), ("b", signed_fit(ROWS, 3.0)))], config=QUICK)
    assert stored.n_reads == 2
    assert report["a: s_cd"].value == measure()["s_cd"].value == pytest.approx(report["b: s_cd"].value)
