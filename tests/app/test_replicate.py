"""The weekday experiment, from one command, on a model that knows nothing of days: it says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from armillary.app import replications
from armillary.app.cli import main
from armillary.app.replications import weekdays
from armillary.core.tree import FeatureTree
from armillary.errors import InputError, OutputExistsError, UnknownNameError
from armillary.lm.model import LanguageModel


def test_one_command_leaves_a_page_trees_and_a_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    told = ["--model", "arm-small", "--layer", "1", "--n-features", "24", "--n-draws", "10", "--out", str(out), "--json"]
    assert main(["replicate", "semi-nmf", *told]) == 0
    answer = json.loads(capsys.readouterr().out)
    estimates = answer["report"]["estimates"]
    assert {"auroc", "shared", "weekend", "merged", "selectivity", "core_lift"} == set(estimates)
    assert estimates["shared"]["null"] is not None and 0 < estimates["shared"]["p"] <= 1
    assert {"report.html", "report.json", "tree.html", "tree.nwk", "hierarchy.graphml", "fit", "acts"} <= {
        path.name for path in out.iterdir()
    }
    tree = FeatureTree.read(out / "tree.json")
    assert [tree.name(i) for i in range(7)] == list(weekdays.DAYS)
    with pytest.raises(OutputExistsError):
        weekdays.run(weekdays.Settings(out=str(out)))


def test_the_next_token_is_of_the_same_sequence() -> None:
    lm = LanguageModel("arm-small")
    tokens = lm.tokenize(["We will meet on Monday", "Tuesday Monday"])
    (monday,) = (int(tokens.ids[-1]),)
    found = weekdays.next_token_of(tokens, [monday])
    assert (found >= 0).sum() == 2 and len(found) == len(tokens.rows)
    before = [lm.vocabulary()[int(tokens.ids[row])] for row in tokens.rows[found == 0]]
    assert [word.strip("Ġ ") for word in before] == ["on", "uesday"]  # a day at the beginning of a text is of several tokens


def test_only_days_that_an_earlier_day_tells_count() -> None:
    lm = LanguageModel("arm-small")
    texts = ["The day after Monday is Tuesday.", "We will meet on Monday.", "Monday Tuesday"]
    tokens = lm.tokenize(texts)
    ids = weekdays.core_exclusive.first_tokens(lm, weekdays.PROMPTS, [f" {day}" for day in weekdays.DAYS])
    counted = (weekdays.next_token_of(tokens, ids) >= 0) & weekdays.has_come(tokens, ids)
    assert [int((tokens.document[tokens.rows][counted] == i).sum()) for i in range(3)] == [1, 0, 0]


def test_sentences_say_what_is_so() -> None:
    texts = [document.text for document in weekdays.sentences()]
    assert "The day after Sunday is Monday." in texts and "The day before Monday is Sunday." in texts
    assert len(texts) == len(set(texts)) == 7 * 20


def test_bad_input_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown replication 'snmf'.*semi-nmf"):
        replications.load("snmf")
    with pytest.raises(InputError, match="n_features"):
        weekdays.Settings(n_features=3)
    assert main(["replicate", "semi-nmf", "--layer", "99", "--out", str(tmp_path / "x")]) == 2
    assert "99" in capsys.readouterr().err
