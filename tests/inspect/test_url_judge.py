"""Judges behind a URL, before a server that behaves as real ones do: what fails is missing, and keys go nowhere but into one header."""

from __future__ import annotations

import json
import math
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import torch

from armillary.errors import InputError
from armillary.inspect.judge_cache import JudgeCache
from armillary.inspect.replies import odds, seconds
from armillary.inspect.url_judge import PATIENCE, UrlJudge
from chat_server import ChatServer, Reply, failed, prompt_of, said

KEY = "sk-very-secret"


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer() as there:
        yield there


def url_judge(server: Any, **told: Any) -> UrlJudge:
    return UrlJudge(server.url, "m", **{"pause": 0.0, "retries": 2, "parallel": 1, "timeout": 5.0, **told})


def test_a_good_answer(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARMILLARY_JUDGE_KEY", KEY)
    judge = url_judge(server, parallel=4, options={"seed": 3})
    assert judge.ask(["a", "b", "c", "d", "e"]) == ["A", "B", "C", "D", "E"]
    body, headers = server.requests[0]
    assert (body["model"], body["temperature"], body["seed"]) == ("m", 0, 3)
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert judge.log_odds(["a"], "yes", "no") == [None] and len(server.requests) == 5


def test_without_a_key_none_is_sent(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARMILLARY_JUDGE_KEY", raising=False)
    url_judge(server).ask(["a"])
    assert "Authorization" not in server.requests[0][1]


def test_space_around_a_key_is_left_out(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARMILLARY_JUDGE_KEY", f" {KEY}\r\n")
    assert url_judge(server).ask(["a"]) == ["A"]
    assert server.requests[0][1]["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("told", ["", " \n", f"{KEY}\nX-Other: 1", f"{KEY}\x7f", f"{KEY}é", f"“{KEY}”"])
def test_a_key_that_fits_no_header_is_refused_and_not_shown(server: Any, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWN_KEY", told)
    with pytest.raises(InputError, match="OWN_KEY") as caught:
        url_judge(server, key_variable="OWN_KEY").ask(["a"])
    assert KEY not in "".join(traceback.format_exception(caught.value)) and server.requests == []


def test_an_answer_that_came_is_kept_though_one_before_it_is_refused(server: Any, tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"

    def reply(body: Any, n: int) -> Any:
        if (asked := body["messages"][0]["content"]) != "a":
            return 200, {}, said(asked.upper())
        wait_until(lambda: path.is_file() and path.read_bytes().count(b"\n") == 2)
        return 401, {}, ""

    server.reply = reply
    with pytest.raises(InputError, match="answers 401"):
        url_judge(server, cache=path, parallel=3).ask(["a", "b", "c"])
    assert len(JudgeCache(path)) == 2
    server.reply = lambda body, n: (200, {}, said("now"))
    again = url_judge(server, cache=path)
    assert again.ask(["a", "b", "c"]) == ["now", "B", "C"]
    assert again.tally.calls == 1 and len(JudgeCache(path)) == path.read_bytes().count(b"\n") == 3, "each is written once"


def test_an_answer_on_its_way_when_asking_ends_is_kept(server: Any, tmp_path: Path) -> None:
    path, is_over, is_under_way = tmp_path / "kept.jsonl", threading.Event(), threading.Event()

    def reply(body: Any, n: int) -> Any:
        if body["messages"][0]["content"] == "a":
            is_under_way.wait(2)
            return 401, {}, ""
        is_under_way.set()
        is_over.wait(2)
        return 200, {}, said("late")

    server.reply = reply
    with pytest.raises(InputError, match="answers 401"):
        url_judge(server, cache=path, parallel=2).ask(["a", "b"])
    is_over.set()
    wait_until(lambda: path.is_file() and path.read_bytes().endswith(b"\n"))
    assert url_judge(server, cache=path).ask(["b"]) == ["late"] and len(server.requests) == 2


def wait_until(is_so: Callable[[], bool], seconds: float = 2.0) -> None:
    end = time.monotonic() + seconds
    while not is_so() and time.monotonic() < end:
        time.sleep(0.005)


def test_429_and_then_a_good_answer(server: Any) -> None:
    server.reply = lambda body, n: (429, {"Retry-After": "0.05"}, "{}") if n == 1 else (200, {}, said("fine"))
    began = time.monotonic()
    judge = url_judge(server)
    assert judge.ask(["a"]) == ["fine"]
    assert time.monotonic() - began >= 0.05
    assert len(server.requests) == 2 and judge.tally.calls == 1 and judge.tally.failed == 0


@pytest.mark.parametrize(
    ("reply", "reason", "n_requests"),
    [
        (lambda body, n: (200, {}, "not json {"), "a reply that cannot be read", 3),
        (lambda body, n: (200, {}, '{"choices": []}'), "a reply that cannot be read", 3),
        (lambda body, n: (200, {}, "[1, 2]"), "a reply that cannot be read", 3),
        (lambda body, n: (500, {}, KEY), "HTTP 500", 3),
        (lambda body, n: (400, {}, KEY), "HTTP 400", 1),
        (lambda body, n: (200, {}, said("", finish_reason="stop")), "an empty answer", 1),
        (lambda body, n: (200, {}, said("x", finish_reason="content_filter")), "refused", 1),
        (lambda body, n: (200, {}, json.dumps({"choices": [{"message": {"content": None, "refusal": "no"}}]})), "refused", 1),
    ],
)
def test_what_is_no_answer_is_missing(server: Any, reply: Callable[..., Any], reason: str, n_requests: int) -> None:
    server.reply = reply
    judge = url_judge(server)
    assert judge.ask(["a"]) == [None]
    assert dict(judge.tally.failures) == {reason: 1} and len(server.requests) == n_requests


def test_a_time_out_is_missing(server: Any) -> None:
    def slow(body: Any, n: int) -> Any:
        time.sleep(0.4)
        return 200, {}, said("late")

    server.reply = slow
    judge = url_judge(server, timeout=0.1, retries=1)
    assert judge.ask(["a"]) == [None]
    assert dict(judge.tally.failures) == {"timed out": 1}


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_no_attempt_would_mend_is_an_error(server: Any, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWN_KEY", KEY)
    server.reply = lambda body, n: (status, {}, f"wrong key {KEY}")
    with pytest.raises(InputError, match=rf"answers {status} .* OWN_KEY, which is set") as caught:
        url_judge(server, key_variable="OWN_KEY").ask(["a", "b"])
    assert KEY not in str(caught.value)


def test_the_key_does_not_follow_a_redirect(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARMILLARY_JUDGE_KEY", KEY)
    server.reply = lambda body, n: (302, {"Location": f"{server.url}/elsewhere"}, "")
    assert url_judge(server).ask(["a"]) == [None]
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_an_address_that_sends_elsewhere_is_said_and_asked_no_more(server: Any, status: int) -> None:
    server.reply = lambda body, n: (status, {"Location": f"{server.url}/elsewhere"}, "")
    judge, why = url_judge(server), f"HTTP {status}, it sends elsewhere: give the address itself"
    assert judge.ask(["a", "b", "c"]) == [None] * 3 and len(server.requests) == 1
    assert dict(judge.tally.failures) == {why: 3} and judge.tally.calls == 1
    server.reply = lambda body, n: (status, {}, "") if prompt_of(body) == "b" else (200, {}, said("fine"))
    assert judge.ask(["a", "b", "c"]) == ["fine", None, "fine"], "of one question it is the failure of that question"


def test_no_server() -> None:
    with pytest.raises(InputError, match=r"no judge can be reached at 'http://127\.0\.0\.1:9/v1/chat/completions'"):
        UrlJudge("http://127.0.0.1:9/v1", "m", pause=0.0, retries=1).ask(["a"])


@pytest.mark.parametrize("url", ["ftp://x/v1", "localhost:8000", f"http://me:{KEY}@x/v1", f"https://x/v1?api-key={KEY}"])
def test_a_url_that_is_none_or_holds_a_key_is_refused(url: str) -> None:
    with pytest.raises(InputError) as caught:
        UrlJudge(url, "m")
    assert KEY not in str(caught.value)


def test_keys_are_written_nowhere(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARMILLARY_JUDGE_KEY", KEY)
    judge = url_judge(server, cache=tmp_path / "kept.jsonl")
    judge.ask(["a"])
    assert KEY not in (tmp_path / "kept.jsonl").read_text() + repr(judge) + judge.name + json.dumps(judge.settings) + str(vars(judge))


def test_log_probabilities_of_a_server(server: Any) -> None:
    def reply(body: Any, n: int) -> Any:
        top = [[(" Yes", -0.1), ("yes", -3.0), ("No", -2.5)], [("Yes", -0.01), ("Maybe", -9.0)], [("Maybe", -0.1)]][n - 1]
        told = {"content": [{"top_logprobs": [{"token": token, "logprob": value} for token, value in top]}]}
        return 200, {}, said("Yes", logprobs=told)

    server.reply = reply
    judge = url_judge(server, logprobs=True)
    first, second, third = judge.log_odds(["a", "b", "c"], "yes", "no")
    expected = torch.logsumexp(torch.tensor([-0.1, -3.0]), 0) + 2.5
    assert first == pytest.approx(float(expected), abs=1e-4)
    assert second == pytest.approx(-0.01 + 9.0) and third is None
    assert server.requests[0][0]["max_tokens"] == 1 and server.requests[0][0]["logprobs"] is True


# ---------------------------------------------------------------- as real servers do


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (said("Yes."), "Yes."),
        (said("<think>\nno, or\nyes\n</think>\n\nYes."), "Yes."),
        (said("It may be.\n</think>\n\nYes."), "Yes."),  # the template opened the reasoning
        (said("Yes.", message={"reasoning_content": "no"}), "Yes."),
        (said([{"type": "thinking", "thinking": [{"type": "text", "text": "no"}]}, {"type": "text", "text": "Yes."}]), "Yes."),
        (said("names of cities\n\nThey are all in Eu", finish_reason="length"), "names of cities\n\nThey are all in Eu"),
        (said("Label: cities\n\nBetter:\nLabel: names of ci", finish_reason="length"), "Label: cities\n\nBetter:"),
        (said("It speaks of Paris.\nNo", finish_reason="length"), "It speaks of Paris."),  # it may be "Nobody"
        (said("Yes", finish_reason="length"), "Yes"),  # of one token, which is whole
        ("\n\n\n" + said("Yes."), "Yes."),  # empty lines keep the connection open
    ],
)
def test_an_answer_is_found_in_what_stands_around_it(server: ChatServer, reply: str, answer: str) -> None:
    server.reply = lambda body, n: (200, {}, reply)
    assert url_judge(server).ask(["a"]) == [answer]
    assert server.requests[0][0]["stream"] is False


@pytest.mark.parametrize(
    ("reply", "reason", "n_requests"),
    [
        (said(None), "an empty answer", 1),
        (said([]), "an empty answer", 1),
        (said(None, message={"tool_calls": [{"id": "1"}]}, finish_reason="tool_calls"), "an empty answer", 1),
        (said(None, message={"reasoning_content": "Let me"}, finish_reason="length"), "cut off before its end: allow more tokens", 1),
        (said("<think>\nLet me", finish_reason="length"), "cut off before its end: allow more tokens", 1),
        (said("names of cities and of the", finish_reason="length"), "cut off before its end: allow more tokens", 1),
        (said("citi", finish_reason="length"), "cut off before its end: allow more tokens", 1),
        (said("Here is the phrase:\n\nnames of ci", finish_reason="length"), "cut off before its end: allow more tokens", 1),
        (said(None, message={"refusal": "I'm sorry."}), "refused", 1),
        (said("", finish_reason="error"), "the answer broke off", 3),
        (said("half an ans", error={"code": 502}), "the answer broke off", 3),
        (said("Yes.")[:-40], "a reply that cannot be read", 3),
        ('data: {"choices": [{"delta": {"content": "Yes"}}]}\n\ndata: [DONE]\n\n', "a reply that cannot be read", 3),
        ("<html>Bad gateway</html>", "a reply that cannot be read", 3),
        (failed(200, KEY)[2], "an error instead of an answer", 3),
        (failed(200, KEY, code=429)[2], "HTTP 429", 3),
        (failed(200, KEY, code="502")[2], "HTTP 502", 3),
        (failed(200, KEY, code=400)[2], "HTTP 400", 1),
        ('{"error": "the model is loading"}', "an error instead of an answer", 3),
    ],
)
def test_what_real_servers_give_instead_of_an_answer_is_missing(server: ChatServer, reply: str, reason: str, n_requests: int) -> None:
    server.reply = lambda body, n: (200, {}, reply)
    judge = url_judge(server)
    assert judge.ask(["a"]) == [None]
    assert dict(judge.tally.failures) == {reason: 1} and len(server.requests) == n_requests


def test_a_reply_whose_end_is_lost_is_asked_for_again(server: ChatServer) -> None:
    whole = said("Yes.")
    server.reply = lambda body, n: (200, {"Content-Length": str(len(whole))}, whole[:-30]) if n == 1 else (200, {}, whole)
    assert url_judge(server).ask(["a"]) == ["Yes."] and len(server.requests) == 2


def test_a_server_may_say_until_when_to_wait(server: ChatServer) -> None:
    def reply(body: Any, n: int) -> Reply:
        return failed(429, "slow down", {"Retry-After": formatdate(time.time() + 2, usegmt=True)}) if n == 1 else (200, {}, said("fine"))

    server.reply = reply
    began = time.monotonic()
    assert url_judge(server).ask(["a"]) == ["fine"]
    assert 0.5 < time.monotonic() - began < 3


@pytest.mark.parametrize("told", ["soon", "", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_time_to_wait_that_says_nothing_is_no_time(told: str) -> None:
    assert not seconds(told)


def test_newer_models_take_other_fields(server: ChatServer) -> None:
    """They refuse `max_tokens` and any temperature; what they refuse is asked for once, and is not the question's failure."""

    def reply(body: Any, n: int) -> Reply:
        if "max_tokens" in body:
            return failed(400, "use max_completion_tokens", param="max_tokens", code="unsupported_parameter")
        if "temperature" in body:
            return failed(400, "only the default", param="temperature", code="unsupported_value")
        return 200, {}, said(f"{prompt_of(body)} {body['max_completion_tokens']}")

    server.reply = reply
    judge = url_judge(server, max_tokens=900, retries=0)
    assert judge.ask(["a", "b"]) == ["a 900", "b 900"] and len(server.requests) == 4
    assert url_judge(server, options={"max_tokens": None, "temperature": None, "max_completion_tokens": 7}).ask(["a"]) == ["a 7"]
    assert len(server.requests) == 5


def test_a_field_that_is_refused_is_named(server: ChatServer) -> None:
    server.reply = lambda body, n: failed(400, KEY, param="seed" if n == 1 else KEY)
    judge = url_judge(server, options={"seed": 1})
    assert judge.ask(["a", "b"]) == [None, None]
    assert dict(judge.tally.failures) == {"HTTP 400 because of 'seed'": 1, "HTTP 400": 1}


@pytest.mark.parametrize("status", [403, 404])
def test_a_question_that_alone_is_forbidden_ends_no_run(server: ChatServer, status: int) -> None:
    server.reply = lambda body, n: failed(status, "flagged") if prompt_of(body) == "b" else (200, {}, said("fine"))
    judge = url_judge(server)
    assert judge.ask(["a", "b", "c"]) == ["fine", None, "fine"]
    assert dict(judge.tally.failures) == {f"HTTP {status}": 1}


@pytest.mark.parametrize(
    "reply",
    [
        failed(402, KEY),
        failed(429, KEY, code="insufficient_quota"),
        failed(200, KEY, code=402),
        failed(200, KEY, code="insufficient_quota"),
    ],
)
def test_an_empty_account_ends_the_run_at_once(server: ChatServer, reply: Reply) -> None:
    server.reply = lambda body, n: (200, {}, said("fine")) if n == 1 else reply
    with pytest.raises(InputError, match=r"answers 402 .* its account is empty") as caught:
        url_judge(server).ask(["a", "b", "c"])
    assert len(server.requests) == 2 and KEY not in str(caught.value)


def test_a_server_that_is_gone_is_not_asked_forever(server: ChatServer) -> None:
    server.reply = lambda body, n: (200, {}, said("fine")) if n <= 2 else failed(503, "overloaded")
    judge = url_judge(server, retries=1)
    prompts = [str(i) for i in range(PATIENCE + 10)]
    assert judge.ask(prompts) == ["fine", "fine", *[None] * (PATIENCE + 8)]
    assert dict(judge.tally.failures) == {"HTTP 503": PATIENCE, f"not asked, as the {PATIENCE} before it failed": 8}
    assert len(server.requests) == 2 + 2 * PATIENCE
    n_asked = 2 + PATIENCE
    assert (judge.tally.calls, judge.tally.characters) == (n_asked, sum(map(len, prompts[:n_asked]))), "what is not sent costs nothing"
    server.reply = lambda body, n: (200, {}, said("back"))
    assert judge.ask(["another"]) == ["back"], "it is given another chance with the next questions"


def test_failures_between_answers_are_no_sign_that_it_is_gone(server: ChatServer) -> None:
    server.reply = lambda body, n: (200, {}, said("fine")) if int(prompt_of(body)) % PATIENCE == 0 else failed(500, "")
    judge = url_judge(server, retries=0)
    found = judge.ask([str(i) for i in range(4 * PATIENCE)])
    assert found.count("fine") == 4 and judge.tally.failures["HTTP 500"] == 4 * (PATIENCE - 1)


def test_nobody_waits_for_an_attempt_that_is_no_longer_wanted(server: ChatServer) -> None:
    """Threads that slept before another attempt kept a command that was interrupted from ending."""
    server.reply = lambda body, n: failed(401, "") if prompt_of(body) == "b" else failed(429, "", {"Retry-After": "30"})
    before = threading.active_count()
    with pytest.raises(InputError, match="answers 401"):
        url_judge(server, parallel=2).ask(["b", "a"])
    wait_until(lambda: threading.active_count() <= before)
    assert threading.active_count() <= before


def test_marks_of_spaces_and_probabilities_of_nothing_do_not_matter(server: ChatServer) -> None:
    told = [("▁yes", -1.0), ("ĠYES", -1.0), ("No", -2.0), ("Maybe", float("-inf"))]
    top = [{"token": token, "logprob": value} for token, value in told]

    def reply(body: Any, n: int) -> Reply:
        return 200, {}, said("yes", logprobs={"content": [{"top_logprobs": top if n == 1 else [top[0], *top[3:]]}]})

    server.reply = reply
    first, second = url_judge(server, logprobs=True).log_odds(["a", "b"], "yes", "no")
    assert first == pytest.approx(1 + math.log(2), abs=1e-4)
    assert second == 0.0, "an answer that is not told has at most the least of what is"


@pytest.mark.parametrize(
    ("told", "score"),
    [
        ([("yes", 0.0)], 20.7233),
        ([("yes", 0.0), ("no", float("-inf"))], 20.7233),
        ([("no", -1e-12)], -20.7233),
        ([("no", 1e-6)], -20.7233),  # rounded
        ([("No", -0.1)], -2.2522),
        ([("yes", -0.8), (" Yes", -0.8)], 2.1824),  # both are the same answer
        ([("yes", 0.0), ("maybe", -30.0)], 30.0),  # the least of the others
    ],
)
def test_a_judge_that_is_certain_is_not_undecided(told: list[tuple[str, float]], score: float) -> None:
    top = [{"token": token, "logprob": value} for token, value in told]
    assert odds({"logprobs": {"content": [{"top_logprobs": top}]}}, "yes", "no") == pytest.approx(score, abs=1e-3)
