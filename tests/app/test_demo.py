"""The demo from end to end, on a tiny causal model and a tiny encoder, with a text that is not in the repository."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from armillary.app import demo
from armillary.core import activations, artifact
from armillary.lm.reference import texts
from armillary.studies.quality import fidelity

Run = Any


@pytest.fixture(scope="module")
def done(run: Run, gpt2: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    out = tmp_path_factory.mktemp("demo") / "run"
    answer = run("demo", "--model", gpt2, "--text", text, "--out", out)
    assert answer.code == 0, answer.err
    return answer, out


def test_the_last_line_of_stdout_is_the_pages_path_alone(done: tuple[Any, Path]) -> None:
    answer, out = done
    assert answer.last == str(out / "report.html")
    assert Path(answer.last).is_file()


def test_the_seconds_are_printed_above_it(done: tuple[Any, Path]) -> None:
    match = re.fullmatch(r"done in ([\d.]+) seconds \(installation not counted\)", done[0].out.splitlines()[-2])
    assert match and float(match[1]) > 0


def test_the_run_folder_holds_activations_fits_reports_and_a_record(done: tuple[Any, Path]) -> None:
    _, out = done
    sites, methods = ("resid_post.1", "mlp_act.1"), ("pca", "kmeans", "topk-sae")
    fits = {f"{method}-{site}" for method in methods for site in sites}
    assert {path.name for path in out.iterdir()} == {"acts", "reports", "report.html", "run.json", *fits}
    assert {path.name for path in (out / "reports").iterdir()} == {f"fidelity-{site}.json" for site in sites}
    record = json.loads((out / "run.json").read_text())
    assert record["state"] == "done" and record["seconds"] > 0 and record["settings"]["seed"] == 0
    assert artifact.load(out / "topk-sae-mlp_act.1").provenance["sites"] == ("mlp_act.1",)


def test_verify_covers_the_page_and_the_reports(done: tuple[Any, Path], run: Run) -> None:
    answer = run("verify", done[1], "--json")
    assert answer.code == 0, answer.err
    kinds = [entry["kind"] for entry in answer.json["checked"]]
    assert (kinds.count("artifact"), kinds.count("store"), kinds.count("run")) == (6, 1, 1)


def test_the_page_tells_what_was_done_and_what_falls_short(done: tuple[Any, Path]) -> None:
    page = (done[1] / "report.html").read_text()
    titles = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    assert titles[:3] == ["What this page shows", "How faithful are the decompositions?", "How to read a feature"]
    assert "Features at resid_post.1" in titles and "Where this falls short" in titles and "How it was made" in titles
    for words in ("TopK SAE", "k-means", "PCA", "variance explained", "extra loss", "tales.jsonl", "so the fits are small", "Promoted"):
        assert words in page, words


@pytest.mark.slow
def test_one_long_text_is_fitted_and_measured_in_different_windows(run: Run, gpt2: Path, text: Path, tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text(" ".join(json.loads(line)["text"] for line in text.read_text().splitlines()) * 12)
    answer = run("demo", "--model", gpt2, "--text", tmp_path / "long.txt", "--out", tmp_path / "run", "--site", "embed")
    assert answer.code == 0, answer.err
    seen = artifact.load(tmp_path / "run" / "pca-embed").provenance
    n = activations.open(tmp_path / "run" / "acts").n_rows
    report = json.loads((tmp_path / "run" / "reports" / "fidelity-embed.json").read_text())
    assert report["estimates"]["pca: fvu"]["n"] == n - seen["n_rows"] > 0
    assert "kept from the fits" in (tmp_path / "run" / "report.html").read_text()


def test_every_method_has_its_strongest_and_its_random_features(done: tuple[Any, Path]) -> None:
    page = (done[1] / "report.html").read_text()
    for method in ("pca", "kmeans", "topk-sae"):
        cards = re.findall(rf'<article class="card" id="{method}-mlp_act\.1-\d+">.*?</article>', page, re.DOTALL)
        # so short a text gives PCA two components only, and leaves none to draw
        counts = [sum(words in card for card in cards) for words in ("one of the strongest", "drawn at random")]
        assert counts == ([2, 0] if method == "pca" else [4, 2])
        assert all('<p class="context">' in card for card in cards)


def test_figures_of_the_report_are_those_of_the_page(done: tuple[Any, Path]) -> None:
    report = json.loads((done[1] / "reports" / "fidelity-mlp_act.1.json").read_text())
    value = report["estimates"]["topk-sae: explained_variance"]["value"]
    assert f"<strong>{value:.4g}</strong>" in (done[1] / "report.html").read_text()


def test_a_finished_run_is_not_overwritten(done: tuple[Any, Path], run: Run, gpt2: Path, text: Path) -> None:
    answer = run("demo", "--model", gpt2, "--text", text, "--out", done[1])
    assert answer.code == 2 and "nothing was overwritten" in answer.err


def test_an_interrupted_run_goes_on_where_it_stopped(
    run: Run, gpt2: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    command = ("demo", "--model", gpt2, "--text", text, "--out", tmp_path / "run", "--site", "resid_post.0")
    with monkeypatch.context() as patch:
        patch.setattr(fidelity, "run", interrupted)
        stopped = run(*command)
    assert stopped.code == 130
    assert "goes on from there" in stopped.err and f"--out {tmp_path / 'run'}" in stopped.err
    fits = sorted((tmp_path / "run").glob("*/weights.safetensors"))
    before = [path.stat().st_mtime_ns for path in fits]
    assert len(fits) == 3
    other = run(*command, "--seed", 1)
    assert other.code == 2 and "nothing was overwritten" in other.err
    assert run(*command).code == 0
    assert [path.stat().st_mtime_ns for path in fits] == before


# ---------------------------------------------------------------- encoders


def test_an_encoder_leaves_out_what_needs_logits_and_says_so(run: Run, bert: Path, text: Path, tmp_path: Path) -> None:
    answer = run("demo", "--model", bert, "--text", text, "--out", tmp_path / "run", "--json")
    assert answer.code == 0, answer.err
    assert any("encoder without next-token predictions" in warning for warning in answer.json["warnings"])
    estimates = answer.json["estimates"]["mlp_act.1"]
    assert estimates["pca: ce_increase"]["value"] is None and estimates["pca: explained_variance"]["value"] > 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "encoder without next-token predictions" in page
    assert "Promoted tokens are left out" in page and '<div class="tokens">' not in page


# ---------------------------------------------------------------- little text, bad text


def test_a_few_words_are_too_few_and_leave_nothing_behind(run: Run, gpt2: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("a few words")
    answer = run("demo", "--model", gpt2, "--text", tmp_path / "words.txt", "--out", tmp_path / "run")
    assert answer.code == 2 and "needs at least 64; give a longer --text" in answer.err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_a_short_text_scales_everything_down(run: Run, gpt2: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("The ship sailed at dawn, and the fox watched it go. " * 6)
    answer = run("demo", "--model", gpt2, "--text", tmp_path / "short.txt", "--out", tmp_path / "run", "--site", "mlp_act.2", "--json")
    assert answer.code == 0, answer.err
    assert any("so the fits are small: 8 SAE features" in warning for warning in answer.json["warnings"])


def test_hostile_text_is_only_text(run: Run, gpt2: Path, tmp_path: Path) -> None:
    (tmp_path / "hostile.txt").write_text("</script><img src=x onerror=alert(1)> & <b>bold</b> " * 12)
    answer = run("demo", "--model", gpt2, "--text", tmp_path / "hostile.txt", "--out", tmp_path / "run", "--site", "resid_post.0")
    assert answer.code == 0, answer.err
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<img" not in page and "<b>" not in page


def test_bad_text_and_unknown_names_leave_no_folder(run: Run, gpt2: Path, text: Path, tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 " * 100)
    out = ("--out", tmp_path / "run")
    for arguments in (
        ("--model", gpt2, "--text", tmp_path / "latin.txt"),
        ("--model", "arm-tinny", "--text", text),
        ("--model", gpt2, "--site", "mlp.9"),
    ):
        answer = run("demo", *arguments, *out)
        assert answer.code == 2, answer
        assert not (tmp_path / "run").exists()


def test_without_out_every_run_has_a_new_folder(run: Run, gpt2: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "demo-1").mkdir(parents=True)
    answer = run("demo", "--model", gpt2, "--text", text, "--tokens", 300, "--site", "resid_post.0", "--quiet")
    assert answer.code == 0, answer.err
    assert answer.last == "runs/demo-2/report.html" and answer.err == ""


# ---------------------------------------------------------------- the library call and the text it reads by default


def test_the_same_as_a_call(gpt2: Path, text: Path, tmp_path: Path) -> None:
    told: list[str] = []
    settings = demo.Settings(model=str(gpt2), text=(str(text),), out=str(tmp_path / "run"), site=("embed",), tokens=400)
    result = demo.run(settings, say=told.append)
    assert result.report == tmp_path / "run" / "report.html" and list(result.reports) == ["embed"]
    assert any("fitting topk-sae-embed" in line for line in told)


def test_the_default_text_is_half_real_and_half_world_at_any_length() -> None:
    count = {"real": 0, "world": 0}
    for document in texts.reference_texts():
        count[document.labels["source"]] += len(document.text)
        assert abs(count["real"] - count["world"]) <= texts.LONGEST
    assert min(count.values()) > 100_000


@pytest.mark.slow
def test_a_site_that_is_a_module_of_another_width(run: Run, gpt2: Path, text: Path, tmp_path: Path) -> None:
    site = "path:transformer.h.1.attn.c_attn.output"
    answer = run("demo", "--model", gpt2, "--text", text, "--out", tmp_path / "run", "--site", site)
    assert answer.code == 0, answer.err
    page = (tmp_path / "run" / "report.html").read_text()
    named = re.search(r"armillary study fidelity (\S+?)<", page)
    assert named and Path(named[1]).is_dir()
