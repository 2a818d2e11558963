"""armillary label: labels in the terminal and in a file, judges, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

Run = Any


def test_labels_from_tokens(run: Run, sae: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "labels.json"
    answer = run("label", sae, "--n-features", 3, "--out", out, "--json")
    assert answer.code == 0, answer.err
    written = json.loads(out.read_text())
    assert len(written["labels"]) == 3 and written["judge"] is None and written["schema"] == 1
    assert answer.json["labels"] == written["labels"] and answer.json["out"] == str(out)
    one = written["labels"][0]
    assert (one["kind"], one["judge"]) == ("tokens", "") and one["label"] and one["top"]
    assert all(len(token["token"]) > 0 for token in one["tokens"])
    shown = run("label", sae, one["feature"], "--out", tmp_path / "again.json")
    assert shown.code == 0 and one["label"] in shown.out and shown.last == str(tmp_path / "again.json")


def test_a_local_judge_is_asked_once_and_its_answers_are_kept(run: Run, sae: Path, gpt2: Path, tmp_path: Path) -> None:
    told = ("label", sae, 0, 1, "--judge", f"local:{gpt2}", "--n-texts", 1, "--max-calls", 1, "--cache", tmp_path / "kept.jsonl", "--json")
    answer = run(*told)
    assert answer.code == 0, answer.err
    assert "1 prompts asked" in answer.err and "1 not asked, as the budget was spent" in answer.err
    assert answer.json["judge"]["name"].startswith("local:")
    for one in answer.json["labels"]:
        assert (one["label"] is None) == bool(one["reason"]) and one["label"] != "None"


def test_answers_are_replayed(run: Run, sae: Path, tmp_path: Path) -> None:
    from armillary.app import subjects
    from armillary.core import artifact
    from armillary.inspect.evidence import Shape
    from armillary.inspect.labels import label, prompt

    fit = artifact.load(sae)
    rows = subjects.own_rows(subjects.open_store(sae, fit), fit)
    asked = prompt(label(fit, rows, [0], shape=Shape())[0].evidence, "input")
    (tmp_path / "x.jsonl").write_text(json.dumps({"prompt": asked, "answer": "words of the sea"}) + "\n")
    answer = run("label", sae, 0, 1, "--judge", f"replay:{tmp_path / 'x.jsonl'}", "--side", "input")
    assert answer.code == 0, answer.err
    assert "words of the sea" in answer.out and "no label: the judge gave no answer" in answer.out
    assert "1 failed (not in the file: 1)" in answer.err


def test_labels_are_scored_where_that_is_asked(run: Run, sae: Path, tmp_path: Path) -> None:
    answer = run("label", sae, "--n-features", 2, "--report", tmp_path / "report.md", "--quiet")
    assert answer.code == 0, answer.err
    assert "token_rule" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--judge", "gpt"), "unknown judge 'gpt'; allowed: none, local:MODEL, replay:FILE, or a URL"),
        (("--judge", "http://localhost:1/v1"), "which model behind"),
        (("--judge", "http://localhost:9/v1", "--judge-model", "m", "--max-calls", 0), ""),
        (("--judge", "replay:none.jsonl"), "no file of answers at 'none.jsonl'"),
        (("--judge", "local:./none"), "no such folder"),
        (("--out", "labels.txt"), "labels are written as .json, got 'labels.txt'; try 'labels.json'"),
        (("--report", "x.pdf"), "a report is written as .html, .json or .md"),
        ((999,), "feature 999 is out of range: there are 24"),
    ],
)
def test_what_is_refused(run: Run, sae: Path, arguments: tuple[Any, ...], words: str) -> None:
    answer = run("label", sae, *arguments)
    assert answer.code == (2 if words else 0) and words in answer.err


def test_nothing_is_overwritten(run: Run, sae: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text("mine")
    answer = run("label", sae, "--out", tmp_path / "labels.json")
    assert answer.code == 2 and "exists" in answer.err and (tmp_path / "labels.json").read_text() == "mine"


def test_the_study_is_run_from_the_command_line(run: Run, sae: Path) -> None:
    options = ("--n-features", 2, "--least", 2, "--n-bootstrap", 100, "--length", 8, "--no-surprisal")
    answer = run("study", "labels", sae, *options, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["report"]["estimates"]["token_rule"]["value"] is not None
    assert answer.json["report"]["estimates"]["detection"]["reason"] == "no judge was given"
