"""Several subjects in one report."""

from __future__ import annotations

import numpy as np

from armillary.core.report import Estimate, Report
from armillary.core.statistics import Units
from armillary.studies.ratios import Ratios
from armillary.studies.together import distinct, together


def one(title: str, values: list[float]) -> Report:
    units = Units.of_values("document", values)
    estimate = Estimate(units.value, n=len(values), better="higher", units=units)
    figure = {"data": [{"type": "bar", "y": values}], "layout": {"title": {"text": "t"}}}
    return Report(title, {"score": estimate}, {"table": {"x": values}}, {"figure": figure}, notes=("same",), warnings=("careful",))


def test_a_single_report_stays_as_it_is() -> None:
    report = one("a", [1.0, 2.0])
    assert together("study", [report]) is report


def test_subjects_lie_side_by_side() -> None:
    whole = together("study", [one("a", [3.0, 4.0, 5.0, 3.0, 5.0]), one("a", [1.0, 2.0, 3.0, 1.0, 3.0])])
    assert list(whole.estimates) == ["a: score", "a #2: score"]
    assert whole.tables["subjects"] == {"subject": ["a", "a #2"], "score": [4.0, 2.0]}
    assert whole.tables["differences"]["against"] == ["a #2"]
    assert whole.tables["differences"]["difference"] == [2.0]
    assert whole.tables["differences"]["verdict"] == ["better"]
    assert whole.tables["a #2: table"] == {"x": [1.0, 2.0, 3.0, 1.0, 3.0]}
    assert [trace["name"] for trace in whole.figures["figure"]["data"]] == ["a", "a #2"]
    assert list(whole.notes) == ["same"]
    assert list(whole.warnings) == ["a: careful", "a #2: careful"]


def test_labels_become_distinct() -> None:
    assert distinct(["x", "y", "x", "x"]) == ["x", "y", "x #2", "x #3"]


def test_ratios_leave_out_empty_units_and_say_what_is_undefined() -> None:
    make = Ratios("document", np.array([2, 0, 2]), n_samples=100)
    found = make(np.array([1.0, 0.0, 3.0]))
    assert (found.value, found.n) == (1.0, 4)
    assert found.units is not None
    assert found.units.ids.tolist() == [0, 2]
    assert make(np.ones(3), np.zeros(3), undefined="no reason to").reason == "no reason to"
    assert Ratios("document", np.array([3]))(np.array([6.0])).low is None
