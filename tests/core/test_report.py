"""Estimates and reports: what they say in a line, what they keep in a file, and how two are compared."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from armillary.core.report import SCHEMA, Estimate, Report, number, plain, with_seconds
from armillary.core.statistics import Units
from armillary.errors import InputError, OutputExistsError, UnknownNameError

# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0"),
        (-0.0, "0"),
        (3.0, "3"),
        (1234567, "1,234,567"),
        (12345.678, "12,346"),
        (1234.5678, "1235"),
        (0.123456, "0.1235"),
        (-0.00012345, "-0.0001234"),
        (1.5e-7, "1.5e-07"),
        (2.5e20, "250,000,000,000,000,000,000"),
        (math.inf, "inf"),
        (math.nan, "nan"),
        (np.float32(0.5), "0.5"),
        (np.int64(7), "7"),
    ],
)
def test_numbers_are_written_as_people_read_them(value: Any, text: str) -> None:
    assert number(value) == text


def test_plain_is_what_json_can_hold() -> None:
    value = {"a": np.array([1.0, np.nan]), 3: {np.float64(np.inf)}, "c": (np.int64(2), None, True), "d": Path("x"), "e": "text"}
    found = plain(value)
    assert found == {"a": [1.0, None], "3": [None], "c": [2, None, True], "d": "x", "e": "text"}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


# ---------------------------------------------------------------- estimates


def test_an_estimate_in_a_line() -> None:
    assert str(Estimate(0.51234, 0.4, 0.6)) == "0.5123 [0.4, 0.6]"
    assert str(Estimate(3.0, unit="nats")) == "3 nats"
    assert str(Estimate(0.5, 0.4, None)) == "0.5"
    assert str(Estimate.missing("no logits", better="higher")) == "not available (no logits)"


def test_units_are_neither_compared_nor_written() -> None:
    units = Units.of_values("document", [1.0, 2.0])
    assert Estimate(1.5, units=units) == Estimate(1.5)
    assert "units" not in Estimate(1.5, units=units).to_json()
    assert "units" not in repr(Estimate(1.5, units=units))


def test_estimate_as_json_has_no_nan() -> None:
    found = Estimate(np.float64(0.5), low=float("nan"), n=np.int64(3), p=0.01).to_json()  # type: ignore[arg-type]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["value"], found["low"], found["n"], found["p"], found["better"]) == (0.5, None, 3, 0.01, "neither")


# ---------------------------------------------------------------- reports


def sample() -> Report:
    return Report(
        "Fidelity",
        estimates={"fvu": Estimate(0.2, better="lower")},
        tables={"per_feature": {"feature": np.arange(3), "density": [0.1, math.nan, np.float32(0.5)]}},
        figures={"curve": {"data": [{"y": np.array([1.0, math.inf])}], "layout": {}}},
        notes=("a note",),
        warnings=["a warning"],
        provenance={"versions": {"torch": "2"}, "path": Path("x")},
    )


def test_estimates_are_found_by_name() -> None:
    assert sample()["fvu"].value == 0.2
    with pytest.raises(UnknownNameError, match="unknown estimate 'fvv'"):
        sample()["fvv"]


def test_json_is_plain_and_versioned() -> None:
    found = sample().to_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["schema"] == SCHEMA
    assert found["tables"]["per_feature"] == {"feature": [0, 1, 2], "density": [0.1, None, 0.5]}
    assert found["figures"]["curve"]["data"] == [{"y": [1.0, None]}]
    assert found["provenance"]["path"] == "x"


@pytest.mark.parametrize(("suffix", "sign"), [(".html", "<!doctype html>"), (".md", "# Fidelity"), (".json", '{\n "schema": 1')])
def test_saved_by_its_extension(suffix: str, sign: str, tmp_path: Path) -> None:
    path = sample().save(tmp_path / "deep" / f"report{suffix}")
    assert path.read_text(encoding="utf-8").startswith(sign)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_saving_overwrites_nothing_and_knows_three_extensions(tmp_path: Path) -> None:
    sample().save(tmp_path / "report.json")
    with pytest.raises(OutputExistsError, match=r"report-2.json"):
        sample().save(tmp_path / "report.json")
    with pytest.raises(InputError, match=r"\.html, \.json or \.md, got 'report.pdf'; try 'report.html'"):
        sample().save(tmp_path / "report.pdf")


def test_it_draws_itself(capsys: pytest.CaptureFixture[str]) -> None:
    sample().show()
    assert "Fidelity" in capsys.readouterr().out
    console = Console(record=True, width=80)
    console.print(sample())
    assert "fvu" in console.export_text()
    assert "Fidelity" in sample()._repr_html_()


def test_seconds_are_set_on_a_copy() -> None:
    before = sample()
    assert with_seconds(before, 3.0).seconds == 3.0
    assert before.seconds == 0.0


# ---------------------------------------------------------------- comparison


def report(
    shift: float = 0.0, noise: float = 0.0, *, kind: str = "document", better: Any = "lower", n: int = 60, title: str = "a"
) -> Report:
    rng = np.random.default_rng(0)
    shared = rng.gamma(2, 1, n)
    units = Units.of_values(kind, shared + shift + noise * np.random.default_rng(1).normal(size=n))
    return Report(title, estimates={"fvu": Estimate(units.value, units=units, better=better)})


def verdict(ours: Report, theirs: Report) -> str:
    return str(ours.compare([theirs]).tables["differences"]["verdict"][0])


def test_paired_reports_are_told_apart_where_their_own_intervals_overlap() -> None:
    assert verdict(report(-0.05), report(noise=0.05)) == "better"
    assert verdict(report(0.05), report(noise=0.05)) == "worse"
    assert verdict(report(0.05, better="higher"), report(noise=0.05)) == "better"
    assert verdict(report(0.05, better="neither"), report(noise=0.05)) == "different"


def test_noise_is_not_distinguishable() -> None:
    assert verdict(report(noise=0.3), report()) == "not distinguishable"
    assert verdict(report(), report()) == "not distinguishable"


@pytest.mark.parametrize(
    ("kind", "n", "said"), [("document", 4, "too few units to tell"), ("document", 5, "better"), ("feature", 4, "too few units to tell")]
)
def test_a_handful_of_units_tells_nothing(kind: str, n: int, said: str) -> None:
    ours, theirs = report(-0.05, kind=kind, n=n), report(noise=0.001, kind=kind, n=n)
    assert verdict(ours, theirs) == said


def test_a_comparison_gives_the_difference_and_its_interval() -> None:
    table = report(0.25).compare([report(title="b"), report(0.5, title="c")]).tables["differences"]
    assert table["against"] == ["b", "c"]
    assert table["estimate"] == ["fvu", "fvu"]
    assert table["difference"] == pytest.approx([0.25, -0.25])
    assert table["low"] == pytest.approx([0.25, -0.25])


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        (Report("b", estimates={"fvu": Estimate.missing("no rows")}), "not available"),
        (Report("b", estimates={"fvu": Estimate(0.3)}), "no units to pair on"),
        (report(kind="seed"), "no units to pair on"),
        (report(n=1), "fewer than two units in common"),
    ],
)
def test_what_cannot_be_compared_says_why(theirs: Report, expected: str) -> None:
    assert verdict(report(), theirs) == expected


def test_only_estimates_of_both_are_compared() -> None:
    other = Report("b", estimates={"l0": Estimate(3.0)})
    compared = report().compare([other])
    assert compared.tables["differences"]["estimate"] == []
    assert compared.title == "a compared"
