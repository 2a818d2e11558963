"""armillary fit: sweeps, a fit per site, transcoders; and armillary convert."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import armillary as arm
from app.test_commands import Run

SMALL = ["--n-steps", 3, "--batch-size", 64]


@pytest.fixture(scope="module")
def acts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fit") / "acts"
    arm.harvest(arm.LanguageModel("arm-tiny"), arm.reference_texts(10), ["mlp_in.1", "mlp_out.1"], out=folder)
    return folder


def test_a_sweep_fits_every_combination_in_one_pass(run: Run, acts: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    answer = run("fit", "sae", acts, "--site", "mlp_in.1", "--sweep", "k=2,4", "n_features=8,16", "--out", out, *SMALL, "--json")
    assert answer.code == 0, answer.err
    names = {"k=2,n_features=8", "k=2,n_features=16", "k=4,n_features=8", "k=4,n_features=16"}
    assert set(answer.json["fits"]) == names == {path.name for path in out.iterdir()}
    alone = run("fit", "topk-sae", acts, "--site", "mlp_in.1", "--k", 4, "--n-features", 8, "--out", tmp_path / "alone", *SMALL)
    assert alone.code == 0, alone.err
    one, other = arm.load(out / "k=4,n_features=8"), arm.load(tmp_path / "alone")
    assert (one.dictionary.atoms == other.dictionary.atoms).all()
    assert [json.loads(line)["step"] for line in (tmp_path / "alone" / "log.jsonl").read_text().splitlines()] == [1, 2, 3]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")], "checkpoint and live log are gone"


@pytest.mark.parametrize(
    "sweep, words",
    [
        (["k"], "is not NAME=A,B"),
        (["q=1,2"], "unknown option"),
        (["k=2,40"], "at most n_features"),
        (["k="], "is not NAME=A,B"),
        (["k=1", "k=2"], "names k twice"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused(run: Run, acts: Path, tmp_path: Path, sweep: list[str], words: str) -> None:
    answer = run("fit", "topk-sae", acts, "--site", "mlp_in.1", "--n-features", 8, "--k", 1, "--sweep", *sweep, "--out", tmp_path / "x")
    assert answer.code == 2 and words in answer.err, answer.err
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_every_site_gets_a_fit(run: Run, acts: Path, tmp_path: Path) -> None:
    answer = run("fit", "pca", acts, "--each", "--sweep", "n_components=1,2", "--out", tmp_path / "each")
    assert answer.code == 0, answer.err
    assert {str(arm.load(path).site) for path in (tmp_path / "each").glob("*/*")} == {"mlp_in.1", "mlp_out.1"}
    assert len(list((tmp_path / "each").glob("*/*"))) == 4


def test_a_transcoder_and_its_way_to_another_tool_and_back(run: Run, acts: Path, tmp_path: Path) -> None:
    options = ["--site", "mlp_in.1", "--target", "mlp_out.1", "--n-features", 8, "--l0", 2, "--skip"]
    answer = run("fit", "jumprelu-sae", acts, *options, "--out", tmp_path / "fit", *SMALL)
    assert answer.code == 0, answer.err
    fit = arm.load(tmp_path / "fit")
    assert fit.dictionary.base_rule == "skip" and str(fit.site) == "mlp_in.1"
    assert run("convert", tmp_path / "fit", "--to", "saelens", "--out", tmp_path / "theirs").code == 0
    answer = run("convert", tmp_path / "theirs", "--out", tmp_path / "back")
    assert answer.code == 0, answer.err
    assert str(arm.load(tmp_path / "back").site) == "mlp_in.1"
    assert run("fit", "pca", acts, "--site", "mlp_in.1", "--target", "mlp_out.1", "--out", tmp_path / "no").code == 2
    assert run("fit", "topk-sae", acts, "--each", *options[:4], "--n-features", 8, "--k", 2, "--out", tmp_path / "no").code == 2


def test_what_convert_cannot_do_is_one_line(run: Run, acts: Path, tmp_path: Path) -> None:
    assert run("fit", "pca", acts, "--site", "mlp_in.1", "--n-components", 2, "--out", tmp_path / "pca").code == 0
    for arguments, words in (
        ([tmp_path / "pca", "--to", "saelens"], "cannot be written for SAELens"),
        ([tmp_path / "pca", "--to", "saelenz"], "saelens"),
        ([tmp_path, "--hint", "layer"], "is not NAME=VALUE"),
        ([tmp_path / "nothing"], "no checkpoint at"),
    ):
        answer = run("convert", *arguments, "--out", tmp_path / "out")
        assert answer.code == 2 and words in answer.err and "Traceback" not in answer.err, answer.err
