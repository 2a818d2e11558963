"""armillary draw: pictures of regions and of a token taken apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import armillary as arm
from armillary.core import activations, artifact

Run = Any


@pytest.fixture(scope="module")
def mfa(run: Run, acts: Path) -> Path:
    """Three regions of two loadings beside their activations."""
    out = acts.parent / "mfa"
    answer = run("fit", "mfa", acts, "--site", "resid_post.1", "--out", out, "--n-regions", 3, "--rank", 2)
    assert answer.code == 0, answer.err
    return out


def refused(answer: Any, *words: str) -> None:
    assert answer.code == 2 and answer.out == "", answer
    lines = [line for line in answer.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and [word for word in words if word not in lines[0]] == [], answer.err


def test_a_map_names_regions_by_tokens_of_the_fits_own_store(run: Run, mfa: Path, tmp_path: Path) -> None:
    answer = run("draw", "map", mfa, "--out", tmp_path / "map.html", tmp_path / "map.json")
    assert answer.code == 0, answer.err
    assert answer.out.split() == [str(tmp_path / "map.html"), str(tmp_path / "map.json")]
    points = next(one for one in json.loads((tmp_path / "map.json").read_text())["data"] if one["name"] == "regions")
    assert len(points["x"]) == 3 and all("tokens " in text for text in points["text"])
    page = (tmp_path / "map.html").read_text()
    assert "<h1>Regions of mfa</h1>" in page and "MFA(3 features at resid_post.1" in page and "Plotly" in page


def test_a_map_goes_without_tokens_where_the_store_is_gone(run: Run, mfa: Path, acts: Path, tmp_path: Path) -> None:
    fit = artifact.load(mfa)
    lost = arm.Decomposition(fit.dictionary, fit.encoder, fit.inputs, fit.targets, {"method": "MFA"})
    lost.save(tmp_path / "lost")
    answer = run("draw", "map", tmp_path / "lost", "--out", tmp_path / "map.json", "--json")
    assert answer.code == 0 and "note: regions are shown without tokens" in answer.err
    assert not [text for one in answer.json["figure"]["data"] if one.get("name") == "regions" for text in one["text"] if "tokens" in text]
    named = run("draw", "map", tmp_path / "lost", "--acts", acts, "--out", tmp_path / "named.json")
    assert named.code == 0 and "tokens " in (tmp_path / "named.json").read_text()
    refused(run("draw", "map", tmp_path / "lost", "--acts", tmp_path / "nothing", "--out", tmp_path / "x.json"), "nothing")
    refused(run("draw", "region", tmp_path / "lost", 0, "--out", tmp_path / "x.json"), "--acts")


def test_a_region_is_drawn_along_the_axes_asked_for(run: Run, mfa: Path, tmp_path: Path) -> None:
    answer = run("draw", "region", mfa, 1, "--axes", 1, 0, "--tokens", 20, "--neighbors", 1, "--out", tmp_path / "region.json", "--json")
    assert answer.code == 0, answer.err
    figure = json.loads((tmp_path / "region.json").read_text())
    assert figure == answer.json["figure"] and answer.json["out"] == [str(tmp_path / "region.json")]
    assert figure["layout"]["xaxis"]["title"]["text"].startswith("loading 1")
    names = [one["name"] for one in figure["data"] if str(one.get("name")).startswith("region")]
    assert names[0] == "region 1" and len(names) == 2 and 0 < len(figure["data"][0]["x"]) <= 20


def left(answer: Any, name: str) -> list[float]:
    bars = [one for one in answer.json["figure"]["data"] if one["type"] == "bar" and one["name"] == name]
    return bars[0]["base"]  # type: ignore[no-any-return]


def test_a_row_is_taken_apart_by_each_fit(run: Run, mfa: Path, sae: Path, acts: Path, tmp_path: Path) -> None:
    answer = run("draw", "token", mfa, sae, "--row", 7, "--out", tmp_path / "row.html", "--json")
    assert answer.code == 0, answer.err
    rows = activations.open(acts)["resid_post.1"]
    x = rows.read(np.array([7]))[0].float()
    for path in (mfa, sae):
        residual = x - artifact.load(path).reconstruct(x[None])[0]
        assert left(answer, path.name)[-2] == pytest.approx(float(residual.square().sum() / x.square().sum()), rel=1e-4)
    token = int(rows.tokens.rows[7])
    assert f"<strong>{rows.tokens.text(token)}</strong>" in (tmp_path / "row.html").read_text()


def test_a_token_of_a_text_is_taken_apart(run: Run, mfa: Path, sae: Path, gpt2: Path, tmp_path: Path) -> None:
    text = "seven bells and a fox"
    lm = arm.LanguageModel(str(gpt2))
    tokens = lm.tokenize([text])
    own = np.flatnonzero(~tokens.is_special)
    values = lm.capture(tokens, ["resid_post.1"])["resid_post.1"][0].float()
    found = {}
    for token in (0, len(own) - 1, -1):
        out = tmp_path / f"{token}.html"
        answer = run("draw", "token", sae, "--text", text, "--token", token, "--out", out, "--json")
        assert answer.code == 0, answer.err
        x = values[int(own[token])]
        residual = x - artifact.load(sae).reconstruct(x[None])[0]
        assert left(answer, "sae")[-2] == pytest.approx(float(residual.square().sum() / x.square().sum()), rel=1e-3)
        assert f"<strong>{tokens.text(int(own[token]))}</strong>" in out.read_text()
        found[token] = left(answer, "sae")
    assert found[-1] == found[len(own) - 1] != found[0]


def test_two_fits_of_one_name_are_told_apart_by_their_folders(run: Run, sae: Path, tmp_path: Path) -> None:
    artifact.load(sae).save(tmp_path / "sae")
    answer = run("draw", "token", sae, tmp_path / "sae", "--row", 0, "--out", tmp_path / "x.json", "--json")
    assert {one["name"] for one in answer.json["figure"]["data"]} == {str(sae), str(tmp_path / "sae")}


def test_what_is_refused(run: Run, mfa: Path, sae: Path, acts: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "x.html")
    refused(run("draw", "map", sae, *out), "TopKSAE(24 features", "is no mixture")
    refused(run("draw", "region", sae, 0, *out), "is no mixture")
    refused(run("draw", "region", mfa, 3, *out), "region 3 is out of range: there are 3 (0 to 2)")
    refused(run("draw", "region", mfa, 0, "--axes", 0, 2, *out), "axis 2 is out of range", "(0 to 1)")
    refused(run("draw", "region", mfa, 0, "--axes", 0, *out), "two or three different axes")
    refused(run("draw", "token", sae, *out), "give either --row", "or --text")
    refused(run("draw", "token", sae, "--row", 1, "--text", "a", *out), "give either --row")
    refused(run("draw", "token", sae, "--row", -1, *out), "row -1 is out of range")
    n = activations.open(acts).n_rows
    refused(run("draw", "token", sae, "--row", n, *out), f"row {n} is out of range", f"(0 to {n - 1})")
    refused(run("draw", "token", sae, "--text", "a fox", "--token", 99, *out), "token 99 is out of range")
    refused(run("draw", "token", sae, "--text", "", *out), "empty")
    refused(run("draw", "maps", mfa, *out), "unknown picture 'maps'", "Did you mean 'map'")
    refused(run("draw", "map", mfa, "--out", "x.svg"), "written as .html or .json, got 'x.svg'")
    assert not (tmp_path / "x.html").exists()


def test_fits_of_different_places_are_not_drawn_together(run: Run, sae: Path, acts: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert run("fit", "pca", acts, "--site", "mlp_act.1", "--n-components", 2, "--out", other).code == 0
    refused(run("draw", "token", sae, other, "--row", 0, "--out", tmp_path / "x.html"), "reads another place than")


def test_nothing_is_overwritten(run: Run, mfa: Path, tmp_path: Path) -> None:
    (tmp_path / "map.html").write_text("mine")
    refused(run("draw", "map", mfa, "--out", tmp_path / "new.html", tmp_path / "map.html"), "exists", "nothing was overwritten")
    assert (tmp_path / "map.html").read_text() == "mine" and not (tmp_path / "new.html").exists()


@pytest.mark.parametrize("name", ["", "map", "region", "token"])
def test_there_is_help(run: Run, name: str) -> None:
    answer = run("draw", *([name] if name else []), "--help")
    assert answer.code == 0 and answer.out.startswith(f"Usage: armillary draw {name}".rstrip())
