"""Comparisons: what can be told apart is, what cannot is grey, and seeds count."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from armillary.core.comparison import Comparison, difference, over_seeds, rows_of
from armillary.core.comparison_view import cell_text, markdown, page, writers
from armillary.core.report import Estimate
from armillary.core.statistics import Units, mean_interval

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


def test_units_that_agree_without_an_error_prove_nothing() -> None:
    def alike(value: float) -> Estimate:
        return Estimate(value, value, value, 2, null=0.5, better="higher", units=Units.of_values("concept", [value, value]))

    cells = table(a=alike(0.9), b=alike(0.8))
    assert cells["a"].standing == cells["b"].standing == "unknown"


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
