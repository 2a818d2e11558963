"""Comparing: what was measured is kept, seeds are put together, and one fit that a study refuses does not spoil the others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import armillary as arm
from armillary import studies
from armillary.app.comparing import results
from armillary.app.comparing.claims import Claim, judged
from armillary.app.comparing.run import Asked, More, apart, by_method, compare
from armillary.core.config import Config
from armillary.core.report import Estimate, Report
from armillary.core.rows import TensorRows
from armillary.core.statistics import Units, mean_interval
from armillary.core.study import Subject, as_subjects
from armillary.core.task import Pair, Prompt, Task
from armillary.errors import InputError
from armillary.studies.together import together

X = torch.randn(400, 6, generator=torch.Generator().manual_seed(0))

ROWS = TensorRows(X)


class Settings(Config):
    """Of the study below."""

    scale: float = 1.0
    """Factor."""


class Counting:
    """A study that says how many features a fit has, in documents, and how often it was asked."""

    needs = accepts = frozenset[str]()

    def __init__(self) -> None:
        self.asked = 0

    def run(self, subjects: Any, *, config: Settings = Settings()) -> Report:  # noqa: B008
        self.asked += 1
        some = as_subjects(subjects)
        if any(one.fit().n_features > 5 for one in some):
            raise InputError("too many features")
        return together("counting", [_counted(one, config) for one in some])


def _counted(subject: Subject, config: Settings) -> Report:
    values = config.scale * (subject.fit().n_features + np.random.default_rng(0).normal(size=50))
    low, high = mean_interval(values)
    units = Units.of_values("document", values)
    estimate = Estimate(float(values.mean()), low, high, 50, null=0.0, better="higher", units=units)
    return Report(subject.label, {"size": estimate, "l0": Estimate(2.0)}, warnings=["a warning"] if subject.fit().n_features == 2 else [])


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    study = Counting()
    monkeypatch.setattr(studies, "load", lambda name: study)
    return study


def fits() -> list[Subject]:
    return [
        Subject(arm.PCA(n_components=2).fit(X), rows=ROWS, name="pca"),
        *(Subject(arm.KMeans(n_features=4).fit(X, seed=seed), rows=ROWS, name=f"kmeans-s{seed}") for seed in (0, 1)),
    ]


def test_seeds_are_one_method_and_methods_are_told_apart(tmp_path: Path, counting: Counting) -> None:
    found = compare([Asked("counting", Settings(), shown=("size",))], fits(), folder=tmp_path, title="t")
    assert found.methods == ("pca", "kmeans")
    (row,) = found.rows
    assert row.name == "size" and row.cells["kmeans"].rank == 1 and row.cells["kmeans"].standing == "apart"
    assert found.budget["kmeans"] == {"features": 4, "atoms": 4, "atoms per row": 1.0, "seeds": 2}
    assert any("budget of atoms" in warning for warning in found.warnings) and found.remarks == ["counting: a warning (pca)"]


def test_what_was_measured_is_not_measured_again_unless_the_question_changes(tmp_path: Path, counting: Counting) -> None:
    some = fits()
    first = compare([Asked("counting", Settings())], some, folder=tmp_path, title="t")
    again = compare([Asked("counting", Settings())], some, folder=tmp_path, title="t")
    assert counting.asked == 1
    assert json.dumps(first.to_json()) == json.dumps(again.to_json())
    compare([Asked("counting", Settings(scale=2.0))], some, folder=tmp_path, title="t")
    compare(
        [Asked("counting", Settings(scale=2.0))],
        [replace(some[0], what=arm.PCA(n_components=3).fit(X)), *some[1:]],
        folder=tmp_path,
        title="t",
    )
    assert counting.asked == 3


def test_a_fit_that_is_refused_is_missing_and_says_why(tmp_path: Path, counting: Counting) -> None:
    some = [*fits(), Subject(arm.PCA(n_components=6).fit(X), name="large")]
    (size, _) = compare([Asked("counting", Settings())], some, folder=tmp_path, title="t").rows
    assert size.cells["large"].standing == "missing" and size.cells["large"].estimate.reason == "too many features"
    assert size.cells["pca"].standing == "apart"


def test_fits_of_one_name_are_refused(tmp_path: Path, counting: Counting) -> None:
    with pytest.raises(InputError, match="pca is the name of several of these 2 fits"):
        compare([Asked("counting", Settings())], [fits()[0], fits()[0]], folder=tmp_path, title="t")


def test_another_encoder_or_other_classes_are_no_other_seed() -> None:
    pca = arm.PCA(n_components=3).fit(X)
    other = replace(pca.with_encoder(arm.OrthogonalPursuit(k=1)), provenance={**pca.provenance, "seed": 1})
    assert list(by_method([Subject(pca, name="a"), Subject(other, name="b")])) == ["a", "b"]
    one, two = (arm.DiffMeans().fit(arm.Labelled.of(X, [(i // n) % 2 == 0 for i in range(400)])) for n in (1, 2))
    kinds = [replace(fit, provenance={**fit.provenance, "seed": i, "classes": [str(i)]}) for i, fit in enumerate((one, two))]
    assert list(by_method([Subject(kinds[0], name="a-s0"), Subject(kinds[1], name="a-s1")])) == ["a-s0", "a-s1"]
    again = [Subject(pca, name="p"), Subject(pca, name="q")]
    assert list(by_method(again)) == ["p", "q"], "the same seed twice"


def test_what_an_encoder_found_is_not_taken_for_what_another_finds(tmp_path: Path, counting: Counting) -> None:
    pca = arm.PCA(n_components=3).fit(X)
    for fit in (pca, pca.with_encoder(arm.OrthogonalPursuit(k=1)), pca.with_encoder(arm.OrthogonalPursuit(k=2))):
        compare([Asked("counting", Settings())], [Subject(fit, name="pca")], folder=tmp_path, title="t")
    assert counting.asked == 3


def test_a_method_that_cannot_be_made_is_missing_and_the_others_are_measured(tmp_path: Path, counting: Counting) -> None:
    def fail(one: Asked) -> dict[str, Estimate]:
        raise InputError("the model can do none of the pairs")

    one = Prompt("a", "b")
    task = Task("task", (), (Pair(one, one, "x", "b", "cause"),))
    asked = [Asked("counting", Settings(), task=task), Asked("counting", Settings())]
    found = compare(asked, fits(), folder=tmp_path, title="t", more={"das": More(fail, {})})
    (cell,) = [row.cells["das"] for row in found.rows if row.study == "counting: task" and row.name == "size"]
    assert cell.estimate.reason == "the model can do none of the pairs" and "das" not in found.budget
    assert all(row.cells["pca"].estimate.value is not None for row in found.rows)


def test_results_of_another_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(InputError, match="remove it"):
        results.read(tmp_path / "x.json", "key")


def test_estimates_come_back_as_they_were(tmp_path: Path) -> None:
    one = _counted(fits()[0], Settings()).estimates["size"]
    results.write(tmp_path / "x.json", "key", {"a": {"size": one, "none": Estimate.missing("why")}}, warnings=[], seconds=1.0)
    told = results.read(tmp_path / "x.json", "key")
    assert told is not None and results.read(tmp_path / "x.json", "other") is None
    back = told[0]["a"]["size"]
    assert back == one and back.units is not None and one.units is not None
    assert np.array_equal(back.units.numerator, one.units.numerator) and told[0]["a"]["none"].reason == "why"


def test_a_report_on_several_subjects_comes_apart() -> None:
    reports = [Report(name, {"x": Estimate(value)}) for name, value in (("a", 1.0), ("a: b", 2.0))]
    assert apart(together("t", reports), ["a", "a: b"])["a: b"]["x"].value == 2.0


def test_names_that_say_nothing_of_a_seed_stay() -> None:
    assert list(by_method(fits()[:1])) == ["pca"]


# ---------------------------------------------------------------- claims


@pytest.mark.parametrize(
    ("ours", "theirs", "sign", "verdict"),
    [
        ("kmeans", "pca", 1, "holds"),
        ("pca", "kmeans", 1, "does not hold"),
        ("pca", "pca2", 1, "cannot be told"),
        ("pca", "pca2", 0, "holds"),
        ("pca", "kmeans", 0, "does not hold"),
        ("pca", None, 1, "holds"),
        ("pca", "absent", 1, "cannot be told"),
    ],
)
def test_claims_are_judged_by_paired_differences(ours: str, theirs: str | None, sign: Any, verdict: str) -> None:
    row = {subject.label.split("-")[0]: [_counted(subject, Settings()).estimates["size"]] for subject in fits()}
    row["pca2"] = row["pca"]
    claim = Claim("a claim", "a paper", "counting", "size", ours, theirs, sign, margin=0.5 if sign == 0 else 0.0)
    found = judged([claim], {("counting: task", "size"): row})
    assert found["verdict"] == [verdict] and found["measured in"] == ["counting: task, size"]


def test_two_that_are_at_their_null_are_not_called_as_good() -> None:
    """Where nobody finds anything, no one is as good as another."""
    one = Estimate(0.5, 0.4, 0.6, 50, null=0.5, better="higher", units=Units.of_values("document", np.linspace(0.4, 0.6, 50)))
    claim = Claim("a claim", "a paper", "counting", "size", "a", "b", 0, margin=0.5)
    assert judged([claim], {("counting", "size"): {"a": [one], "b": [one]}})["verdict"] == ["cannot be told"]
    above = replace(one, null=0.0)
    assert judged([claim], {("counting", "size"): {"a": [above], "b": [above]}})["verdict"] == ["holds"]


def test_a_claim_about_what_was_not_measured_cannot_be_told() -> None:
    found = judged([Claim("a claim", "a paper", "steering", "area", "a", "b")], {})
    assert found["verdict"] == ["cannot be told"] and found["difference"] == [None]
