"""Studies that ask a judge or embed texts, from the command line: any judge that `label` can open."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from armillary.inspect.judges import LocalJudge
from chat_server import ChatServer, prompt_of, said
from support import tiny_model, tiny_tokenizer

Run = Any
LABELS = ("--n-features", 2, "--least", 2, "--n-active", 2, "--n-silent", 2, "--n-bootstrap", 100, "--length", 8, "--n-top", 1)
FEW = (*LABELS, "--labels-by", "tokens", "--no-surprisal", "--json")
STEERING = ("--n-features", 2, "--n-prompts", 2, "--n-tokens", 4, "--n-continuations", 1, "--targets", 0.3, "--n-judged", 1)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer() as there:
        yield there


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose context holds a question."""
    folder = tmp_path_factory.mktemp("judges") / "tiny-qwen2"
    tiny_model("qwen2", max_position_embeddings=1024).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_labels_are_scored_by_a_model_here_and_nothing_is_asked_twice(run: Run, sae: Path, judge: Path, tmp_path: Path) -> None:
    told = ("--judge", f"local:{judge}", "--cache", tmp_path / "kept.jsonl")
    first = run("study", "labels", sae, *FEW, *told)
    assert first.code == 0, first.err
    report = first.json["report"]
    assert report["estimates"]["detection"]["value"] is not None and report["estimates"]["answered"]["value"] == 1.0
    assert report["provenance"]["judge"]["name"] == report["provenance"]["settings"]["judge"] == f"local:{judge}"
    assert f"local:{judge}: " in first.err and " 0 answered from the cache" in first.err
    again = run("study", "labels", sae, *FEW, *told)
    assert " 0 prompts asked" in again.err and again.json["report"]["estimates"] == report["estimates"]


def test_the_fits_own_model_may_score_and_says_what_it_cannot_read(run: Run, sae: Path, gpt2: Path, tmp_path: Path) -> None:
    answer = run("study", "labels", sae, *FEW, "--judge", "model", "--cache", tmp_path / "kept.jsonl")
    assert answer.code == 0, answer.err
    assert answer.json["report"]["provenance"]["judge"]["name"] == f"local:{gpt2}"
    assert "longer than its context" in answer.err and answer.json["report"]["estimates"]["detection"]["value"] is None


