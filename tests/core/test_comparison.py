"""Comparisons: what can be told apart is, what cannot is grey, and seeds count."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from armillary.core.comparison import Comparison, difference, over_seeds, rows_of
from armillary.core.comparison_view import cell_text, markdown, page, writers
from armillary.core.report import Estimate
from armillary.core.statistics import Units, mean_interval, ratio_interval

RNG = np.random.default_rng(0)
HARD = RNG.normal(size=200)  # what documents have in common


def scored(mean: float, *, spread: float = 0.1, seed: int = 0, better: Any = "higher", null: float | None = 0.5) -> Estimate:
    """An estimate over documents that are hard or easy for every method alike."""
    values = mean + HARD + spread * np.random.default_rng(seed).normal(size=len(HARD))
    low, high = mean_interval(values)
    units = Units.of_values("document", values)
    return Estimate(float(values.mean()), low, high, len(values), null=null, better=better, units=units)


def table(**methods: Estimate) -> dict[str, Any]:
    (row,) = rows_of({("probing", "auroc"): {name: [one] for name, one in methods.items()}}, list(methods))
    return dict(row.cells)


def test_methods_that_share_their_documents_are_told_apart_though_their_intervals_overlap() -> None:
    cells = table(a=scored(2.0, seed=1), b=scored(1.9, seed=2), c=scored(1.9, seed=3))
    assert cells["a"].estimate.low < cells["b"].estimate.high
    assert (cells["a"].standing, cells["a"].rank) == ("apart", 1)
    assert cells["b"].standing == cells["c"].standing == "tied"


def test_what_is_no_better_than_chance_is_called_so_whichever_way_is_better() -> None:
    cells = table(a=scored(0.5, seed=1), b=scored(2.0, seed=2))
    assert cells["a"].standing == "null" and cells["b"].standing == "apart"
    cells = table(a=scored(0.5, seed=1, better="lower", null=1.5), b=scored(2.0, seed=2, better="lower", null=1.5))
    assert cells["b"].standing == "null" and (cells["a"].standing, cells["a"].rank) == ("apart", 1)


def test_an_estimate_with_a_test_of_its_own_is_judged_by_it() -> None:
    one = scored(2.0)
    assert table(a=Estimate(**{**vars(one), "p": 0.4}))["a"].standing == "null"


def test_what_is_missing_stays_missing_and_has_no_rank() -> None:
    cells = table(a=scored(2.0), b=Estimate.missing("no document has the label"))
    assert cells["b"].standing == "missing" and cells["b"].rank is None and cell_text(cells["b"]) == "–"
    (row,) = rows_of({("s", "x"): {"a": [scored(2.0)]}}, ["a", "b"])
    assert "not run" in row.cells["b"].estimate.reason


def test_numbers_without_an_interval_are_not_tested() -> None:
    cells = table(a=Estimate(1.0, better="higher"), b=Estimate(2.0, better="higher"))
    assert cells["a"].standing == cells["b"].standing == "unknown"


def test_seeds_that_disagree_widen_the_interval_and_hide_a_difference() -> None:
    near, far = ([scored(2.0 + shift, seed=i) for i, shift in enumerate(shifts)] for shifts in ((0, 0.01, -0.01), (0, 0.5, -0.4)))
    widths = [one.high - one.low for one in map(over_seeds, (near, far))]
    assert widths[1] > 2 * widths[0]
    other = [scored(1.9, seed=10 + i) for i in range(3)]
    told = [difference(ours, other) for ours in (near, far)]
    assert told[0] is not None and told[0][0] > 5 * told[0][1]
    assert told[1] is not None and told[1][0] < 2 * told[1][1]


def test_one_fit_is_set_against_all_seeds_of_another() -> None:
    """Not against the first one, which may be the lucky one."""
    lucky = [scored(mean, seed=i) for i, mean in enumerate((0.9, 0.5, 0.5))]
    told = difference([scored(0.7, seed=9)], lucky)
    assert told is not None and told[0] == pytest.approx(0.067, abs=0.03) and told[1] > 0.1
    back = difference(lucky, [scored(0.7, seed=9)])
    assert back is not None and back[0] == pytest.approx(-told[0]) and back[1] == pytest.approx(told[1])


def drawn(rng: np.random.Generator, n_seeds: int, kind: str, shared: Any) -> list[Estimate]:
    """A method of mean 0 whose seeds differ by 0.5, on units that the seeds share or not."""
    found = []
    for _ in range(n_seeds):
        values = 0.5 * rng.normal() + shared + (0.3 if kind == "document" else 1.0) * rng.normal(size=40)
        low, high = mean_interval(values, n_samples=300)
        units = Units.of_values(kind, values)
        found.append(Estimate(float(values.mean()), low, high, 40, null=0.0, better="higher", units=units))
    return found


@pytest.mark.parametrize(("n_seeds", "kind"), [(2, "document"), (3, "feature")])
def test_intervals_over_seeds_hold_what_they_promise(n_seeds: int, kind: str) -> None:
    """Of the mean and of the difference of two methods that are the same; with 1.96 in the place of t two seeds hold 74 %."""
    rng, n = np.random.default_rng(0), 80
    inside = apart = 0
    for _ in range(n):
        shared = rng.normal(size=40) if kind == "document" else 0.0
        ours, theirs = (drawn(rng, n_seeds, kind, shared) for _ in range(2))
        pooled, told = over_seeds(ours), difference(ours, theirs)
        assert pooled.low is not None and pooled.high is not None and told is not None
        inside += pooled.low <= 0 <= pooled.high
        apart += abs(told[0]) > 1.96 * told[1]
    assert inside >= 0.91 * n and apart <= 0.09 * n


def test_documents_of_several_seeds_are_the_same_documents_and_features_are_not() -> None:
    one = scored(2.0)
    assert one.low is not None and one.high is not None
    again = over_seeds([one] * 4)
    assert again.low is not None and again.high is not None and again.units is not None
    assert again.high - again.low == pytest.approx(one.high - one.low, rel=0.05) and len(again.units) == 200
    assert again.units.value == pytest.approx(again.value)
    own = replace(one, units=replace(one.units, kind="feature"))
    others = over_seeds([own] * 4)
    assert others.low is not None and others.high is not None and others.units is not None
    assert others.high - others.low == pytest.approx((one.high - one.low) / 2, rel=0.1) and len(others.units) == 800


def test_seeds_alone_make_no_interval_where_units_are_too_few() -> None:
    """Two seeds that agree on one concept say nothing of other concepts; of a number that has no units the seeds are all there is."""
    one = Estimate(0.764, n=1, null=0.5, better="higher", units=Units.of_values("concept", [0.764]))
    assert over_seeds([one, one]).low is None and table(a=one)["a"].standing == "unknown"
    told = over_seeds([Estimate(1.0), Estimate(3.0)])
    assert told.low == pytest.approx(2 - 12.706, abs=0.01) and told.high == pytest.approx(2 + 12.706, abs=0.01)


def test_seeds_whose_units_all_agree_keep_the_interval_of_each() -> None:
    """None of 16 features is one: that is no proof that none of any others would be."""
    one = Estimate(0.0, 0.0, 0.2, 16, units=Units.of_values("feature", np.zeros(16)))
    told = over_seeds([one, one])
    assert told.low is not None and told.high is not None and told.high - told.low == pytest.approx(0.2)


def test_a_seed_without_a_value_is_told() -> None:
    (row,) = rows_of({("s", "x"): {"a": [scored(2.0), Estimate.missing("no label"), scored(2.1)], "b": [scored(1.0)]}}, ["a", "b"])
    assert (row.cells["a"].n_seeds, row.cells["a"].lost) == (2, "no label") and row.cells["b"].lost == ""
    it = Comparison("t", ("a", "b"), (row,))
    for text in (page(it), markdown(it)):
        assert "the mean of 2 seeds alone, as of others no label" in text
    assert "mean of 2 seeds" in page(it)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_what_is_not_a_number_is_missing(value: float) -> None:
    cells = table(a=Estimate(value, better="higher"), b=scored(2.0))
    assert (cells["a"].standing, cells["a"].rank, cells["b"].rank) == ("missing", None, 1)
    assert cells["a"].estimate.reason == f"the value is {value}"


def test_the_only_method_of_a_row_is_not_its_best() -> None:
    assert not table(a=scored(2.0), b=Estimate.missing("why"))["a"].is_best
    assert table(a=scored(2.0, seed=1), b=scored(1.0, seed=2))["a"].is_best


def test_methods_that_their_shared_units_order_otherwise_are_tied() -> None:
    """b is better on all documents, but on those that both were measured on a is."""
    a, b = Units.of_values("document", 1.0 + HARD[:100]), Units.of_values("document", np.r_[0.5 + HARD[:100], np.full(100, 9.0)])
    jitter = 0.01 * np.random.default_rng(3).normal(size=100)
    a = replace(a, numerator=a.numerator + jitter)
    cells = table(
        a=Estimate(a.value, a.value - 0.2, a.value + 0.2, null=0.0, better="higher", units=a),
        b=Estimate(b.value, b.value - 0.2, b.value + 0.2, null=0.0, better="higher", units=b),
    )
    assert (cells["b"].rank, cells["b"].standing, cells["a"].standing) == (1, "tied", "tied")


def test_all_tests_of_a_table_are_controlled_together() -> None:
    """A difference with p = 0.03 is told by itself, and not among thirty tests that find nothing."""
    pair = {("s", "x"): {"a": [Estimate(1.535, 1.035, 2.035, better="higher")], "b": [Estimate(0.75, 0.25, 1.25, better="higher")]}}
    nothing = {("s", f"n{i}"): {"a": [Estimate(0.5, 0.4, 0.6, null=0.5, better="higher")]} for i in range(30)}
    assert rows_of(pair, ["a", "b"])[0].cells["a"].standing == "apart"
    assert rows_of(pair | nothing, ["a", "b"])[0].cells["a"].standing == "tied"


def test_units_that_agree_without_an_error_prove_nothing() -> None:
    def alike(value: float) -> Estimate:
        return Estimate(value, value, value, 2, null=0.5, better="higher", units=Units.of_values("concept", [value, value]))

    cells = table(a=alike(0.9), b=alike(0.8))
    assert cells["a"].standing == cells["b"].standing == "unknown"


@pytest.mark.parametrize(("n", "standing"), [(2, "unknown"), (4, "unknown"), (5, "apart")])
def test_a_handful_of_units_tells_nothing_apart(n: int, standing: str) -> None:
    """Two concepts whose differences happen to be alike are no interval of 0.001."""
    values = np.linspace(0.7, 0.9, n)
    near = np.linspace(0, 0.001, n)

    def scores(values: Any) -> Estimate:
        units = Units.of_values("concept", values)
        return Estimate(units.value, *ratio_interval(units), n, null=0.5, better="higher", units=units)

    cells = table(a=scores(values), b=scores(values - 0.05 + near))
    assert [cells[name].standing for name in "ab"] == [standing] * 2


@pytest.mark.parametrize("n_seeds", [2, 3])
def test_few_seeds_that_happen_to_agree_are_no_discovery(n_seeds: int) -> None:
    """Of hundreds of cells over two seeds some agree by chance; a normal tail calls them sure."""
    false = 0
    for i in range(20):
        rng = np.random.default_rng(i)
        measured = {("s", f"row {row}"): {name: seeds_of(rng, n_seeds) for name in "abcdef"} for row in range(15)}
        rows = rows_of(measured, list("abcdef"))
        false += any(cell.standing != "null" for row in rows for cell in row.cells.values())
    assert false <= 2


def seeds_of(rng: np.random.Generator, n_seeds: int) -> list[Estimate]:
    """Nothing above a null of 0, with seeds that differ more than units."""
    units = [Units.of_values("document", rng.normal() + 0.1 * rng.normal(size=40)) for _ in range(n_seeds)]
    return [Estimate(one.value, *ratio_interval(one, n_samples=100), 40, null=0.0, better="higher", units=one) for one in units]


def test_units_that_differ_alike_are_told_apart_by_their_own_intervals() -> None:
    right, wrong = (Units.of_values("pair", np.full(96, value)) for value in (1.0, 0.0))
    cells = table(
        a=Estimate(1.0, 0.96, 1.0, 96, null=0.3, better="higher", units=right),
        b=Estimate(0.0, 0.0, 0.04, 96, null=0.3, better="higher", units=wrong),
    )
    assert cells["a"].standing == "apart" and cells["a"].is_best


def test_a_false_discovery_among_many_equal_methods_is_rare() -> None:
    """Twenty methods that are all the same: hardly one is called apart from its neighbours."""
    cells = table(**{f"m{i}": scored(2.0, seed=100 + i) for i in range(20)})
    assert sum(cell.standing == "apart" for cell in cells.values()) <= 2


def whole() -> Comparison:
    measured = {
        ("probing", "auroc"): {"pca": [scored(2.0, seed=1)], "mfa": [scored(1.0, seed=2)]},
        ("steering", "area"): {"pca": [scored(0.5, seed=3)], "mfa": [Estimate.missing("no logits")]},
    }
    budget = {"pca": {"features": 4, "l0": 3.5}, "mfa": {"features": 4, "l0": None}}
    return Comparison("two methods", ("pca", "mfa"), rows_of(measured, ("pca", "mfa")), budget, notes=["a note"], warnings=["a <warning>"])


@pytest.mark.parametrize("width", [30, 60, 140])
def test_a_comparison_is_drawn_in_a_terminal_of_any_width(width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(whole())
    text = console.export_text()
    assert "probing" in text and "no logits" in text and "budget" in text and "°" in text
    assert max(map(len, text.splitlines())) <= width


def test_a_comparison_is_a_page_markdown_and_json() -> None:
    it = whole()
    assert "&lt;warning&gt;" in page(it) and "no logits" in page(it)
    assert "| auroc ↑ |" in markdown(it) and "**" in markdown(it)
    told = json.loads(writers()[".json"](it))
    assert told["rows"][0]["cells"]["pca"]["standing"] == "apart" and told["rows"][1]["cells"]["mfa"]["value"] is None


def many(n_methods: int, n_rows: int = 6) -> Comparison:
    names = tuple(f"method{i}" for i in range(n_methods))
    measured = {
        ("probing", f"auroc_{k}"): {name: [scored(-1.13 - i, seed=10 * k + i, null=-20.0)] for i, name in enumerate(names)}
        for k in range(n_rows)
    }
    measured[("labels", "asked")] = {name: [Estimate.missing("no judge was given")] for name in names}
    budget = {name: {"features": 256.0, "seeds": 1.0} for name in names}
    return Comparison("many", names, rows_of(measured, names), budget)


def test_the_best_is_marked_without_colour_and_digits_end_where_they_are_not_sure() -> None:
    cell = many(2).rows[0].cells["method0"]
    assert cell.is_best and cell_text(cell).endswith("] ★")
    assert cell_text(table(a=Estimate(0.8879, 0.6346, 0.9296))["a"]) == "0.89 [0.63, 0.93] ?"
    assert cell_text(table(a=Estimate(-0.001, -0.2, 0.2))["a"]) == "0.00 [-0.20, 0.20] ?"
    assert cell_text(table(a=Estimate(12345.6, 12000.0, 12700.0))["a"]) == "12,346 [12,000, 12,700] ?"
    assert cell_text(table(a=Estimate(1.99990, 1.99980, 2.0))["a"]) == "2.00 [2.00, 2.00] ?"
    assert cell_text(table(a=Estimate(-0.00766, -0.0182, 0.0000194))["a"]) == "-0.008 [-0.018, 0.000] ?"
    assert cell_text(table(a=Estimate(2e-7, 1e-7, 3e-7))["a"]) == "2e-07 [1e-07, 3e-07] ?"
    assert cell_text(table(a=Estimate(1.0, 1.0, 1.0))["a"]) == "1 [1, 1] ?"
    assert cell_text(table(a=Estimate(0.0000312))["a"]) == "3.12e-05 ?"


def test_a_study_that_gave_no_number_is_said_in_one_line() -> None:
    it = many(3)
    assert page(it).count("asked: no judge was given") == 1 and "| asked | no judge was given |" in markdown(it)
    nothing = Comparison("none", ("a",), (), remarks=["too few documents"])
    assert "No study gave a number" in page(nothing) and "too few documents" in page(nothing) and "too few documents" in markdown(nothing)


def test_many_methods_fit_a_terminal_of_100_columns_side_by_side() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(many(8))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 100
    assert sum("method3" in line for line in lines) == 3, "the budget, and two tables of three estimates each"
    assert any(line.split().count("auroc_0") and line.split().count("auroc_2") for line in lines)
