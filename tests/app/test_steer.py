"""armillary steer on a tiny model: both texts, the KL, and errors of one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from armillary.core import artifact
from armillary.core.edits import Add
from armillary.core.site import Site
from armillary.lm.model import LanguageModel

Run = Any
PROMPTS = ("--prompt", "the ship", "a fox", "--n-tokens", 6)


@pytest.fixture(scope="module")
def mixture(run: Run, acts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("steer") / "mfa"
    answer = run("fit", "mfa", acts, "--site", "resid_post.1", "--out", out, "--n-regions", 3, "--rank", 2)
    assert answer.code == 0, answer.err
    return out


def test_a_feature_is_brought_to_a_wanted_effect(run: Run, sae: Path) -> None:
    answer = run("steer", sae, 3, *PROMPTS, "--kl", 0.5, "--json")
    assert answer.code == 0, answer.err
    found = answer.json
    assert found["kl"] == pytest.approx(0.5, rel=0.05) and found["kl_wanted"] == 0.5 and found["strength"] > 0
    assert [row["prompt"] for row in found["texts"]] == ["the ship", "a fox"]
    assert any(row["plain"] != row["steered"] for row in found["texts"])
    assert set(found["proxies"]["steered"]) == {"own", "perplexity", "distinct"} and len(found["promotes"]) == 8
    against = run("steer", sae, 3, *PROMPTS, "--sign", -1, "--kl", 0.5, "--json").json
    assert against["strength"] < 0 and against["strength"] != -found["strength"] and against["kl"] == pytest.approx(0.5, rel=0.05)
    assert against["promotes"] != found["promotes"]


def test_a_strength_that_is_given_is_the_one_that_is_used(run: Run, sae: Path, gpt2: Path) -> None:
    found = run("steer", sae, 3, "--prompt", "the ship", "--strength", 4, "--temperature", 0, "--n-tokens", 6, "--json").json
    fit, lm = artifact.load(sae), LanguageModel(gpt2)
    edit = Add("resid_post.1", fit.dictionary.atoms[3], 4.0, lambda at: at.generated | (at.position > 0))
    assert lm.tokenize("the ship").is_special.tolist()[:2] == [True, False]
    assert found["texts"][0]["steered"] == lm.generate("the ship", edits=[edit], max_new_tokens=6)[0].text
    nothing = run("steer", sae, 3, *PROMPTS, "--strength", 0, "--json").json
    assert nothing["kl"] == 0 and all(row["plain"] == row["steered"] for row in nothing["texts"])


def test_both_texts_stand_side_by_side(run: Run, sae: Path) -> None:
    answer = run("steer", sae, 3, *PROMPTS)
    assert answer.code == 0, answer.err
    for word in ("feature 3 of TopKSAE", "KL 0.2", "unsteered", "steered", "the ship", "own tokens", "perplexity", "promotes"):
        assert word in answer.out, word


def test_no_way_along_an_axis_promotes_what_the_region_does(run: Run, mixture: Path) -> None:
    plain = run("steer", mixture, 1, *PROMPTS, "--alpha", 0.6, "--json").json
    still = run("steer", mixture, 1, *PROMPTS, "--alpha", 0.6, "--axis", 0, "--sd", 0, "--json").json
    assert still["promotes"] == plain["promotes"] and still["kl"] == pytest.approx(plain["kl"])


def test_regions_are_moved_to_their_centroid_and_along_their_axes(run: Run, mixture: Path) -> None:
    to = run("steer", mixture, 1, *PROMPTS, "--alpha", 0.6, "--json").json
    along = run("steer", mixture, 1, *PROMPTS, "--axis", 1, "--sd", -3, "--json").json
    both = run("steer", mixture, 1, *PROMPTS, "--alpha", 0.6, "--axis", 1, "--sd", -3, "--json").json
    searched = run("steer", mixture, 1, *PROMPTS, "--axis", 1, "--kl", 0.1, "--json").json
    assert (to["strength"], along["strength"], both["strength"]) == (0.6, -3, 0.6)
    assert len({round(one["kl"], 6) for one in (to, along, both)}) == 3
    assert searched["kl"] == pytest.approx(0.1, rel=0.05)
    assert run("steer", mixture, 1, *PROMPTS, "--alpha", 0, "--json").json["kl"] == 0
    assert "of the way to its centroid" in run("steer", mixture, 1, *PROMPTS, "--alpha", 0.6).out


def test_subspaces_are_steered_along_an_axis_that_can_be_chosen(run: Run, sae: Path, tmp_path: Path) -> None:
    fit = artifact.load(sae)
    pairs = replace(fit.dictionary, group=torch.arange(fit.dictionary.n_atoms) // 2)
    artifact.save(replace(fit, dictionary=pairs), tmp_path / "pairs")

    def steered(fit: Path, feature: int, *more: Any) -> Any:
        return run("steer", fit, feature, *PROMPTS, "--strength", 9, *more, "--json").json

    first, second, told = (steered(tmp_path / "pairs", 1, *more) for more in ((), ("--axis", 1), ("--axis", 0)))
    alone = [steered(sae, 2), steered(sae, 3)]
    assert [one["texts"] for one in (first, second)] == [one["texts"] for one in alone]
    assert first["texts"] == told["texts"] != second["texts"] and second["promotes"] == alone[1]["promotes"]
    assert first["what"].startswith("axis 0 of subspace 1")
    asked = {("--axis", 2): "axis 2 is out of range: subspace 1 has 2", ("--alpha", 0.5): "is a subspace, which has axes and no centroid"}
    for options, wanted in asked.items():
        answer = run("steer", tmp_path / "pairs", 1, *PROMPTS, *options)
        assert answer.code == 2 and wanted in answer.err and answer.err.count("\n") == 1


@pytest.mark.parametrize("position", ["all", "last", "generated"])
def test_tokens_that_are_changed_can_be_chosen(run: Run, sae: Path, position: str) -> None:
    answer = run("steer", sae, 3, *PROMPTS, "--position", position, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["position"] == position and answer.json["kl"] == pytest.approx(0.25, rel=0.05)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (("--kl", 0.1, "--strength", 2), "give one of --kl, --strength and --alpha"),
        (("--alpha", 0.5), "is a direction, which has no centroid and no axes"),
        (("--kl", 1e9), "is unreachable with sign +1"),
        (("--kl", -1), "targets above 0"),
        (("--strength", "nan"), "--strength is a finite number, got nan"),
        (("--position", "middle"), "middle"),
        (("--temperature", -1), "temperature must be at least 0"),
    ],
)
def test_what_does_not_go_with_a_direction_is_said_in_a_line(run: Run, sae: Path, options: tuple[Any, ...], wanted: str) -> None:
    answer = run("steer", sae, 3, *PROMPTS, *options)
    assert answer.code == 2 and wanted in answer.err and answer.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (("--strength", 2), "is a region: give --alpha"),
        (("--alpha", 1.5), "0 to 1, got 1.5"),
        (("--axis", 0), "--axis and --sd go together"),
        (("--axis", 7, "--sd", 1), "axis 7 is out of range: region 1 has 2"),
        (("--axis", 0, "--sd", 1, "--kl", 0.1), "give --sd or --kl"),
        (("--sign", -1), "moved toward and not away from"),
    ],
)
def test_what_does_not_go_with_a_region_is_said_in_a_line(run: Run, mixture: Path, options: tuple[Any, ...], wanted: str) -> None:
    answer = run("steer", mixture, 1, *PROMPTS, *options)
    assert answer.code == 2 and wanted in answer.err and answer.err.count("\n") == 1


def test_a_prompt_a_feature_and_room_are_needed(run: Run, sae: Path) -> None:
    assert "missing option" in run("steer", sae, 3).err
    assert "feature 99 is out of range" in run("steer", sae, 99, *PROMPTS).err
    assert "reads at most" in run("steer", sae, 3, "--prompt", "the", "--n-tokens", 500).err
    long = run("steer", sae, 3, "--prompt", "the ship", "a fox " * 400)
    assert long.code == 2 and "reads at most" in long.err and long.err.count("\n") == 1
    assert run("steer", "--help").out.startswith("Usage: armillary steer")


def test_the_study_runs_from_the_command_line(run: Run, sae: Path) -> None:
    told = ("--n-features", 2, "--n-prompts", 2, "--n-tokens", 4, "--targets", 0.1, 0.5, "--n-bootstrap", 100, "--least-auroc", 0.5)
    answer = run("study", "steering", sae, *told, "--json")
    assert answer.code == 0, answer.err
    found = answer.json["report"]
    assert found["estimates"]["reached"]["value"] > 0 and len(found["tables"]["features"]["feature"]) == 2


def test_a_site_of_another_width_is_refused_in_a_line(run: Run, sae: Path, tmp_path: Path) -> None:
    fit = artifact.load(sae)
    source, width = fit.targets[0]
    assert source is not None
    layout = ((replace(source, site=Site("mlp_act", 1)), width),)
    artifact.save(replace(fit, inputs=layout, targets=layout), tmp_path / "sae")
    answer = run("steer", tmp_path / "sae", 3, *PROMPTS)
    assert answer.code == 2 and "is 128 wide; pass the model it was made from" in answer.err and answer.err.count("\n") == 1
