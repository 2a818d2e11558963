"""TPP and SCR: refused unasked, right where features are known, missing where there is nothing to measure."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from armillary.core.report import Report
from armillary.core.rows import TensorRows
from armillary.core.study import Subject
from armillary.errors import InputError
from armillary.studies import spurious
from armillary.studies.quality.spurious import Config
from armillary.studies.quality.spurious_parts import Means, strongest, trained
from documents import LENGTH
from labelled_documents import signed_fit, with_labels
from toys import SideBySide

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


def measure(rows: object = ROWS, **settings: object) -> Report:
    return spurious.run(Subject(FIT, rows=rows), config=QUICK.model_copy(update=settings))  # type: ignore[arg-type]


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


def test_what_cannot_be_measured_is_missing() -> None:
    assert "no pair" in measure()["scr_1"].reason
    assert "too few documents" in measure(pair=("topic=code", "tone=blue"))["scr_1"].reason
    same = with_labels(ROWS.x, {i: {"topic": str(i % 2), "tone": str(i % 2)} for i in range(320)})
    assert "a combination of the pair" in measure(same, pair=("topic=1", "tone=1"))["scr_1"].reason
    one = with_labels(ROWS.x, {i: {"topic": "code"} for i in range(320)})
    assert "three classes" in measure(one)["tpp_1"].reason and "three classes" in measure(label="topic")["tpp_1"].reason
    with pytest.raises(InputError, match="must be two concepts"):
        measure(pair=("topic=code",))


def test_rows_are_read_once() -> None:
    stream = SideBySide(ROWS)
    assert measure(stream).estimates == measure().estimates
    assert stream.n_reads == 1
