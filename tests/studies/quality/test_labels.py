"""The labels study on features whose labels are known, with judges that are right, constant, talkative, failing or out of budget."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import armillary as arm
from armillary.core.report import Report
from armillary.core.rows import TensorRows
from armillary.core.run import drive
from armillary.core.study import Subject
from armillary.errors import InputError
from armillary.inspect.activity import Activity, Example
from armillary.inspect.asking import odds_question
from armillary.inspect.judges import LocalJudge, ReplayJudge
from armillary.studies.quality.label_examples import Drawing, Pool, Trial, by_level, first_half, fuzz, nearest_texts, trial
from armillary.studies.quality.label_scores import Question, Reader, Verdicts, by_model, label_line, tfidf, verdicts
from armillary.studies.quality.labels import Config, run
from support import tiny_lm
from toys import RESID, SideBySide, ToyLM, own_texts, random_sae, toy_rows
from worded import BEASTS, CITIES, COLOURS, FILLER, HalfFailing, Perfect, Saying, sentences, word_fit, worded

GROUPS = [CITIES, COLOURS, BEASTS]
QUICK: dict[str, Any] = {"features": (0, 1, 2), "n_active": 12, "n_silent": 13, "n_bootstrap": 100, "densest": 1.0}
CALLS_PER_FEATURE = 2 * (12 + 13 + 24)


@pytest.fixture(scope="module")
def rows() -> TensorRows:
    return worded(sentences(160))


def study(rows: TensorRows, judge: Any = None, groups: Sequence[Sequence[str]] = GROUPS, **told: Any) -> Report:
    return run(Subject(word_fit(rows, groups), rows=rows), config=Config(**{**QUICK, **told}), judge=judge)


def value(report: Report, name: str) -> float:
    found = report[name].value
    assert found is not None, f"{name}: {report[name].reason}"
    return found


# ---------------------------------------------------------------- judges


@pytest.mark.parametrize("by_odds", [True, False])
def test_a_perfect_judge_scores_near_one_and_on_other_labels_near_a_half(rows: TensorRows, by_odds: bool) -> None:
    report = study(rows, Perfect(by_odds))
    for name in ("detection", "fuzzing"):
        assert value(report, name) == pytest.approx(1.0)
        assert report[name].null == pytest.approx(0.5, abs=0.12)
        assert report[name].n == 3 and report[name].ceiling == 1.0
    assert value(report, "answered") == 1.0 and report["answered"].n == 3 * CALLS_PER_FEATURE
    assert not report.warnings[1:], report.warnings  # the first says that three features are few
    assert any(("log odds" if by_odds else "balanced accuracies") in note for note in report.notes)


@pytest.mark.parametrize("answer", ["yes", "no"])
def test_a_constant_judge_scores_a_half(rows: TensorRows, answer: str) -> None:
    report = study(rows, Saying(answer))
    assert value(report, "detection") == value(report, "fuzzing") == 0.5
    assert report["detection"].null == 0.5 and any("does not tell the features' labels" in warning for warning in report.warnings)


@pytest.mark.parametrize("answer", ["Well, it might be.", "yes and no", None, "I'm sorry, I cannot help with that."])
def test_nonsense_and_refusals_are_missing_and_said(rows: TensorRows, answer: str | None) -> None:
    report = study(rows, Saying(answer))
    for name in ("detection", "fuzzing"):
        assert report[name].value is None and "no answer that can be read" in report[name].reason
    assert value(report, "answered") == 0.0
    assert any(f"{3 * CALLS_PER_FEATURE} of {3 * CALLS_PER_FEATURE} questions" in warning for warning in report.warnings)
    assert value(report, "token_rule") == 1.0, "what needs no judge is there"


def test_what_fails_is_left_out_and_not_counted_as_wrong(rows: TensorRows) -> None:
    report = study(rows, HalfFailing())
    assert value(report, "detection") == value(report, "fuzzing") == 1.0
    assert value(report, "answered") == pytest.approx(0.5, abs=0.01) and any(
        "they are missing, not wrong" in one for one in report.warnings
    )


def test_a_judge_that_answers_one_side_only_is_missing(rows: TensorRows) -> None:
    class OnlyYes(Perfect):
        def log_odds(self, prompts: Sequence[str], yes: str, no: str) -> list[float | None]:
            return [odds if odds is not None and odds > 0 else None for odds in super().log_odds(prompts, yes, no)]

    report = study(rows, OnlyYes())
    assert report["detection"].value is None and "0 of 13 that want a no" in report["detection"].reason


def test_a_judge_without_labels_leaves_nothing_to_score(rows: TensorRows) -> None:
    class Mute(Perfect):
        def ask(self, prompts: Sequence[str]) -> list[str | None]:
            return ["None"] * len(prompts)

    report = study(rows, Mute())
    assert report["detection"].value is None and "found nothing in common" in report["detection"].reason
    assert report["answered"].value is None and report.tables["features"]["label"] == [None] * 3
    by_tokens = study(rows, Mute(), labels_by="tokens")
    assert value(by_tokens, "detection") == 1.0, "a judge can score what it cannot write"


def test_no_judge(rows: TensorRows) -> None:
    report = study(rows)
    assert report["detection"].reason == report["fuzzing"].reason == report["answered"].reason == "no judge was given"
    assert report["surprisal"].reason == "no model with logits was given"
    assert value(report, "token_rule") == 1.0 and report["token_rule"].null == pytest.approx(0.5, abs=0.15)
    assert value(report, "embedding") > 0.95 and value(report, "bag_of_words") > 0.9 and 0.5 < value(report, "top_token") < 1


def test_a_second_run_asks_nothing_and_a_small_budget_is_said(rows: TensorRows, tmp_path: Path) -> None:
    lm = tiny_lm("llama", max_position_embeddings=2048)
    told: dict[str, Any] = {"cache": tmp_path / "judge.jsonl", "max_new_tokens": 4}
    first = LocalJudge(lm, **told)
    config: dict[str, Any] = {"n_active": 3, "n_silent": 3, "labels_by": "tokens", "surprisal": False}
    report = study(rows, first, **config)
    assert first.tally.calls > 0 and value(report, "answered") == 1.0
    again = LocalJudge(lm, **told)
    assert study(rows, again, **config).estimates == report.estimates
    assert (again.tally.calls, again.tally.cached) == (0, first.tally.calls + first.tally.cached)
    poor = LocalJudge(lm, max_calls=5)
    spent = study(rows, poor, **config)
    assert spent["detection"].value is None or spent["answered"].value < 1
    assert any("The judge's budget was spent" in warning for warning in spent.warnings)


def test_a_file_with_odds_of_other_questions_still_tells_its_words(tmp_path: Path) -> None:
    asked = [Question(0, "detection", 0, one == "yes", f"a {one}?") for one in ("yes", "no", "maybe")]
    words = [{"prompt": one.prompt, "answer": one.prompt[2:-1]} for one in asked]
    odds = {"prompt": "another", "question": odds_question("yes", "no"), "answer": 2.0}
    path = tmp_path / "mixed.jsonl"
    path.write_text("\n".join(map(json.dumps, [odds, *words])))
    assert verdicts(ReplayJudge(path), asked) == Verdicts([1.0, 0.0, None], False)
    path.write_text("\n".join(map(json.dumps, [{**odds, "prompt": asked[0].prompt}, *words])))
    assert verdicts(ReplayJudge(path), asked) == Verdicts([2.0, None, None], True), "odds and words are on no common scale"


# ---------------------------------------------------------------- what labels are scored on


def drawn(rows: TensorRows, feature: int = 0, groups: Any = GROUPS, **told: Any) -> tuple[Pool, Trial | str]:
    fit = word_fit(rows, groups)
    activity = Activity(fit, rows, [feature])
    drive([activity], rows)
    found = activity.finish()
    pool = Pool.of(found.tokens, found.seen, length=32, seed=0)
    draw = Drawing(**{"n_active": 12, "n_silent": 13, "n_levels": 5, "least": 2, "share": 0.3, "seed": 0, **told})
    return pool, trial(pool, feature, found.of[feature], draw)


def test_labels_are_made_and_scored_on_different_documents(rows: TensorRows) -> None:
    pool, one = drawn(rows)
    assert isinstance(one, Trial) and rows.tokens is not None
    scored = {example.document for example in (*one.active, *one.silent)}
    learnt = {int(rows.tokens.document[part[0]]) for part in (*one.learn_active, *one.learn_silent)}
    made = set(rows.tokens.document[rows.tokens.rows[pool.rows_for_labels]].tolist())
    assert scored and learnt and not scored & learnt and not scored & made and learnt <= made


def test_documents_with_the_same_text_are_in_the_same_half() -> None:
    texts = sentences(9)
    tokens = worded(texts * 2).tokens
    assert tokens is not None
    first = first_half(tokens, np.arange(18), seed=1)
    np.testing.assert_array_equal(first[:9], first[9:])
    assert first[:9].sum() == 5
    np.testing.assert_array_equal(first[:9], first_half(worded(texts).tokens, np.arange(9), seed=1))  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [7, 11, 12, 13])
@pytest.mark.parametrize("n_levels", [1, 5, 10])
def test_the_last_partial_group_is_never_lost(n: int, n_levels: int) -> None:
    """Counts that are no multiple of the groups: the reference's last predictions were lost then."""
    for available in (1, 3, 11, 23, 40):
        found = by_level(np.arange(available) + 100, n, n_levels, np.random.default_rng(0))
        assert len(found) == len(set(found)) == min(n, available)
    levels = np.searchsorted(np.array([8, 16, 24, 32]), by_level(np.arange(40), 12, 5, np.random.default_rng(0)), side="right")
    assert np.bincount(levels).tolist() == [3, 3, 2, 2, 2]


