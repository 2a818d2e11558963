"""Bad input: one line on stderr that names the value and the nearest fix, exit code 2, nothing written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

Run = Any


def harvest(run: Run, model: object, out: Path, *more: object, site: str = "resid_post.1", text: object = None) -> Any:
    source = [] if text is None else ["--text", text]
    return run("harvest", model, "--site", site, *source, "--out", out, *more)


def refused(answer: Any, *words: str) -> None:
    assert answer.code == 2, answer
    assert answer.out == ""
    lines = [line for line in answer.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and answer.err.endswith(f"{lines[0]}\n"), answer.err
    assert "Traceback" not in answer.err
    assert [word for word in words if word not in lines[0]] == [], lines[0]


# ---------------------------------------------------------------- text


def test_empty_text(run: Run, gpt2: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    refused(harvest(run, gpt2, tmp_path / "acts", text=tmp_path / "empty.txt"), "empty.txt' is empty", "--on-error skip")


def test_text_that_is_not_utf8(run: Run, gpt2: Path, tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("Lisbon and caf\xe9".encode("latin-1"))
    answer = harvest(run, gpt2, tmp_path / "acts", text=tmp_path / "latin.txt")
    refused(answer, "latin.txt' is not UTF-8: byte 0xe9 at offset 14", "--on-error replace")
    mended = harvest(run, gpt2, tmp_path / "acts", "--on-error", "replace", "--json", text=tmp_path / "latin.txt")
    assert mended.code == 0 and mended.json["skipped"] == {"skipped": 0, "replaced": 1}


def test_a_file_that_does_not_exist(run: Run, gpt2: Path, text: Path, tmp_path: Path) -> None:
    refused(harvest(run, gpt2, tmp_path / "acts", text=text.with_name("tale.jsonl")), "tale.jsonl", "Did you mean", "tales.jsonl")


def test_what_to_do_with_bad_text_is_one_of_three(run: Run, gpt2: Path, text: Path, tmp_path: Path) -> None:
    refused(harvest(run, gpt2, tmp_path / "acts", "--on-error", "skp", text=text), "'skp'", "'skip'")


# ---------------------------------------------------------------- names


def test_unknown_model(run: Run, text: Path, tmp_path: Path) -> None:
    refused(harvest(run, "arm-smal", tmp_path / "acts", text=text), "'arm-smal'", "'arm-small'")
    refused(harvest(run, "./no/such/folder", tmp_path / "acts", text=text), "'./no/such/folder'", "no such folder")


def test_unknown_site(run: Run, gpt2: Path, text: Path, tmp_path: Path) -> None:
    refused(harvest(run, gpt2, tmp_path / "acts", site="mlp_axt.1", text=text), "'mlp_axt.1'", "'mlp_act.1'")


def test_layer_out_of_range(run: Run, gpt2: Path, text: Path, tmp_path: Path) -> None:
    answer = harvest(run, gpt2, tmp_path / "acts", site="mlp_act.12", text=text)
    refused(answer, "layer 12", "3 layers (0 to 2)", "'mlp_act.2'")


def test_site_that_was_not_harvested(run: Run, acts: Path, tmp_path: Path) -> None:
    answer = run("fit", "pca", acts, "--site", "mlp_out.1", "--out", tmp_path / "fit")
    refused(answer, "mlp_out.1", "mlp_act.1")


def test_several_sites_and_none_named(run: Run, acts: Path, tmp_path: Path) -> None:
    refused(run("fit", "pca", acts, "--out", tmp_path / "fit"), "holds 2 sites", "--site")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("hravest",), ("command 'hravest'", "'harvest'")),
        (("fit", "topk-sea", "x"), ("method 'topk-sea'", "'topk-sae'")),
        (("study", "fidelty", "x"), ("study 'fidelty'", "'fidelity'")),
        (("fit", "pca", "x", "--n-componants", "3"), ("option '--n-componants'", "'--n-components'")),
        (("demo", "--modle", "x"), ("option '--modle'", "'--model'")),
        (("verify", "/no/such/place"), ("/no/such/place",)),
        (("harvest", "--text", "a", "m"), ("missing argument MODEL", "before --text")),
    ],
)
def test_unknown_names(arguments: tuple[str, ...], words: tuple[str, ...], run: Run) -> None:
    refused(run(*arguments), *words)


# ---------------------------------------------------------------- sizes


def test_fewer_rows_than_the_fit_needs(run: Run, acts: Path, tmp_path: Path) -> None:
    answer = run("fit", "kmeans", acts, "--site", "mlp_act.1", "--out", tmp_path / "fit", "--n-features", 100_000)
    refused(answer, "at least 100000 rows", "harvest more text or ask for fewer features")


def test_k_above_the_number_of_features(run: Run, acts: Path, tmp_path: Path) -> None:
    answer = run("fit", "topk-sae", acts, "--site", "mlp_act.1", "--out", tmp_path / "fit", "--n-features", 8, "--k", 9)
    refused(answer, "'k'", "at most n_features, 8", "9")


def test_nan_activations_name_row_and_document(run: Run, text: Path, tmp_path: Path) -> None:
    from support import tiny_model, tiny_tokenizer

    model = tiny_model("gpt2")
    with torch.no_grad():
        model.transformer.wte.weight[5:] = float("nan")
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    refused(harvest(run, tmp_path / "model", tmp_path / "acts", text=text), "NaN", "tales.jsonl")


# ---------------------------------------------------------------- output


def test_an_output_folder_that_is_not_empty_is_left_alone(run: Run, gpt2: Path, text: Path, acts: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("keep")
    for answer in (
        harvest(run, gpt2, taken, text=text),
        run("fit", "pca", acts, "--site", "mlp_act.1", "--out", taken),
        run("demo", "--model", gpt2, "--text", text, "--out", taken),
    ):
        refused(answer, f"'{taken}'", "nothing was overwritten", f"{taken}-2")
    assert [path.name for path in taken.iterdir()] == ["mine.txt"] and (taken / "mine.txt").read_text() == "keep"


def test_a_report_that_exists_is_left_alone(run: Run, sae: Path, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("mine")
    refused(run("study", "fidelity", sae, "--out", tmp_path / "report.html"), "report.html", "nothing was overwritten")
    assert (tmp_path / "report.html").read_text() == "mine"


def test_a_report_of_an_unknown_kind_is_refused_before_the_work(run: Run, sae: Path, tmp_path: Path) -> None:
    refused(run("study", "fidelity", sae, "--out", tmp_path / "report.pdf"), "report.pdf", "report.html")


def test_a_store_of_another_run_is_left_alone(run: Run, gpt2: Path, text: Path, acts: Path) -> None:
    refused(harvest(run, gpt2, acts, site="mlp_act.0", text=text), "was harvested with", "another --out")


def test_a_fit_that_does_not_exist(run: Run, sae: Path) -> None:
    refused(run("inspect", sae.with_name("sea")), "sea", f"did you mean '{sae}'")


def test_a_feature_that_does_not_exist(run: Run, sae: Path) -> None:
    refused(run("inspect", sae, 24), "feature 24 is out of range", "0 to 23")


def test_what_needs_logits_asked_of_an_encoder(run: Run, bert: Path, text: Path, tmp_path: Path) -> None:
    assert harvest(run, bert, tmp_path / "acts", text=text).code == 0
    assert run("fit", "pca", tmp_path / "acts", "--out", tmp_path / "pca", "--n-components", 4).code == 0
    refused(run("study", "fidelity", tmp_path / "pca", "--loss"), "logits", str(bert))
    without = run("study", "fidelity", tmp_path / "pca", "--n-bootstrap", 100, "--json")
    assert without.code == 0 and without.json["report"]["estimates"]["ce_increase"]["value"] is None


def test_activations_of_another_model(run: Run, bert: Path, sae: Path, text: Path, tmp_path: Path) -> None:
    assert harvest(run, bert, tmp_path / "acts", text=text).code == 0
    refused(run("study", "fidelity", sae, "--acts", tmp_path / "acts"), "acts", "tiny-gpt2", "--acts")


# ---------------------------------------------------------------- values that are numbers, but no use


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--seed", -1), ("seed", "-1")),
        (("--seed", 10**19), ("seed", "from 0 to")),
        (("--lr", "inf"), ("'lr'", "finite", "inf")),
        (("--lr", "1e30", "--n-steps", 20), ("diverged", "Try lr=")),
        (("--device", "cuda:77"), ("'cuda:77'", "there is: cpu")),
        (("--device", "gpu"), ("'gpu'", "there is: cpu")),
    ],
)
def test_a_training_that_cannot_work(run: Run, acts: Path, tmp_path: Path, options: tuple[Any, ...], words: tuple[str, ...]) -> None:
    sizes = ("--n-features", 8, "--k", 2, "--n-steps", 3)
    refused(run("fit", "topk-sae", acts, "--site", "resid_post.1", "--out", tmp_path / "fit", *sizes, *options), *words)
    assert not (tmp_path / "fit").exists()


def test_a_list_where_one_value_is_meant(run: Run, acts: Path, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("seed: [8, 9]\n")
    refused(
        run("fit", "pca", acts, "--site", "resid_post.1", "--out", tmp_path / "fit", "--config", tmp_path / "c.yaml"), "'seed'", "[8, 9]"
    )


def test_no_promoted_tokens_at_all(run: Run, sae: Path) -> None:
    refused(run("inspect", sae, 3, "--promoted", 0), "--promoted", "0")


def test_a_refused_harvest_leaves_nothing_behind(run: Run, gpt2: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "there").mkdir()
    for out, is_left in ((tmp_path / "new", False), (tmp_path / "there", True)):
        refused(harvest(run, gpt2, out, text=tmp_path / "empty.txt"), "is empty")
        assert out.exists() is is_left and not (is_left and list(out.iterdir()))


def test_a_demo_does_not_take_a_foreign_folder_for_its_own(run: Run, gpt2: Path, text: Path, tmp_path: Path) -> None:
    for record in ("x", '{"x": 1}', "[1]"):
        (tmp_path / "run.json").write_text(record)
        refused(run("demo", "--model", gpt2, "--text", text, "--out", tmp_path), "exists and is not empty")


def test_a_revision_of_a_model_that_has_one(run: Run, text: Path, tmp_path: Path) -> None:
    refused(harvest(run, "arm-tiny", tmp_path / "acts", "--revision", "abc", text=text), "one revision", "'abc'")
