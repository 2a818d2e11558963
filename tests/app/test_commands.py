"""Each command on a tiny model: what it writes, what it prints, and that its JSON is one object on stdout and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import armillary as arm
from armillary.core import activations, artifact
from armillary.methods import METHODS

Run = Any


def test_harvest_writes_a_store_and_prints_its_path_last(run: Run, gpt2: Path, text: Path, tmp_path: Path) -> None:
    answer = run("harvest", gpt2, "--site", "mlp_act.0", "--text", text, "--out", tmp_path / "acts", "--tokens", 200)
    assert answer.code == 0, answer.err
    assert answer.last == str(tmp_path / "acts")
    store = activations.open(tmp_path / "acts")
    assert store.n_rows == 200 and [str(site) for site in store.sites] == ["mlp_act.0"]


def test_harvest_can_stand_in_a_yaml_file_as_a_whole(run: Run, gpt2: Path, text: Path, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(f"model: {gpt2}\nsite: [embed, resid_post.0]\ntext: {text}\nout: {tmp_path / 'acts'}\ntokens: 100\n")
    answer = run("harvest", "--config", tmp_path / "run.yaml", "--tokens", 120, "--json")
    assert answer.code == 0, answer.err
    assert (answer.json["n_rows"], answer.json["sites"]) == (120, ["embed", "resid_post.0"])


def test_harvest_reads_several_files_and_counts_what_it_skipped(run: Run, gpt2: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the cat sat on the mat")
    (tmp_path / "b.txt").write_bytes(b"the cat \xff sat")
    files = ["--text", tmp_path / "a.txt", tmp_path / "b.txt"]
    answer = run("harvest", gpt2, "--site", "embed", *files, "--out", tmp_path / "acts", "--on-error", "skip", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["skipped"] == {"skipped": 1, "replaced": 0}
    assert "b.txt' is not UTF-8: byte 0xff at offset 8" in answer.err


def test_the_same_harvest_again_changes_nothing(run: Run, gpt2: Path, text: Path, acts: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in sorted(acts.rglob("*")) if path.is_file()}
    answer = run("harvest", gpt2, "--site", "resid_post.1", "mlp_act.1", "--text", text, "--out", acts)
    assert answer.code == 0, answer.err
    assert {path: path.stat().st_mtime_ns for path in sorted(acts.rglob("*")) if path.is_file()} == before


def test_fit_writes_an_artifact_with_its_provenance(run: Run, sae: Path, acts: Path) -> None:
    fit = artifact.load(sae)
    assert fit.n_features == 24
    assert fit.provenance["method"] == "TopKSAE" and fit.provenance["options"]["k"] == 3
    assert Path(fit.provenance["store"]) == acts.absolute()
    assert not list(sae.parent.glob(".sae*")), "a checkpoint was left behind"


def test_fit_takes_its_options_from_yaml(run: Run, acts: Path, tmp_path: Path) -> None:
    (tmp_path / "fit.yaml").write_text(f"site: mlp_act.1\nout: {tmp_path / 'fit'}\nn_components: 5\nseed: 3\n")
    answer = run("fit", "PCA", acts, "--config", tmp_path / "fit.yaml", "--n-components", "4", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["n_features"] == 4 and answer.json["provenance"]["seed"] == 3
    assert answer.json["provenance"]["sites"] == ["mlp_act.1"]


def test_fit_of_a_supervised_method_reads_the_documents_labels(run: Run, acts: Path, tmp_path: Path) -> None:
    answer = run("fit", "diffmeans", acts, "--site", "resid_post.1", "--label", "kind", "--out", tmp_path / "fit")
    assert answer.code == 0, answer.err
    assert artifact.load(tmp_path / "fit").provenance["method"] == "DiffMeans"


def test_study_finds_rows_and_model_in_the_provenance(run: Run, sae: Path, tmp_path: Path) -> None:
    answer = run("study", "fidelity", sae, "--n-bootstrap", 100, "--out", tmp_path / "report.html", "--json")
    assert answer.code == 0, answer.err
    estimates = answer.json["report"]["estimates"]
    assert 0 < estimates["fvu"]["value"] < 1
    assert estimates["ce_increase"]["value"] is not None
    assert "<!doctype html>" in (tmp_path / "report.html").read_text()[:100]


def test_what_a_fit_has_held_out_is_what_a_study_measures_on(run: Run, acts: Path, tmp_path: Path) -> None:
    options = ["--site", "resid_post.1", "--out", tmp_path / "pca", "--n-components", 3, "--held-out", 0.25]
    assert run("fit", "pca", acts, *options).code == 0
    fitted, held_out = activations.open(acts)["resid_post.1"].split(0.75)
    answer = run("study", "fidelity", tmp_path / "pca", "--n-bootstrap", 100, "--no-loss", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["report"]["estimates"]["fvu"]["n"] == held_out.n_rows
    assert artifact.load(tmp_path / "pca").provenance["n_rows"] == fitted.n_rows


@pytest.mark.parametrize("share", [1, -0.5])
def test_a_share_that_leaves_nothing_is_refused(run: Run, acts: Path, tmp_path: Path, share: float) -> None:
    answer = run("fit", "pca", acts, "--site", "resid_post.1", "--out", tmp_path / "pca", "--held-out", share)
    assert (answer.code, answer.err.strip()) == (2, f"error: --held-out is a share from 0 up to 1, got {share}; try 0.2")


def test_study_of_several_fits_puts_them_side_by_side(run: Run, sae: Path, acts: Path, tmp_path: Path) -> None:
    assert run("fit", "pca", acts, "--site", "resid_post.1", "--out", tmp_path / "pca", "--n-components", 3).code == 0
    answer = run("study", "fidelity", sae, tmp_path / "pca", "--no-loss", "--n-bootstrap", 100, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["report"]["tables"]["subjects"]["subject"] == ["sae", "pca"]


def test_study_finds_the_activations_of_a_run_that_was_moved(run: Run, sae: Path, acts: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(acts.parent, tmp_path / "moved")
    acts.rename(acts.with_name("hidden"))
    try:
        answer = run("study", "fidelity", tmp_path / "moved" / "sae", "--no-loss", "--n-bootstrap", 100, "--json")
    finally:
        acts.with_name("hidden").rename(acts)
    assert answer.code == 0, answer.err


def test_inspect_lists_features_and_shows_one(run: Run, sae: Path) -> None:
    listed = run("inspect", sae, "--n-features", 5, "--json")
    assert listed.code == 0, listed.err
    features = listed.json["features"]
    assert 0 < len(features) <= 5
    shown = run("inspect", sae, features[0]["feature"])
    assert shown.code == 0, shown.err
    assert f"Feature {features[0]['feature']}" in shown.out and "promotes" in shown.out


def test_inspect_without_the_model_leaves_out_promoted_tokens(run: Run, sae: Path) -> None:
    answer = run("inspect", sae, "--no-logits", "--json")
    assert answer.code == 0, answer.err
    assert all(one["effect"] is None for one in answer.json["features"])


@pytest.fixture(scope="module")
def neurons(run: Run, acts: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Semi-NMF of neurons by two seeds."""
    fits = [tmp_path_factory.mktemp("snmf") / f"seed-{seed}" for seed in (0, 1)]
    for seed, out in enumerate(fits):
        told = ("--n-features", 8, "--neurons-per-feature", 12, "--seed", seed)
        answer = run("fit", "semi-nmf", acts, "--site", "mlp_act.1", "--out", out, *told)
        assert answer.code == 0, answer.err
    return fits