def test_as_many_texts_as_asked_for_are_scored(rows: TensorRows) -> None:
    _, one = drawn(rows)
    assert isinstance(one, Trial) and (len(one.active), len(one.silent)) == (12, 13)
    assert all(example.value > 0 for example in one.active) and all(example.value == 0 for example in one.silent)
    judge = Perfect()
    study(rows, judge, features=(0, 1))
    assert len(judge.asked) == 2 + 2 * CALLS_PER_FEATURE, "two labels, and every text with each of two labels"


def test_wrong_marks_are_as_many_and_on_silent_tokens(rows: TensorRows) -> None:
    found = [
        Example(("a", " b", " c", " d"), (1.0, 0.5, 0.0, 0.0), np.arange(4)),
        Example(("a", " b", " c"), (1.0, 0.2, 0.0), np.arange(3)),
        Example(("a", " b"), (1.0, 1.0), np.arange(2)),  # no silent token: marked rightly only
        Example(("a", " b", " c"), (1.0, 1.0, 0.0), np.arange(3)),  # exactly one
    ]
    made = fuzz(found, 0.3, np.random.default_rng(0))
    right, wrong = ([one.text for one in made if one.is_right == side] for side in (True, False))
    assert right == ["<<a b>> c d", "<<a>> b c", "<<a b>>", "<<a b>> c"]
    assert wrong == ["a b <<c d>>", "a b <<c>>", "a b <<c>>"]


