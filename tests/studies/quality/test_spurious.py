"""TPP and SCR: refused unasked, right where features are known, missing where there is nothing to measure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from armillary.core.report import Report
from armillary.core.rows import TensorRows
from armillary.core.study import Subject
from armillary.errors import InputError
from armillary.studies import spurious
from armillary.studies.quality.labelled import Concept, Panel
from armillary.studies.quality.spurious import Config
from armillary.studies.quality.spurious_parts import Means, strongest, trained
from armillary.studies.quality.spurious_scr import Bias, Removal
from documents import LENGTH
from labelled_documents import signed_fit, with_labels
from toys import SideBySide, random_sae

QUICK = Config(include_unreliable=True, n_bootstrap=100, ns=(1, 2, 8))


def crossed(n: int = 320, seed: int = 0) -> TensorRows:
    """Documents with two labels in every combination, each with a direction of its own; the second's is the stronger."""
    rng = np.random.default_rng(seed)
    one, two = rng.random(n) < 0.5, rng.random(n) < 0.5
    x = 0.3 * rng.normal(size=(n, LENGTH, 6))
    three = rng.integers(3, size=n)
    x[:, :, 0] += np.where(one, 0.8, -0.8)[:, None]
    x[:, :, 1] += np.where(two, 2.5, -2.5)[:, None]
    x[np.arange(n), :, 2 + three] += 2.0
    told = ("red", "green", "blue")
    labels = {i: {"topic": "code" if one[i] else "prose", "tone": "warm" if two[i] else "cold", "colour": told[three[i]]} for i in range(n)}
    return with_labels(torch.from_numpy(x.reshape(-1, 6)), labels)


ROWS = crossed()
FIT = signed_fit(ROWS)


def measure(rows: object = ROWS, fit: object = FIT, **settings: object) -> Report:
    return spurious.run(Subject(fit, rows=rows), config=QUICK.model_copy(update=settings))  # type: ignore[arg-type]


def test_it_is_refused_unasked_and_always_warned_of() -> None:
    with pytest.raises(InputError, match=r"unreliable \(arXiv 2605.18229\): use probing, or pass include_unreliable=True"):
        spurious.run(Subject(FIT, rows=ROWS))
    assert "unreliable" in measure().warnings[0]


def test_ablating_a_class_own_feature_spares_the_others() -> None:
    report = measure()
    assert report["tpp_1"].value > report["tpp_1"].null + 0.05  # type: ignore[operator]
    assert report["tpp_1"].low > 0  # type: ignore[operator]
    assert "colour=red" in report.notes[1]  # the label with the most classes


def test_ablating_the_second_concept_wins_the_accuracy_back() -> None:
    report = measure(pair=("topic=code", "tone=warm"))
    assert report["scr_2"].value > 0.7 and report["scr_2"].value > report["scr_2"].null + 0.3  # type: ignore[operator]
    assert report["scr_2"].units.kind == "document"


def test_the_direction_is_not_chosen_on_held_out_documents() -> None:
    """Which of the two concepts is meant is read off training documents, where the second is the stronger, though held out it is not."""
    first, second = np.arange(400) // 2 % 2 == 1, np.arange(400) % 2 == 1
    x = 0.3 * np.random.default_rng(0).normal(size=(400, 4)) + np.outer(first, [0.8, 0, 0, 0]) + np.outer(second, [0, 2.5, 0, 0])
    weak = x.copy()
    weak[200:, 1] = 1.25  # held out, all are half-way, so that only the first is told
    pair = [Concept(name, name, on, np.arange(200), np.arange(200, 400)) for name, on in (("first", first), ("second", second))]
    train, test = ([rows[np.arange(len(rows)) % 4 == cell] for cell in range(4)] for rows in (np.arange(200), np.arange(200, 400)))
    one, other = (Bias.of(each, pair, train, test, seed=0) for each in (x, weak))
    np.testing.assert_array_equal(one.labels, first[one.judged])
    np.testing.assert_array_equal(other.labels, first[other.judged])
    np.testing.assert_array_equal(one.other, second[one.balanced])
    assert one.clean.mean() > one.before.mean() + 0.1


def test_documents_that_lack_a_label_are_in_no_combination() -> None:
    rows = crossed()
    labels = [dict(document.labels) for document in rows.tokens.documents]  # type: ignore[union-attr]
    for i in range(0, 320, 3):
        del labels[i]["tone"]
    some = with_labels(rows.x, dict(enumerate(labels)))
    panel = Panel.of(some, QUICK, wanted=(), max_concepts=50)
    means = rows.x.reshape(320, LENGTH, 6).mean(1).numpy()
    bias = Removal.of(means, panel, ("topic=code", "tone=warm"), least=2, seed=0).bias
    assert isinstance(bias, Bias)
    assert (np.concatenate([bias.balanced, bias.judged]) % 3 > 0).all()