def test_a_tree_is_drawn_and_written(run: Run, neurons: list[Path], acts: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"tree{ending}" for ending in (".html", ".json", ".graphml", ".nwk")]
    answer = run("tree", neurons[0], "--out", *files)
    assert answer.code == 0, answer.err
    assert all(str(path) in answer.out and path.stat().st_size > 50 for path in files)
    assert arm.snmf.FeatureTree.read(files[1]).n_leaves == 8
    levels = run("tree", neurons[0], "--levels", 4, 2, "--acts", acts, "--json")
    assert levels.code == 0, levels.err
    assert levels.json["tree"]["record"]["n_features"] == [8, 4, 2] and levels.json["statistics"]["n_features"] == 8
    again = run("tree", neurons[0], "--out", files[0])
    assert again.code == 2 and "exists" in again.err
    assert "written as .html, .json, .graphml or .nwk, got 'tree.svg'" in run("tree", neurons[0], "--out", "tree.svg").err


def test_fits_of_two_seeds_are_compared(run: Run, neurons: list[Path], tmp_path: Path) -> None:
    answer = run("agree", *neurons, "--out", tmp_path / "agree.html", "--json")
    assert answer.code == 0, answer.err
    assert 0 < answer.json["report"]["estimates"]["matched_cosine"]["value"] <= 1 and (tmp_path / "agree.html").is_file()
    same = run("agree", neurons[0], neurons[0], "--json").json["report"]["estimates"]
    assert same["matched_cosine"]["value"] == pytest.approx(1) and same["support_jaccard"]["value"] == 1
    assert "at least two fits are compared, got 1" in run("agree", neurons[0]).err


