"""Judges: what fails is missing, nothing is asked twice, and a spent budget is said. Those behind a URL: `test_url_judge`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from armillary.errors import CapabilityError, CorruptFileError, InputError
from armillary.inspect.asking import Asking, Failed, Judge, by_odds, in_words
from armillary.inspect.judge_cache import JudgeCache
from armillary.inspect.judges import LocalJudge, ReplayJudge, judge_of
from armillary.inspect.url_judge import UrlJudge
from ending import Ending
from support import tiny_lm
from toys import ToyLM


class Echo(Asking):
    """Answers with the prompt; prompts that hold "fail" fail."""

    def __init__(self, **told: Any) -> None:
        super().__init__("echo", {"model": "e"}, **{"cache": None, "max_calls": None, "max_characters": None, **told})
        self.asked: list[str] = []

    def answers(self, prompts: Any) -> Iterator[str | Failed]:
        for prompt in prompts:
            self.asked.append(prompt)
            yield Failed("broken") if "fail" in prompt else prompt.upper()

    def odds(self, prompts: Any, yes: str, no: str) -> Iterator[float | Failed]:
        yield from (Failed("never") for _ in prompts)


# ---------------------------------------------------------------- cache and budget


def test_ours_are_judges() -> None:
    assert isinstance(Echo(), Judge)


def test_failures_are_missing_and_counted() -> None:
    judge = Echo()
    assert judge.ask(["a", "fail", "b"]) == ["A", None, "B"]
    assert (judge.tally.calls, judge.tally.failed, judge.tally.failures["broken"]) == (3, 1, 1)
    assert judge.log_odds(["a"], "yes", "no") == [None], "a judge without probabilities"


class Careless:
    """Loses an answer, tells no number, and answers with one."""

    name = "careless"

    def ask(self, prompts: Any) -> Any:
        return [2] * (len(prompts) - (len(prompts) > 2))

    def log_odds(self, prompts: Any, yes: str, no: str) -> Any:
        return [float("nan"), None, 1, *[0.0] * (len(prompts) - 2)][: len(prompts) + (len(prompts) > 3)]


def test_a_judge_of_another_owes_one_answer_each() -> None:
    assert in_words(Careless(), ["a", "b"]) == ["2", "2"]
    assert by_odds(Careless(), ["a", "b", "c"], "yes", "no") == [None, None, 1.0]
    with pytest.raises(InputError, match="gave 2 answers to 3 questions"):
        in_words(Careless(), ["a", "b", "c"])
    with pytest.raises(InputError, match="gave 5 answers to 4 questions"):
        by_odds(Careless(), ["a", "b", "c", "d"], "yes", "no")


def test_a_prompt_is_asked_once(tmp_path: Path) -> None:
    judge = Echo()
    assert judge.ask(["a", "b", "a"]) == ["A", "B", "A"]
    assert judge.asked == ["a", "b"]


def test_a_second_run_asks_nothing_but_what_failed(tmp_path: Path) -> None:
    first = Echo(cache=tmp_path / "kept.jsonl")
    first.ask(["a", "fail", "b"])
    second = Echo(cache=tmp_path / "kept.jsonl")
    assert second.ask(["b", "a", "fail"]) == ["B", "A", None]
    assert second.asked == ["fail"]
    assert (second.tally.cached, second.tally.calls) == (2, 1)


def test_answers_of_another_judge_or_other_settings_do_not_count(tmp_path: Path) -> None:
    Echo(cache=tmp_path / "kept.jsonl").ask(["a"])
    other = Echo(cache=tmp_path / "kept.jsonl")
    other.settings["model"] = "another"
    other.ask(["a"])
    assert other.asked == ["a"]


def test_an_interruption_costs_no_answer(tmp_path: Path) -> None:
    class Stops(Echo):
        def answers(self, prompts: Any) -> Iterator[str | Failed]:
            yield "one"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Stops(cache=tmp_path / "kept.jsonl").ask(["a", "b"])
    assert len(JudgeCache(tmp_path / "kept.jsonl")) == 1


def test_a_line_that_was_cut_short_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    Echo(cache=path).ask(["a", "b"])
    path.write_bytes(path.read_bytes()[:-7])
    again = Echo(cache=path)
    assert again.ask(["a", "b"]) == ["A", "B"] and again.asked == ["b"]
    last = Echo(cache=path)
    assert last.ask(["a", "b"]) == ["A", "B"] and last.asked == []


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"answer": [1]}\n')
    with pytest.raises(CorruptFileError, match=r"line 1 .* is no answer"):
        Echo(cache=tmp_path / "x.jsonl")
    (tmp_path / "y.jsonl").write_text("hello\nthere\n")
    with pytest.raises(CorruptFileError, match="none of its 2 lines"):
        Echo(cache=tmp_path / "y.jsonl")
    with pytest.raises(InputError, match="is a folder"):
        Echo(cache=tmp_path)


class GivesUp(Echo):
    """Asks the first question of a round only."""

    def answers(self, prompts: Any) -> Iterator[str | Failed]:
        for i, answer in enumerate(super().answers(prompts)):
            yield Failed("given up", was_asked=False) if i else answer


def test_a_question_that_is_not_put_costs_nothing() -> None:
    judge = GivesUp(max_calls=3, max_characters=5)
    assert judge.ask(["a", "bb", "cc"]) == ["A", None, None]
    assert (judge.tally.calls, judge.tally.characters, judge.tally.failed) == (1, 1, 2)
    assert judge.ask(["bb"]) == ["BB"] and judge.ask(["cc"]) == ["CC"] and judge.tally.over_budget == 0
    assert judge.ask(["d"]) == [None] and judge.tally.over_budget == 1


@pytest.mark.parametrize("limit", [{"max_calls": 2}, {"max_characters": 3}])
def test_a_budget_that_is_spent_gives_none_and_says_so(limit: dict[str, int]) -> None:
    judge = Echo(**limit)
    assert judge.ask(["a", "bb", "cc", "d"]) == ["A", "BB", None, None]
    assert judge.tally.over_budget == 2 and "2 not asked, as the budget was spent" in judge.tally.describe()
    assert judge.ask(["e" * 4]) == [None]
    with pytest.raises(InputError, match="from 0 up, got -1"):
        Echo(**dict.fromkeys(limit, -1))


# ---------------------------------------------------------------- a model here


@pytest.fixture(scope="module")
def lm() -> Any:
    return tiny_lm("llama")


PROMPTS = ["The cat sat", "Is Lisbon in Portugal? Answer:", "a"]


def test_log_odds_are_those_of_the_whole_answers(lm: Any) -> None:
    found = LocalJudge(lm).log_odds(PROMPTS, "yes", "no")
    for prompt, odds in zip(PROMPTS, found, strict=True):
        total = []
        for answer in ("yes", "no"):
            tokens, n = lm.tokenize(f"{prompt} {answer}"), len(lm.tokenize(prompt))
            log_p = lm.logits(tokens)[0].double().log_softmax(-1)
            ids = torch.from_numpy(tokens.ids)
            assert torch.equal(ids[:n], torch.from_numpy(lm.tokenize(prompt).ids))
            total.append(float(log_p[:-1].gather(1, ids[1:, None])[n - 1 :].sum()))
        assert odds == pytest.approx(total[0] - total[1], abs=2e-4)


def test_log_odds_of_one_token_against_several(lm: Any) -> None:
    prompt = "The cat sat on"
    one, several = lm.tokenize(f"{prompt} the"), lm.tokenize(f"{prompt} zebra")
    n = len(lm.tokenize(prompt))
    assert len(one) == n + 1 < len(several)
    log_p = [sum(lm.logits(of)[0].double().log_softmax(-1)[t - 1, of.ids[t]] for t in range(n, len(of))) for of in (one, several)]
    assert LocalJudge(lm).log_odds([prompt], "the", "zebra") == [pytest.approx(float(log_p[0] - log_p[1]), abs=2e-4)]
    assert LocalJudge(lm).log_odds([prompt], "zebra", "the") == [pytest.approx(float(log_p[1] - log_p[0]), abs=2e-4)]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_batches_change_nothing(lm: Any, batch_size: int) -> None:
    judge = LocalJudge(lm, batch_size=batch_size, max_new_tokens=5)
    assert judge.log_odds(PROMPTS, "yes", "no") == pytest.approx(LocalJudge(lm, batch_size=3).log_odds(PROMPTS, "yes", "no"), abs=2e-4)
    judge, other = (LocalJudge(Ending(lm), batch_size=size, max_new_tokens=5) for size in (batch_size, 3))
    assert judge.ask(PROMPTS) == other.ask(PROMPTS) and judge.tally.failed == 0


def test_a_prompt_longer_than_the_context_is_missing_and_costs_no_other(lm: Any) -> None:
    judge = LocalJudge(lm, max_new_tokens=4)
    odds = judge.log_odds([PROMPTS[0], "long " * 100, PROMPTS[2]], "yes", "no")
    assert [one is None for one in odds] == [False, True, False]
    assert judge.ask(["long " * 100]) == [None]
    assert judge.tally.failed == 2 and "longer than its context" in judge.tally.describe()


def test_a_template_stands_around_the_prompt(lm: Any) -> None:
    told = LocalJudge(lm, template="<u>{prompt}<a>").log_odds(["The cat"], "yes", "no")
    assert told == LocalJudge(lm).log_odds(["<u>The cat<a>"], "yes", "no") != LocalJudge(lm).log_odds(["The cat"], "yes", "no")
    with pytest.raises(InputError, match=r"holds \{prompt\}, got 'x'"):
        LocalJudge(lm, template="x")


def test_an_encoder_cannot_judge() -> None:
    with pytest.raises(CapabilityError, match="no next-token logits"):
        LocalJudge(ToyLM(has_logits=False))


# ---------------------------------------------------------------- a file


def test_a_cache_is_replayed_without_its_judge(lm: Any, tmp_path: Path) -> None:
    first = LocalJudge(Ending(lm), cache=tmp_path / "kept.jsonl", max_new_tokens=4)
    texts, odds = first.ask(PROMPTS), first.log_odds(PROMPTS, "yes", "no")
    again = ReplayJudge(tmp_path / "kept.jsonl")
    assert (again.ask(PROMPTS), again.log_odds(PROMPTS, "yes", "no")) == (texts, odds)
    assert None not in texts
    assert again.ask(["another"]) == [None] and again.log_odds(PROMPTS[:1], "no", "yes") == [None]


def test_a_file_written_by_hand_is_replayed(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"prompt": "a?", "answer": "b"}\n\n')
    assert ReplayJudge(tmp_path / "x.jsonl").ask(["a?"]) == ["b"]
    lines = ['{"prompt": "a\u2028b", "answer": "c\x85d"}', '{"prompt": "é", "answer": "ü"}']
    (tmp_path / "own.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert ReplayJudge(tmp_path / "own.jsonl").ask(["a\u2028b", "é"]) == ["c\x85d", "ü"], "only a line feed ends a line"
    (tmp_path / "empty.jsonl").write_text("")
    for name, message in (("empty.jsonl", "holds no answer"), ("none.jsonl", "no file of answers")):
        with pytest.raises(InputError, match=message):
            ReplayJudge(tmp_path / name)


# ---------------------------------------------------------------- by name


def test_judges_by_name(lm: Any, tmp_path: Path) -> None:
    assert judge_of("none") is None
    assert isinstance(judge_of("local:tiny", load=lambda name: lm), LocalJudge)
    assert isinstance(judge_of("http://localhost:1/v1", model="m"), UrlJudge)
    told = judge_of("http://localhost:1/v1", model="m", max_tokens=2000, logprobs=True)
    assert isinstance(told, UrlJudge) and (told.max_tokens, told.has_odds) == (2000, True)
    local = judge_of("local:tiny", load=lambda name: lm, max_tokens=7)
    assert isinstance(local, LocalJudge) and local.max_new_tokens == 7
    (tmp_path / "x.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    assert isinstance(judge_of(f"replay:{tmp_path / 'x.jsonl'}"), ReplayJudge)
    for told, message in (
        ("gpt", "unknown judge 'gpt'; allowed: none, local:MODEL"), ("http://x/v1", "which model behind"),
        ("local:x", "cannot be opened here"), ("replay:", "unknown judge"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            judge_of(told)