def test_a_fit_that_does_nothing_has_no_score_rather_than_none() -> None:
    silent = replace(FIT, encoder=replace(FIT.encoder, bias=torch.full((12,), -1e6).double()))
    report = measure(fit=silent, pair=("topic=code", "tone=warm"))
    assert all(one.value is None and "does it ever fire" in one.reason for one in report.estimates.values())


def test_the_null_is_of_more_than_one_draw_of_features() -> None:
    """One feature of twelve wins accuracy back, so a single draw mostly gives 0."""
    nulls = [measure(pair=("topic=code", "tone=warm"), seed=seed)["scr_1"].null for seed in (0, 1)]
    assert all(null is not None and null != 0 for null in nulls)


def test_numbers_beyond_the_features_are_left_out_and_said_to_be() -> None:
    report = measure(ns=(1, 20))
    assert "tpp_20" not in report.estimates and "Left out as the fit has only 12 features: n = 20." in report.warnings


def test_a_label_can_split_documents() -> None:
    labels = [dict(document.labels) for document in ROWS.tokens.documents]  # type: ignore[union-attr]
    told = {i: {**one, "part": "train" if i % 4 else "test"} for i, one in enumerate(labels)}
    assert "320 documents, 80 held out." in measure(with_labels(ROWS.x, told), split="part").notes


def test_subjects_share_a_reading_and_keep_their_own_scores() -> None:
    stream, pair = SideBySide(ROWS), ("topic=code", "tone=warm")
    fits = {"a": FIT, "b": random_sae(ROWS)}
    config = QUICK.model_copy(update={"pair": pair})
    report = spurious.run([Subject(fit, rows=stream, name=name) for name, fit in fits.items()], config=config)
    assert stream.n_reads == 1
    for name, fit in fits.items():
        alone = measure(fit=fit, pair=pair)
        assert {key: report[f"{name}: {key}"] for key in alone.estimates} == dict(alone.estimates)


def test_effects_are_the_definition() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 6))
    positive = np.arange(40) % 2 == 0
    means = Means(x, np.maximum(np.concatenate([x, -x], axis=1), 0), FIT.dictionary)
    probe = trained(x, positive, seed=0)
    gap = means.codes[positive].mean(0) - means.codes[~positive].mean(0)
    along = FIT.dictionary.atoms.numpy() @ probe.weight
    np.testing.assert_allclose(means.effects(np.arange(40), positive, probe, absolute=False), np.maximum(gap, 0) * along, atol=1e-12)
    np.testing.assert_allclose(means.effects(np.arange(40), positive, probe, absolute=True), np.abs(gap * along), atol=1e-12)
    features = np.array([0, 7])
    direct = x.copy()
    direct[:, 0] -= np.maximum(x[:, 0], 0)
    direct[:, 1] += np.maximum(-x[:, 1], 0)
    np.testing.assert_allclose(means.without(np.arange(40), features), direct, atol=1e-12)
    assert strongest(np.array([0.2, 0.0, -1.0, 0.5]), 3).tolist() == [3, 0]


def one_of_two() -> TensorRows:
    return with_labels(ROWS.x, {i: {"topic": "code" if i % 3 else "prose"} for i in range(320)})


def test_what_cannot_be_measured_is_missing() -> None:
    assert "no pair" in measure()["scr_1"].reason
    assert "too few documents" in measure(pair=("topic=code", "tone=blue"))["scr_1"].reason
    same = with_labels(ROWS.x, {i: {"topic": str(i % 2), "tone": str(i % 2)} for i in range(320)})
    assert "a combination of the pair" in measure(same, pair=("topic=1", "tone=1"))["scr_1"].reason
    one = with_labels(ROWS.x, {i: {"topic": "code"} for i in range(320)})
    assert "three classes" in measure(one)["tpp_1"].reason and "three classes" in measure(label="topic")["tpp_1"].reason
    assert "'topic' has 1; name another as label" in measure(one_of_two())["tpp_1"].reason
    reason = measure(pair=("topic=code", "tone=war"))["scr_1"].reason
    assert "tone=war: 0 training documents with it" in reason and "did you mean tone=warm?" in reason
    with pytest.raises(InputError, match="different numbers from 1 on"):
        Config(ns=(0, 2))  # ablating none would score 0
    for pair in (("topic=code",), ("topic", "tone"), ("topic=code", "topic=code")):
        with pytest.raises(InputError, match="must be two concepts"):
            measure(pair=pair)


def test_rows_are_read_once() -> None:
    stream = SideBySide(ROWS)
    assert measure(stream).estimates == measure().estimates
    assert stream.n_reads == 1
