"""Judges: what fails is missing, nothing is asked twice, a spent budget is said, and keys go nowhere but into one header."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from armillary.errors import CapabilityError, CorruptFileError, InputError
from armillary.inspect.asking import Asking, Failed, Judge
from armillary.inspect.judge_cache import JudgeCache
from armillary.inspect.judges import LocalJudge, ReplayJudge, judge_of
from armillary.inspect.url_judge import UrlJudge
from support import tiny_lm
from toys import ToyLM

KEY = "sk-very-secret"


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


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_batches_change_nothing(lm: Any, batch_size: int) -> None:
    judge = LocalJudge(lm, batch_size=batch_size, max_new_tokens=5)
    assert judge.log_odds(PROMPTS, "yes", "no") == pytest.approx(LocalJudge(lm, batch_size=3).log_odds(PROMPTS, "yes", "no"), abs=2e-4)
    assert judge.ask(PROMPTS) == LocalJudge(lm, batch_size=3, max_new_tokens=5).ask(PROMPTS)


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
    first = LocalJudge(lm, cache=tmp_path / "kept.jsonl", max_new_tokens=4)
    texts, odds = first.ask(PROMPTS), first.log_odds(PROMPTS, "yes", "no")
    again = ReplayJudge(tmp_path / "kept.jsonl")
    assert (again.ask(PROMPTS), again.log_odds(PROMPTS, "yes", "no")) == (texts, odds)
    assert again.ask(["another"]) == [None] and again.log_odds(PROMPTS[:1], "no", "yes") == [None]


def test_a_file_written_by_hand_is_replayed(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"prompt": "a?", "answer": "b"}\n\n')
    assert ReplayJudge(tmp_path / "x.jsonl").ask(["a?"]) == ["b"]
    (tmp_path / "empty.jsonl").write_text("")
    for name, message in (("empty.jsonl", "holds no answer"), ("none.jsonl", "no file of answers")):
        with pytest.raises(InputError, match=message):
            ReplayJudge(tmp_path / name)


# ---------------------------------------------------------------- behind a URL


@pytest.fixture
def server() -> Iterator[Any]:
    """A server whose `reply(body, n)` gives (status, headers, text) to the n-th request."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            there.requests.append((body, dict(self.headers)))
            status, headers, text = there.reply(body, len(there.requests))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(text.encode())), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            pass

    there: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    there.daemon_threads = True
    there.requests, there.url = [], f"http://127.0.0.1:{there.server_address[1]}/v1"
    there.reply = lambda body, n: (200, {}, said(body["messages"][0]["content"].upper()))
    thread = threading.Thread(target=there.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield there
    there.shutdown()
    there.server_close()
    thread.join()


def said(text: Any, **more: Any) -> str:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}, **more}]})


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


# ---------------------------------------------------------------- by name


def test_judges_by_name(lm: Any, tmp_path: Path) -> None:
    assert judge_of("none") is None
    assert isinstance(judge_of("local:tiny", load=lambda name: lm), LocalJudge)
    assert isinstance(judge_of("http://localhost:1/v1", model="m"), UrlJudge)
    (tmp_path / "x.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    assert isinstance(judge_of(f"replay:{tmp_path / 'x.jsonl'}"), ReplayJudge)
    for told, message in (
        ("gpt", "unknown judge 'gpt'; allowed: none, local:MODEL"), ("http://x/v1", "which model behind"),
        ("local:x", "cannot be opened here"), ("replay:", "unknown judge"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            judge_of(told)