def test_answers_are_kept_beside_the_fit(run: Run, sae: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWN_KEY", "sk-secret")
    server.reply = lambda body, n: (200, {}, said("yes" if n % 2 else "no"))
    told = ("--judge", server.url, "--judge-model", "m", "--key-variable", "OWN_KEY", "--max-tokens", 900)
    answer = run("study", "labels", sae, *FEW, *told)
    kept = sae.parent / "judge.jsonl"
    try:
        assert answer.code == 0, answer.err
        assert answer.json["report"]["estimates"]["detection"]["value"] is not None
        body, headers = server.requests[0]
        assert body["max_tokens"] == 900 and headers["Authorization"] == "Bearer sk-secret"
        assert len(kept.read_text().splitlines()) == len(server.requests) and "sk-secret" not in kept.read_text() + answer.out + answer.err
    finally:
        kept.unlink()


def test_probabilities_of_a_server(run: Run, sae: Path, server: ChatServer, tmp_path: Path) -> None:
    top = [{"token": "yes", "logprob": -0.1}, {"token": "no", "logprob": -3.0}]
    server.reply = lambda body, n: (200, {}, said("yes", logprobs={"content": [{"top_logprobs": top}]}))
    told = ("--judge", server.url, "--judge-model", "m", "--logprobs", "--cache", tmp_path / "kept.jsonl")
    answer = run("study", "labels", sae, *FEW, *told)
    assert answer.json["report"]["estimates"]["detection"]["value"] == 0.5 and server.requests[0][0]["logprobs"] is True
    assert any("log odds" in note for note in answer.json["report"]["notes"])


def test_steered_text_is_rated_by_a_judge_behind_a_url(run: Run, sae: Path, server: ChatServer, tmp_path: Path) -> None:
    server.reply = lambda body, n: (200, {}, said("1" if "read like something a person wrote" in prompt_of(body) else "2"))
    told = ("--judge", server.url, "--judge-model", "m", "--cache", tmp_path / "kept.jsonl")
    answer = run("study", "steering", sae, *STEERING, *told, "--json")
    assert answer.code == 0, answer.err
    found = {name: one["value"] for name, one in answer.json["report"]["estimates"].items() if name.startswith("judge_")}
    assert found["judge_fluency"] == 1 and found["judge_concept"] == found["judge_instruction"] == 2
    assert found["judge_score"] == pytest.approx(4 / 3) and found["judge_score_axbench"] == pytest.approx(1.5)
    assert "prompts asked" in answer.err
    without = run("study", "steering", sae, *STEERING, "--json")
    assert not any(name.startswith("judge_") for name in without.json["report"]["estimates"])


def test_texts_are_embedded_by_another_model(run: Run, sae: Path, bert: Path) -> None:
    labels = run("study", "labels", sae, *LABELS, "--no-surprisal", "--encoder", bert, "--json")
    assert labels.code == 0, labels.err
    assert f"Embeddings: {bert}." in labels.json["report"]["notes"]
    steering = run("study", "steering", sae, *STEERING, "--encoder", bert, "--json")
    assert steering.code == 0, steering.err
    assert "similarity" in steering.json["report"]["estimates"]


def test_a_judge_may_stand_in_a_file_of_options(run: Run, sae: Path, gpt2: Path, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(f"judge: local:{gpt2}\nmax_calls: 3\ncache: {tmp_path / 'kept.jsonl'}\n")
    answer = run("study", "labels", sae, *FEW, "--config", tmp_path / "x.yaml")
    assert answer.code == 0, answer.err
    assert "3 prompts asked" in answer.err and any("budget was spent" in one for one in answer.json["report"]["warnings"])


def test_answers_so_far_outlive_an_interruption(run: Run, sae: Path, gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def odds(self: LocalJudge, prompts: Any, yes: str, no: str) -> Iterator[float]:
        yield 1.0
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalJudge, "odds", odds)
    answer = run("study", "labels", sae, *FEW, "--judge", f"local:{gpt2}", "--cache", tmp_path / "kept.jsonl")
    assert answer.code == 130 and f"are kept in '{tmp_path / 'kept.jsonl'}'" in answer.err + answer.out
    assert len((tmp_path / "kept.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("study", "arguments", "words"),
    [
        ("labels", ("--judge", "gpt"), "unknown judge 'gpt'; allowed: none, local:MODEL, replay:FILE, or a URL"),
        ("steering", ("--judge", "local:./none"), "no such folder"),
        ("steering", ("--judge", "http://localhost:1/v1"), "which model behind"),
        ("steering", ("--encoder", "./none"), "no such folder"),
        ("fidelity", ("--judge", "none"), "--judge"),
    ],
)
def test_what_is_refused(run: Run, sae: Path, study: str, arguments: tuple[str, ...], words: str) -> None:
    answer = run("study", study, sae, *arguments)
    assert answer.code == 2 and words in answer.err


def test_the_fits_own_model_labels_too(run: Run, sae: Path, gpt2: Path, tmp_path: Path) -> None:
    told = ("--n-texts", 1, "--cache", tmp_path / "kept.jsonl", "--json")
    own = run("label", sae, 0, "--judge", "model", *told)
    assert own.code == 0, own.err
    named = run("label", sae, 0, "--judge", f"local:{gpt2}", *told)
    assert own.json["labels"] == named.json["labels"] and own.json["judge"]["name"] == f"local:{gpt2}"
    assert json.dumps(own.json["judge"]["settings"]) == json.dumps(named.json["judge"]["settings"])
