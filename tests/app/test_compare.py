"""armillary compare, and the comparison of every kind of method, from one command each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import armillary as arm
from armillary.app.comparing import plans
from armillary.app.comparing import run as comparing
from armillary.app.comparing.recipes import RECIPES
from armillary.core import artifact
from armillary.core.study import Subject
from armillary.errors import UnknownNameError

Run = Any


@pytest.fixture
def pca(run: Run, acts: Path, tmp_path: Path) -> Path:
    assert run("fit", "pca", acts, "--site", "resid_post.1", "--out", tmp_path / "pca", "--n-components", 3).code == 0
    return tmp_path / "pca"


def test_fits_are_put_into_one_table_and_what_was_measured_is_kept(run: Run, sae: Path, pca: Path, tmp_path: Path) -> None:
    asked = ("compare", sae, pca, "--study", "fidelity", "--out", tmp_path / "out")
    answer = run(*asked, "--json")
    assert answer.code == 0, answer.err
    (fvu, *_) = answer.json["comparison"]["rows"]
    assert fvu["name"] == "fvu" and {cell["rank"] for cell in fvu["cells"].values()} == {1, 2}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"comparison.html", "comparison.md", "comparison.json", "measured"}
    assert "fidelity: 2 fits and 4 ablations" in answer.err and "in all" in answer.err
    again = run(*asked)
    assert again.code == 0 and "fidelity, measured before" in again.err and again.last == str(tmp_path / "out" / "comparison.html")
    other = run("compare", sae, "--study", "fidelity", "--out", tmp_path / "out")
    assert other.code == 2 and "is of another comparison (sae, pca)" in other.err


def test_a_plan_is_told_without_measuring(run: Run, sae: Path, pca: Path, tmp_path: Path) -> None:
    answer = run("compare", sae, pca, "--budget", "full", "--plan")
    assert answer.code == 0, answer.err
    assert "steering: 2 fits x 24 features x 14 strengths" in answer.out and "localization: mcqa" in answer.out
    answer = run("compare", sae, pca)
    assert answer.code == 2 and "--out" in answer.err


def test_a_comparison_that_is_stopped_says_how_to_go_on(run: Run, sae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(comparing, "compare", stopped)
    answer = run("compare", sae, "--study", "fidelity", "--out", tmp_path / "out")
    assert answer.code == 130 and "what is done is kept; the same command goes on from there" in answer.err


def test_features_that_a_fit_does_not_have_cost_nothing(pca: Path) -> None:
    three = [Subject(artifact.load(pca))]
    asked = [plans.plan(["steering", "labels"], [], budget, seed=0) for budget in ("small", "full")]
    small, full = ({cost.title: cost.work for cost in plans.costs(some, three)} for some in asked)
    assert small["steering"].besides == full["steering"].besides > 0
    assert full["labels"].read == small["labels"].read * 50 / 30, "texts of three features each"


def test_studies_that_are_not_of_a_comparison_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="fidelity"):
        plans.plan(["fidelty"], [], "small", seed=0)


def test_more_of_everything_costs_more() -> None:
    """Of a fit with as many features as the larger budget asks for."""
    names = [name for name in plans.SHOWN if name != "localization"]
    one = [Subject(arm.PCA(n_components=24).fit(torch.randn(200, 30, generator=torch.Generator().manual_seed(0))))]
    small, full, both = (
        {cost.title: cost.tokens for cost in plans.costs(plans.plan(names, [], budget, seed=0), subjects)}
        for budget, subjects in (("small", one), ("full", one), ("small", one * 2))
    )
    assert all(full[name] >= small[name] and both[name] >= small[name] for name in small)
    assert full["steering"] > 10 * small["steering"] and both["steering"] == 2 * small["steering"]


@pytest.mark.slow
def test_every_kind_of_method_is_compared_by_one_command(run: Run, tmp_path: Path) -> None:
    told = ["--model", "arm-tiny", "--n-atoms", 24, "--n-active", 3, "--n-texts", 40, "--studies", "fidelity", "--tasks", "recall"]
    answer = run("replicate", "comparison", *told, "--out", tmp_path / "out", "--json")
    assert answer.code == 0, answer.err
    found = answer.json["comparison"]
    assert found["methods"] == [*RECIPES, "das"]
    cells = {row["name"]: row["cells"] for row in found["rows"]}
    assert all(cells["fvu"][name]["value"] is not None for name in RECIPES)
    assert cells["fvu"]["das"]["value"] is None
    assert found["budget"]["sae"]["atoms per row"] <= 3 and found["budget"]["mfa"]["atoms"] == 24
    assert set(found["tables"]["claims"]["verdict"]) == {"cannot be told"}
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "Claims" in page and json.loads((tmp_path / "out" / "comparison.json").read_text())["methods"] == found["methods"]


def test_texts_without_the_label_are_refused(run: Run, text: Path, tmp_path: Path) -> None:
    answer = run("replicate", "comparison", "--text", text, "--label", "nothing", "--out", tmp_path / "out")
    assert answer.code == 2 and "fewer than two values of the label 'nothing'" in answer.err