def global_states() -> list[Any]:
    return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]  # type: ignore[index]


def test_draws_leave_all_generators_alone_and_differ_between_features(rows: TensorRows) -> None:
    """The reference seeds the global generator anew for every text, so that all are drawn alike."""
    found = []
    for seed in (3, 4):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        before = global_states()
        found.append(study(rows, Perfect()).estimates)
        assert global_states() == before
    assert found[0] == found[1]
    rng = np.random.default_rng(0)
    same = [Example(("a", *["", "b", "c", "d", "e", "f", "g", "h"]), (1.0, *[0.0] * 8), np.arange(9))] * 6
    assert len({one.text for one in fuzz(same, 0.3, rng) if not one.is_right}) > 1, "wrong marks are drawn anew for every text"
    twice = word_fit(rows, [CITIES, CITIES])
    activity = Activity(twice, rows, [0, 1])
    drive([activity], rows)
    read = activity.finish()
    pool = Pool.of(read.tokens, read.seen, length=32, seed=0)
    one, other = (trial(pool, feature, read.of[feature], Drawing(12, 13, 5, 2, 0.3, 0)) for feature in (0, 1))
    assert isinstance(one, Trial) and isinstance(other, Trial)
    assert [text.text for text in one.silent] != [text.text for text in other.silent]


