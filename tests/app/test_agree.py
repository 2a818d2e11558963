"""The commands that ask about regions: `agree` of two seeds, and the study `regions`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

Run = Any


@pytest.fixture(scope="module")
def mixtures(acts: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds of a small mixture beside their activations."""
    import armillary as arm

    rows, out = arm.open(acts)["resid_post.1"], tmp_path_factory.mktemp("mixtures")
    return [arm.MFA(n_regions=3, rank=2).fit(rows, seed=seed).save(out / f"mfa{seed}") for seed in (0, 1)]


def test_regions_of_two_seeds_are_compared(run: Run, mixtures: list[Path], tmp_path: Path) -> None:
    answer = run("agree", *mixtures, "--json")
    assert answer.code == 0, answer.err
    report = answer.json["report"]
    assert {"matched_cosine", "rand_index", "centroid_distance", "subspace_overlap"} <= set(report["estimates"])
    assert report["tables"]["agreement"]["rand_index"] == [report["estimates"]["rand_index"]["value"]]
    assert len(report["tables"]["regions"]["partner"]) == 3
    copy = shutil.copytree(mixtures[0], tmp_path / "copy")
    three = run("agree", *mixtures, copy, "--json").json["report"]
    assert three["tables"]["agreement"]["rand_index"][1] == pytest.approx(1)
    assert three["tables"]["agreement"]["other"] == [str(mixtures[1]), str(copy)]
    assert "rand_index" not in three["estimates"]


def test_without_their_rows_only_directions_are(run: Run, mixtures: list[Path], acts: Path, tmp_path: Path) -> None:
    hidden = acts.with_name("hidden")
    acts.rename(hidden)
    try:
        answer = run("agree", *mixtures, "--json")
        assert answer.code == 0, answer.err
        assert "regions are not compared by their rows" in answer.err
        assert list(answer.json["report"]["estimates"]) == ["matched_cosine", "support_jaccard", "consensus"]
        there = run("agree", *mixtures, "--acts", hidden, "--json")
        assert "rand_index" in there.json["report"]["estimates"], there.err
        assert run("agree", *mixtures, "--acts", tmp_path / "nothing").code == 2
    finally:
        shutil.move(hidden, acts)


def test_the_study_runs_from_the_command_line(run: Run, mixtures: list[Path], sae: Path, tmp_path: Path) -> None:
    told = ("--label", "kind", "--n-draws", 10, "--n-bootstrap", 100)
    answer = run("study", "regions", *mixtures, *told, "--out", tmp_path / "report.html", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["report"]["tables"]["mfa0: labels"]["label"] == ["kind"]
    assert (tmp_path / "report.html").is_file()
    assert any("made from are among these" in warning for warning in answer.json["report"]["warnings"])
    refused = run("study", "regions", sae)
    assert refused.code == 2 and "has no regions to ask about" in refused.err
    assert "unknown label 'kinds'" in run("study", "regions", mixtures[0], "--label", "kinds").err


def test_rows_that_were_held_out_are_known_to_be(run: Run, acts: Path, tmp_path: Path) -> None:
    told = ("--site", "resid_post.1", "--held-out", 0.5, "--n-features", 3, "--out", tmp_path / "km")
    assert run("fit", "kmeans", acts, *told).code == 0
    for more, is_told in (((), False), (("--acts", acts), True)):
        report = run("study", "regions", tmp_path / "km", *more, "--json").json["report"]
        assert any("made from are among these" in warning for warning in report["warnings"]) == is_told
