"""Comparing: what was measured is kept, seeds are put together, and one fit that a study refuses does not spoil the others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import armillary as arm
from armillary import studies
from armillary.app.comparing import claims, files, results
from armillary.app.comparing.claims import Claim, judged
from armillary.app.comparing.recipes import Budget, Recipe
from armillary.app.comparing.run import Asked, More, apart, by_method, compare, record_of
from armillary.app.replications import comparison
from armillary.core.comparison_view import markdown, page
from armillary.core.config import Config
from armillary.core.report import Estimate, Report, plain
from armillary.core.rows import TensorRows
from armillary.core.statistics import Units, mean_interval
from armillary.core.study import Subject, as_subjects
from armillary.core.task import Pair, Prompt, Task
from armillary.errors import InputError, MismatchError, OutputExistsError
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


@pytest.mark.parametrize("shown", [("size", "l0"), ()])
def test_a_study_that_refuses_every_fit_says_why(shown: tuple[str, ...], tmp_path: Path, counting: Counting) -> None:
    some = [Subject(arm.PCA(n_components=6).fit(X), name=name) for name in ("one", "two")]
    found = compare([Asked("counting", Settings(), shown=shown)], some, folder=tmp_path, title="t")
    assert [row.name for row in found.rows] == (list(shown) or [""])
    assert {cell.estimate.reason for row in found.rows for cell in row.cells.values()} == {"too many features"}
    assert "too many features" in markdown(found) and "too many features" in page(found)


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


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "null",
        '{"schema": 1, "key": "key"}',
        '{"schema": 1, "key": "key", "found": [], "warnings": []}',
        '{"schema": 1, "key": "key", "found": {"a": {"x": {"valeu": 1}}}, "warnings": []}',
        '{"schema": 1, "key": "key", "found": {}}',
    ],
)
def test_results_of_another_kind_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match="remove it"):
        results.read(tmp_path / "x.json", "key")


def test_results_of_another_version_are_measured_again(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"schema": 0, "key": "key", "results": {}}')
    assert results.read(tmp_path / "x.json", "key") is None


def test_a_page_of_another_kind_or_version_is_not_replaced(tmp_path: Path, counting: Counting) -> None:
    record = record_of([Asked("counting", Settings())], fits())
    files.refuse_another(record, tmp_path)
    for text in ("{", "[]", '{"methods": ["a"]}', '{"methods": ["a"], "provenance": 3}'):
        (tmp_path / "comparison.json").write_text(text)
        with pytest.raises(InputError, match=r"is no comparison .* remove it"):
            files.refuse_another(record, tmp_path)
    older = {**json.loads(json.dumps(plain(record))), "versions": {"armillary": "0.0.1"}}
    (tmp_path / "comparison.json").write_text(json.dumps({"methods": ["a", "b"], "provenance": older}))
    with pytest.raises(OutputExistsError, match=r"is of another comparison \(a, b\), with other versions; choose another --out"):
        files.refuse_another(record, tmp_path)


def test_a_run_that_was_stopped_goes_on_with_what_was_measured(tmp_path: Path, counting: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [Asked("counting", Settings(scale=scale)) for scale in (1.0, 2.0)]
    run = counting.run

    def stop(subjects: Any, *, config: Settings) -> Report:
        if config.scale == 2.0:
            raise KeyboardInterrupt
        return run(subjects, config=config)

    monkeypatch.setattr(counting, "run", stop)
    with pytest.raises(KeyboardInterrupt):
        compare(asked, fits(), folder=tmp_path, title="t")
    monkeypatch.setattr(counting, "run", run)
    said: list[str] = []
    compare(asked, fits(), folder=tmp_path, title="t", say=said.append)
    assert counting.asked == 2 and said[0] == "1 of 2: counting, measured before"


def test_estimates_come_back_as_they_were(tmp_path: Path) -> None:
    one = _counted(fits()[0], Settings()).estimates["size"]
    results.write(tmp_path / "x.json", "key", {"a": {"size": one, "none": Estimate.missing("why")}}, warnings=[], seconds=1.0)
    told = results.read(tmp_path / "x.json", "key")
    assert told is not None and results.read(tmp_path / "x.json", "other") is None
    assert results.read(tmp_path / "absent.json", "key") is None
    back = told[0]["a"]["size"]
    assert back == one and back.units is not None and one.units is not None
    assert np.array_equal(back.units.numerator, one.units.numerator) and told[0]["a"]["none"].reason == "why"


def test_what_is_not_a_number_says_so_when_it_comes_back(tmp_path: Path) -> None:
    results.write(tmp_path / "x.json", "key", {"a": {"x": Estimate(float("inf"), better="lower")}}, warnings=[], seconds=1.0)
    told = results.read(tmp_path / "x.json", "key")
    assert told is not None and told[0]["a"]["x"] == Estimate.missing("the value is inf", better="lower")


def test_a_report_on_several_subjects_comes_apart() -> None:
    reports = [Report(name, {"x": Estimate(value)}) for name, value in (("a", 1.0), ("a: b", 2.0))]
    assert apart(together("t", reports), ["a", "a: b"])["a: b"]["x"].value == 2.0


def test_a_budget_with_more_active_atoms_than_atoms_is_refused() -> None:
    assert Budget(16, 16, "kind").n_active == 16
    with pytest.raises(InputError, match="17 active atoms of 16 cannot be"):
        Budget(16, 17, "kind")


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


@pytest.mark.parametrize(
    ("value", "half", "sign", "verdict"),
    [
        (0.25000000000000006, 0.25, 1, "cannot be told"),  # above 0 by rounding alone
        (0.1 + 0.2, 0.3, 1, "cannot be told"),
        (0.25, 0.2, 1, "holds"),
        (-0.4, 0.1, 0, "does not hold"),
        (-0.4, 0.1, -1, "holds"),  # worse is no better
        (0.0, 0.04, -1, "holds"),
        (0.04, 0.04, -1, "cannot be told"),
        (0.2, 0.1, -1, "does not hold"),
    ],
)
def test_verdicts(value: float, half: float, sign: Any, verdict: str) -> None:
    margin = 0.05 if sign != 1 else 0.0
    assert claims.verdict(Claim("a claim", "a paper", "s", "x", "a", "b", sign, margin), value, half) == verdict


def test_a_difference_whose_error_is_not_known_decides_nothing() -> None:
    """Two units that agree to the last digit."""
    a, b = (Estimate(one, one, one, 2, null=0.0, better="higher", units=Units.of_values("pair", [one, one])) for one in (0.9, 0.8))
    found = judged([Claim("a claim", "a paper", "s", "x", "a", "b")], {("s", "x"): {"a": [a], "b": [b]}})
    assert found["verdict"] == ["cannot be told"]


def test_seeds_that_disagree_leave_a_claim_about_a_null_open() -> None:
    def seeds(*values: float) -> dict[str, list[Estimate]]:
        return {"a": [Estimate(one, one - 0.01, one + 0.01, 50, null=0.0, better="higher") for one in values]}

    claim = Claim("a claim", "a paper", "s", "x", "a", None)
    told = [judged([claim], {("s", "x"): row})["verdict"] for row in (seeds(0.4, 0.41), seeds(0.1, 0.7))]
    assert told == [["holds"], ["cannot be told"]]


def test_a_claim_about_what_was_not_measured_cannot_be_told() -> None:
    found = judged([Claim("a claim", "a paper", "steering", "area", "a", "b")], {})
    assert found["verdict"] == ["cannot be told"] and found["difference"] == [None]


def test_what_an_encoder_learnt_does_not_part_seeds() -> None:
    rows = TensorRows(X.abs())
    fits = [arm.SemiNMF(n_features=4, target_l0=2).fit(rows, seed=seed) for seed in (0, 1)]
    assert len({vars(fit.encoder)["price"] for fit in fits}) == 2
    assert list(by_method([Subject(fit, name=f"snmf-s{i}") for i, fit in enumerate(fits)])) == ["snmf"]


def test_fits_of_another_seed_are_not_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(lambda lm, stored, budget, seed: arm.PCA(n_components=2).fit(X, seed=seed))
    monkeypatch.setattr(comparison, "RECIPES", {"pca": recipe})
    stored: Any = SimpleNamespace(stream=(ROWS, ROWS))
    lm: Any = None

    def fits(seed: int) -> Any:
        return comparison._fits(lm, stored, comparison.Settings(seed=seed, out=str(tmp_path)), lambda line: None)

    assert fits(0)["pca"].provenance["seed"] == fits(0)["pca"].provenance["seed"] == 0
    with pytest.raises(MismatchError, match=r"pca' was fitted with seed 0, not 1; choose another --out"):
        fits(1)
