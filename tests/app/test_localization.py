"""A task goes from a file through `fit das` and `study localization`."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import armillary as arm
from armillary.app.comparing.run import Asked
from armillary.app.replications import comparison
from armillary.core import artifact
from armillary.core.prompted import answered
from armillary.core.task import Pair, Prompt, Task
from armillary.errors import InputError
from armillary.studies.causal.localization import Config
from armillary.tasks import files
from planted_lm import STREAM, planted_lm

Run = Any
WORDS = ("ships", "slowly", "under", "moon", "sailed", "fox", "watched")


@pytest.fixture(scope="module")
def task(gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts with what the random model happens to write after them, so that it can do the task."""
    lm = arm.LanguageModel(gpt2)
    known = []
    for text in (f"{a} {b}" for a in WORDS for b in WORDS):
        (written,) = lm.generate(text, max_new_tokens=1)
        prompt = Prompt(text, written.text, {"word": written.text}, {"first": (0, text.index(" "))}, {"entity": text})
        if written.text.strip() and "\ufffd" not in written.text and _says(lm, prompt, written.text):
            known.append(prompt)
    pairs = [Pair(a, b, "word", b.answer, "swap") for a in known[:12] for b in known[:12] if _says(lm, a, b.answer) is False]
    assert len(pairs) > 40
    half = len(pairs) // 2
    path = tmp_path_factory.mktemp("tasks") / "words.json"
    return files.save(Task("words", tuple(pairs[: half : half // 20]), tuple(pairs[half :: half // 20]), ("first", "last")), path)


def _says(lm: Any, prompt: Prompt, answer: str) -> bool | None:
    """Whether the model goes on so; None where the tokenizer joins prompt and answer."""
    try:
        return bool(answered(lm, [prompt], [answer])[0])
    except InputError:
        return None


def test_das_is_fitted_to_a_task_and_the_study_looks_for_it(run: Run, sae: Path, acts: Path, task: Path, tmp_path: Path) -> None:
    where = ["--site", "resid_post.1", "--task", task, "--position", "last"]
    fitted = run("fit", "das", acts, *where, "--rank", 4, "--n-epochs", 2, "--out", tmp_path / "das", "--json")
    assert fitted.code == 0, fitted.err
    fit = artifact.load(tmp_path / "das")
    assert fit.provenance["variables"] == ("word",) and fit.provenance["position"] == "last" and str(fit.site) == "resid_post.1"
    quick = ["--n-steps", 3, "--penalties", 0, "--n-bootstrap", 100, "--n-random", 1, "--positions", "last"]
    studied = run("study", "localization", tmp_path / "das", sae, "--task", task, *quick, "--out", tmp_path / "r.html", "--json")
    assert studied.code == 0, studied.err
    report = studied.json["report"]
    assert report["tables"]["subjects"]["subject"] == ["das", "sae"]
    assert report["estimates"]["das: kept: word"]["value"] == 1
    found = report["estimates"]["das: iia: word"]
    assert found["null"] < found["ceiling"] and found["ceiling"] > 0.5, (
        "at the last token of a late block the source is nearly all there is"
    )
    assert "iia: word" in (tmp_path / "r.html").read_text()


def test_what_is_missing_of_a_task_is_said_in_a_line(run: Run, sae: Path, acts: Path, task: Path, tmp_path: Path) -> None:
    missing = run("study", "localization", sae)
    assert missing.code == 2 and "--task" in missing.err
    unknown = run("study", "localization", sae, "--task", "mcqb")
    assert unknown.code == 2 and "mcqa" in unknown.err and unknown.err.count("\n") == 1
    two = run("fit", "das", acts, "--site", "resid_post.1", "--task", "mcqa", "--out", tmp_path / "das")
    assert two.code == 2 and "choose with --variable answer_pointer" in two.err
    both = run("fit", "das", acts, "--site", "resid_post.1", "mlp_act.1", "--task", task, "--out", tmp_path / "das")
    assert both.code == 2 and "exchanged at one site" in both.err
    nowhere = run("fit", "das", acts, "--site", "resid_post.1", "--task", task, "--position", "second", "--out", tmp_path / "das")
    assert nowhere.code == 2 and "has no span 'second'" in nowhere.err
    assert not (tmp_path / "das").exists()


def test_a_comparison_s_das_has_the_estimates_of_any_other_method() -> None:
    """One fit for each variable, where pairs held back say; the mean over variables is over the entities they share."""
    planted = planted_lm()
    asked = Asked("localization", Config(max_pairs=60, n_random=1, n_bootstrap=100), task=planted.task)
    found = comparison._das(planted.lm, asked, SimpleNamespace(stream_site=STREAM), comparison.Settings(n_active=2))  # type: ignore[arg-type]
    kinds = ("disentangle", "cause", "isolate", "iia", "kept")
    assert set(found) >= {f"{kind}{of}" for kind in kinds for of in ("", ": colour", ": shape")}
    mean, units = found["iia"], found["iia"].units
    assert mean.value == pytest.approx((found["iia: colour"].value + found["iia: shape"].value) / 2)  # type: ignore[operator]
    assert units is not None and units.kind == "base entity" and units.value == pytest.approx(mean.value)