def test_plan_says_what_a_harvest_takes(run: Run, gpt2: Path) -> None:
    answer = run("plan", gpt2, "--site", "mlp_act.1", "--tokens", 1_000_000, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["n_rows"] == 1_000_000 and answer.json["disk_bytes"] > 1_000_000 and answer.json["fits"] in (True, False)


def test_verify_reads_every_file_of_a_run(run: Run, sae: Path) -> None:
    answer = run("verify", sae.parent, "--json")
    assert answer.code == 0, answer.err
    assert {entry["kind"] for entry in answer.json["checked"]} == {"store", "artifact"}
    assert all(entry["bytes"] > 0 and entry["is_complete"] for entry in answer.json["checked"])


@pytest.mark.parametrize("pattern", ["acts/shards/*.mlp_act.1.safetensors", "acts/documents.jsonl", "sae/weights.safetensors"])
def test_verify_names_the_file_with_one_flipped_bit(pattern: str, run: Run, sae: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(sae.parent, tmp_path / "run")
    victim = next((tmp_path / "run").glob(pattern))
    data = bytearray(victim.read_bytes())
    data[-3] ^= 1
    victim.write_bytes(data)
    answer = run("verify", tmp_path / "run")
    assert answer.code == 1
    assert victim.name in answer.err and answer.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("harvest",),
        ("fit",),
        ("fit", "topk-sae"),
        ("fit", "probe"),
        ("study",),
        ("study", "fidelity"),
        ("inspect",),
        ("label",),
        ("agree",),
        ("tree",),
        ("replicate", "semi-nmf"),
        ("replicate", "comparison"),
        ("compare",),
        ("plan",),
        ("demo",),
        ("verify",),
    ],
)
def test_every_command_has_help(arguments: tuple[str, ...], run: Run) -> None:
    answer = run(*arguments, "--help")
    assert answer.code == 0
    assert answer.out.startswith(f"Usage: armillary {' '.join(arguments)}")


def test_json_is_all_there_is_on_stdout(run: Run, sae: Path) -> None:
    answer = run("verify", sae, "--json")
    assert json.loads(answer.out)["ok"] is True and answer.out.count("\n") == 1


#: What each method is told besides the site: sizes that the tiny store allows.
SMALL = {
    "abs-topk-sae": ["--n-features", 8, "--k", 2, "--n-steps", 3],
    "archetypal-sae": ["--n-features", 8, "--k", 2, "--n-steps", 3],
    "batch-topk-sae": ["--n-features", 8, "--k", 2, "--n-steps", 3],
    "convex-nmf": ["--n-features", 3, "--n-points", 20],
    "diffmeans": ["--label", "kind"],
    "gated-sae": ["--n-features", 8, "--l0", 2, "--n-steps", 3],
    "ica": ["--n-components", 2],
    "jumprelu-sae": ["--n-features", 8, "--l0", 2, "--n-steps", 3],
    "kmeans": ["--n-features", 3],
    "matryoshka-sae": ["--n-features", 8, "--k", 2, "--n-steps", 3, "--widths", "2,4,8"],
    "mfa": ["--n-regions", 3, "--rank", 2],
    "nmf": ["--n-features", 3],
    "pca": ["--n-components", 2],
    "probe": ["--label", "kind", "--C", 0.5],
    "relu-sae": ["--n-features", 8, "--sparsity", 0.1, "--n-steps", 3],
    "semi-nmf": ["--n-features", 3, "--neurons-per-feature", 4],
    "topk-sae": ["--n-features", 8, "--k", 2, "--n-steps", 3],
}


@pytest.mark.parametrize("method", [name for name in METHODS if name != "das"])  # which learns from a task: test_localization.py
def test_every_method_fits_from_the_command_line(run: Run, acts: Path, tmp_path: Path, method: str) -> None:
    answer = run("fit", method, acts, "--site", "resid_post.1", "--out", tmp_path / "fit", *SMALL[method])
    if method == "nmf":  # the residual stream has entries of either sign
        assert answer.code == 2 and "use SemiNMF" in answer.err
        return
    assert answer.code == 0, answer.err
    assert artifact.load(tmp_path / "fit").n_features >= 1


def test_verify_leaves_other_programs_files_alone(run: Run, acts: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text('{"name": "a web app"}')
    (tmp_path / "other" / "run.json").write_text("[1]")
    shutil.copytree(acts, tmp_path / "acts")
    answer = run("verify", tmp_path, "--json")
    assert answer.code == 0, answer.err
    assert [entry["path"] for entry in answer.json["checked"]] == [str(tmp_path / "acts")]
    shutil.rmtree(tmp_path / "acts" / "shards")
    assert run("verify", tmp_path).code == 1


def test_one_text_shows_as_many_contexts_as_were_asked_for(run: Run, gpt2: Path, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("the cat sat on the mat and the fox watched. " * 20)
    assert run("harvest", gpt2, "--site", "embed", "--text", tmp_path / "one.txt", "--out", tmp_path / "acts").code == 0
    assert run("fit", "pca", tmp_path / "acts", "--out", tmp_path / "pca", "--n-components", 2).code == 0
    answer = run("inspect", tmp_path / "pca", 0, "--contexts", 5, "--json")
    assert len(answer.json["features"][0]["top"]) == 5
