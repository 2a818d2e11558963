"""UrlJudge: a judge behind a URL that speaks the chat completions of OpenAI, as most servers of models do.

The key comes from an environment variable, goes into one header and nowhere else: not into names, settings, caches, errors or other hosts.
"""

from __future__ import annotations

import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any, TypeVar, final
from urllib.parse import urlsplit

from armillary.errors import InputError
from armillary.inspect import replies
from armillary.inspect.asking import KEY_VARIABLE, TEXT, Asking, Failed, odds_question
from armillary.inspect.judge_cache import Value
from armillary.inspect.replies import Again, Fault

A = TypeVar("A", bound=Value)

#: Bytes of a reply that are read at most, and seconds that are waited at most because a server asked for it.
MAX_BYTES, MAX_WAIT = 1 << 20, 60.0
#: Questions that fail one after another, each after all its attempts, before the others of a round are given up: the server is gone.
PATIENCE = 8
#: What no other attempt would change, and what the caller can do about it.
_REFUSALS = {
    401: "the key is refused",
    402: "its account is empty",
    403: "the key may not use it",
    404: "there is no such address or model",
}
#: What is not followed, as it would carry the key along.
_REDIRECTS = (301, 302, 303, 307, 308)
_AGAIN = (0, 408, 409, 425, 429)
#: Fields that newer models refuse, and what they take instead.
_INSTEAD = {"max_tokens": "max_completion_tokens", "temperature": None}


@dataclass
class _Round:
    """Questions that are asked together: whether it is over, how many failed since the last that did not, and why the rest is not asked."""

    is_over: threading.Event = field(default_factory=threading.Event)
    n_failed: int = 0
    why: str = f"not asked, as the {PATIENCE} before it failed"