def test_near_negatives_are_those_most_like_active_texts(rows: TensorRows) -> None:
    choose = nearest_texts(["a red cat sat", "the sky is far", "a red dog sat", "the blue sky", "a cat"])
    assert choose(np.array([0]), np.array([1, 2, 3, 4]), 2).tolist() == [2, 4]
    with pytest.raises(InputError, match="goes by words"):
        nearest_texts(["?!", "..."])
    near = study(rows, negatives="near")
    assert value(near, "token_rule") == 1.0 and any("most like active ones" in note for note in near.notes)


def test_features_with_too_few_activations_are_missing_with_the_reason(rows: TensorRows) -> None:
    rare = study(rows, groups=[CITIES, COLOURS, ("never",), FILLER], features=(0, 1, 2, 3))
    assert rare["scored"].value == 0.5 and rare["scored"].n == 4
    assert rare.tables["not scored"]["feature"] == [2, 3]
    reasons = rare.tables["not scored"]["reason"]
    assert reasons[0].startswith("active on 0 texts") and reasons[1].startswith("silent on 0 texts")
    none = study(rows, Perfect(), groups=[("never",)], features=(0,))
    for name in ("detection", "embedding", "token_rule"):
        assert none[name].value is None and "none of the 1 features looked at" in none[name].reason


def test_features_are_drawn_among_those_that_can_be_scored(rows: TensorRows) -> None:
    groups = [("never",)] * 6 + GROUPS
    report = study(rows, groups=groups, features=(), n_features=3)
    assert set(report.tables["features"]["feature"]) == {6, 7, 8}
    assert study(rows, groups=groups, features=(), n_features=2).tables["features"]["feature"] == report.tables["features"]["feature"][:2]


def test_one_feature_has_no_null(rows: TensorRows) -> None:
    report = study(rows, Perfect(), features=(1,))
    assert value(report, "detection") == 1.0 and report["detection"].null is None and report["detection"].low is None
    assert any("there is no null" in warning for warning in report.warnings)


# ---------------------------------------------------------------- passes, batches, subjects


def test_the_rows_are_read_once_for_all_subjects(rows: TensorRows) -> None:
    given = SideBySide(rows)
    subjects = [Subject(word_fit(rows, groups), rows=given, name=f"fit {i}") for i, groups in enumerate((GROUPS, GROUPS[::-1]))]
    run(subjects, config=Config(**QUICK))
    assert given.n_reads == 1


def test_batches_change_nothing(rows: TensorRows) -> None:
    assert study(rows, batch_size=64).estimates == study(rows).estimates


def test_no_text_is_read_twice_behind_the_same_line() -> None:
    model = CountingToy()
    reader = Reader(model)
    first = reader.losses([("a", "bc"), ("a", "bc"), ("b", "bc")])
    assert reader.losses([("a", "bc")]) == first[:1] and model.n_texts == 2


