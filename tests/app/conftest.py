"""Model folders, a text that is not in the repository, and one harvest of it, shared by the tests of the commands."""

from __future__ import annotations

import contextlib
import io
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from armillary.app.cli import main
from support import tiny_model, tiny_tokenizer


@dataclass(frozen=True)
class Answer:
    """What a command gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def last(self) -> str:
        return self.out.splitlines()[-1]


def armillary(*arguments: object) -> Answer:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Answer(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def run() -> Any:
    return armillary


def save_folder(arch: str, folder: Path) -> Path:
    """A tiny random model with its tokenizer, as `from_pretrained` finds it."""
    tiny_model(arch).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder("gpt2", tmp_path_factory.mktemp("models") / "tiny-gpt2")


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder("bert", tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two dozen short documents of made-up sentences."""
    rng = random.Random(0)
    words = ("ships", "harbour", "slowly", "under", "the", "grey", "moon", "sailed", "seven", "bells", "and", "a", "fox", "watched", "them")
    path = tmp_path_factory.mktemp("text") / "tales.jsonl"
    lines = [{"text": " ".join(rng.choices(words, k=14)) + ".", "kind": rng.choice("ab")} for _ in range(24)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="session")
def acts(gpt2: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sites of the tiny GPT-2 over the text."""
    out = tmp_path_factory.mktemp("run") / "acts"
    answer = armillary("harvest", gpt2, "--site", "resid_post.1", "mlp_act.1", "--text", text, "--out", out)
    assert answer.code == 0, answer.err
    return out


@pytest.fixture(scope="session")
def sae(acts: Path) -> Path:
    """A TopK SAE of the residual stream, beside its activations."""
    out = acts.parent / "sae"
    answer = armillary("fit", "topk-sae", acts, "--site", "resid_post.1", "--out", out, "--n-features", 24, "--k", 3, "--n-steps", 30)
    assert answer.code == 0, answer.err
    return out