class _Elsewhere(Exception):
    """The server answers nothing, and sends to another address."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


@final
class UrlJudge(Asking):
    """A judge behind a URL. Nothing is sent before the first question.

    Args:
        url: the base, such as "https://api.openai.com/v1" or "http://localhost:8000/v1", or the whole address of its chat completions.
        model: which of the server's models.
        key_variable: environment variable that holds the key; where it is not set, none is sent.
        timeout: seconds to wait for a reply.
        retries: further attempts after a failure that may pass (429, 5xx, time-outs, replies that cannot be read).
        pause: seconds before the first of these, twice as many before each next one; a server's Retry-After counts too.
        parallel: questions under way at a time.
        max_tokens: of an answer, the reasoning of models that reason included: these need some thousands.
        logprobs: ask for log probabilities of one-token answers, which not every server tells.
        options: further fields of the request, such as {"seed": 0}; None leaves one out, such as {"temperature": None}.
        cache, max_calls, max_characters: see `Asking`; attempts of one question count once.

    Raises:
        InputError: no http(s) URL, or one with a password or a query in it; when it is asked, a key that no header can carry, or a server
            that is not there or refuses.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key_variable: str = KEY_VARIABLE,
        timeout: float = 60.0,
        retries: int = 4,
        pause: float = 1.0,
        parallel: int = 4,
        max_tokens: int = 60,
        logprobs: bool = False,
        options: Mapping[str, Any] | None = None,
        cache: str | os.PathLike[str] | None = None,
        max_calls: int | None = None,
        max_characters: int | None = None,
    ) -> None:
        self.url = _endpoint(url)
        settings = {"url": self.url, "model": model, "max_tokens": max_tokens, "options": dict(options or {})}
        super().__init__(
            f"{model} at {urlsplit(self.url).netloc}", settings, cache=cache, max_calls=max_calls, max_characters=max_characters
        )
        self.model, self.max_tokens, self.options, self.has_odds = model, max_tokens, dict(options or {}), logprobs
        self.key_variable, self.timeout, self.retries, self.pause, self.parallel = key_variable, timeout, retries, pause, parallel
        self._was_reached = self._has_answered = False
        self._refused_fields: set[str] = set()

    def answers(self, prompts: Sequence[str]) -> Iterator[str | Failed]:
        return self._all(prompts, TEXT, {"max_tokens": self.max_tokens}, replies.text)

    def odds(self, prompts: Sequence[str], yes: str, no: str) -> Iterator[float | Failed]:
        more = {"max_tokens": 1, "logprobs": True, "top_logprobs": 20}
        return self._all(prompts, odds_question(yes, no), more, lambda choice: replies.odds(choice, yes, no))

    def _all(
        self, prompts: Sequence[str], question: str, more: Mapping[str, Any], read: Callable[[Mapping[str, Any]], A | Failed]
    ) -> Iterator[A | Failed]:
        """What is read from the first choice of each reply, in the order of the prompts; kept as it comes, whatever the others become."""
        this = _Round()

        def one(prompt: str) -> A | Failed:
            try:
                reply = self._reply(prompt, more, this)
            except InputError:
                this.is_over.set()  # what waits for its turn is not asked
                raise
            answer = reply if isinstance(reply, Failed) else read(reply)
            self.keep(prompt, question, answer)
            return answer

        pool = ThreadPoolExecutor(max_workers=max(1, self.parallel))
        try:
            yield from pool.map(one, prompts)
        finally:
            this.is_over.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _reply(self, prompt: str, more: Mapping[str, Any], this: _Round) -> Mapping[str, Any] | Failed:
        """One question, asked again while that may help."""
        if this.is_over.is_set() or this.n_failed >= PATIENCE:
            return Failed(this.why, was_asked=False)
        fields = {"messages": [{"role": "user", "content": prompt}], "temperature": 0, "stream": False, **more, **self.options}
        reason = ""
        for attempt in range(self.retries + 1):
            try:
                reply = self._post({"model": self.model, **fields})
            except Again as error:
                reason, is_last = error.reason, attempt == self.retries
                if is_last or this.is_over.wait(min(MAX_WAIT, max(self.pause * 2**attempt, error.wait or 0.0))):
                    break
            except _Elsewhere as error:
                this.why = str(error)
                this.is_over.set()
                return Failed(this.why)
            else:
                this.n_failed = 0
                return reply
        if not self._was_reached and reason == "no connection":
            raise InputError(f"no judge can be reached at '{self.url}'; is the server running, and the URL right?")
        this.n_failed += 1
        return Failed(reason)

    def _post(self, fields: Mapping[str, Any]) -> Mapping[str, Any] | Failed:
        """One attempt, and at once another where the server wants a field left out or called otherwise."""
        sent = self._as_taken(fields)
        status, headers, reply = self._exchange(json.dumps(sent).encode())
        self._was_reached = True
        fault = replies.fault(status, reply)
        if fault is None:
            choice = replies.choice(reply)
            self._has_answered = True
            return choice
        if fault.status == 400 and fault.field in _INSTEAD and fault.field in sent:
            self._refused_fields.add(fault.field)
            return self._post(fields)
        return self._failed(fault, replies.seconds(headers.get("Retry-After")), sent)

    def _as_taken(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a request as the server takes them."""
        names = {name: _INSTEAD[name] if name in self._refused_fields else name for name in fields}
        return {name: fields[told] for told, name in names.items() if name is not None and fields[told] is not None}

    def _exchange(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of the reply to one request."""
        headers = {"Content-Type": "application/json"}
        if key := _key(self.key_variable):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url, body, headers)
        try:
            try:
                reply = urllib.request.build_opener(_NoRedirects).open(request, timeout=self.timeout)
            except urllib.error.HTTPError as error:
                reply = error
            with reply:
                return reply.status, reply.headers, reply.read(MAX_BYTES)
        except TimeoutError:
            raise Again("timed out") from None
        except urllib.error.URLError as error:
            raise Again("timed out" if isinstance(error.reason, TimeoutError) else "no connection") from None
        except (OSError, HTTPException):
            raise Again("the connection broke") from None

    def _failed(self, fault: Fault, wait: float | None, sent: Mapping[str, Any]) -> Failed:
        """What a fault means. One that is about this question alone, since others were answered, ends no run."""
        about_all = fault.status in (401, 402) or not self._has_answered
        if fault.status in _REFUSALS and about_all:
            set_or_not = "is set" if self.key_variable in os.environ else "is not set"
            what = f"'{self.url}' answers {fault.status} for model {self.model!r}: {_REFUSALS[fault.status]}"
            raise InputError(f"{what}; mind the URL, the model, and the key in {self.key_variable}, which {set_or_not}")
        if fault.status in _REDIRECTS:
            why = f"HTTP {fault.status}, it sends elsewhere: give the address itself"
            if about_all:
                raise _Elsewhere(why)
            return Failed(why)
        if fault.status in _AGAIN or fault.status >= 500:
            raise Again(f"HTTP {fault.status}" if fault.status else "an error instead of an answer", wait)
        return Failed(f"HTTP {fault.status}" + (f" because of {fault.field!r}" if fault.field in sent else ""))


def _endpoint(url: str) -> str:
    """The address of a server's chat completions.

    Raises:
        InputError: no http(s) URL, or one that holds what might be a key.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"a judge's URL begins with http:// or https://, got {url!r}; for instance http://localhost:8000/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        where = f"{parts.scheme}://{parts.hostname}"
        raise InputError(f"the judge's URL at {where} holds a user, a password or a query; put keys into an environment variable instead")
    return url if url.endswith("/chat/completions") else f"{url.rstrip('/')}/chat/completions"


def _key(variable: str) -> str | None:
    """The key, without the line break that a file of it ends with; None where the variable is not set.

    Raises:
        InputError: what no header can carry; the key is not repeated.
    """
    told = os.environ.get(variable)
    key = None if told is None else told.strip()
    if key is None or (key and key.isascii() and key.isprintable()):
        return key
    what = "holds what is not printable ASCII" if key else "is set, but empty"
    raise InputError(f"the judge's key in {variable} {what}; set it to the key alone, on one line, or unset it to send none")