class CountingToy(ToyLM):
    """Counts the texts whose logits are asked for; reads a line break as the letter k."""

    n_texts = 0

    def tokenize(self, texts: Sequence[str]) -> Any:
        return super().tokenize([text.replace("\n", "k") for text in texts])

    def logits(self, tokens: Any, **told: Any) -> Any:
        self.n_texts += tokens.n_sequences
        return super().logits(tokens, **told)


def test_the_loss_is_of_the_text_alone() -> None:
    model = CountingToy()
    ((nats, n),) = Reader(model).losses([("ab", "cde")])  # type: ignore[misc]
    tokens = model.tokenize(["ab\ncde"])
    log_p = model.logits(tokens)[0].log_softmax(-1)
    expected = -sum(float(log_p[t - 1, tokens.ids[t]]) for t in (4, 5, 6))
    assert (nats, n) == (pytest.approx(expected), 3)


def test_surprisal_of_a_real_model_and_what_it_cannot_read() -> None:
    lm = tiny_lm("llama")
    rows = lm.rows([f"{text} {i}" for i, text in enumerate(["The cat sat on the mat.", "Lisbon is in Portugal."] * 12)], "resid_post.1")
    fit = arm.PCA(n_components=4).fit(rows)
    told: dict[str, Any] = {"features": (0, 1), "n_active": 4, "n_silent": 4, "least": 2, "length": 6, "n_bootstrap": 100, "densest": 0.1}
    report = run(Subject(fit, rows=rows, model=lm), config=Config(**told))
    assert report["surprisal"].unit == "nats" and np.isfinite(value(report, "surprisal"))
    off = run(Subject(fit, rows=rows, model=lm), config=Config(**told, surprisal=False))
    assert off["surprisal"].reason == "switched off by surprisal=False"
    assert Reader(lm).losses([("x " * 200, "a"), ("x", "a")])[0] is None
    by_itself = run(Subject(fit, rows=rows, model=lm), config=Config(**told, embedding="model", surprisal=False))
    assert np.isfinite(value(by_itself, "embedding")) and any(lm.name in note for note in by_itself.notes)


def test_embeddings() -> None:
    lm = tiny_lm("gpt2")
    made = by_model(lm)(["The cat", "a", "The cat"])
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1)
    np.testing.assert_array_equal(made[0], made[2])
    assert isinstance(tfidf(["?!", ""]), str)
    assert label_line(None) != label_line("x")


def test_the_random_host_stands_beside_the_trained_one_in_one_report() -> None:
    subjects = []
    for seed in (0, 1):
        model = ToyLM(seed)
        rows = toy_rows(model, model.tokenize(own_texts(model, 40)), RESID)
        subjects.append(Subject(random_sae(rows), rows=rows, model=model, name=("trained", "random weights")[seed]))
    report = run(subjects, config=Config(n_features=4, least=2, n_bootstrap=100, surprisal=False))
    rows_ = report.tables["differences"]
    place = rows_["estimate"].index("bag_of_words")
    assert rows_["against"][place] == "random weights" and rows_["low"][place] is not None


def test_bad_input(rows: TensorRows) -> None:
    fit = word_fit(rows, GROUPS)
    with pytest.raises(InputError, match="feature 3 is out of range"):
        study(rows, features=(3,))
    with pytest.raises(InputError, match="two different documents or more"):
        same = worded(["we saw many things"] * 3)
        run(Subject(word_fit(same, GROUPS), rows=same), config=Config(features=(0,)))
    with pytest.raises(InputError, match="these rows have none"):
        run(Subject(fit, rows=TensorRows(rows.x)))
    for judge, message in (("gpt", "unknown judge 'gpt'"), ("model", "this study runs the model"), ("http://x/v1", "which model")):
        with pytest.raises(InputError, match=message):
            run(Subject(fit, rows=rows), config=Config(judge=judge))
