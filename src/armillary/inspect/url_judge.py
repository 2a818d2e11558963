"""UrlJudge: a judge behind a URL that speaks the chat completions of OpenAI, as most servers of models do.

The key comes from an environment variable, goes into one header and nowhere else: not into names, settings, caches, errors or other hosts.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any, TypeVar, final
from urllib.parse import urlsplit

from armillary.errors import InputError
from armillary.inspect.asking import DIGITS, KEY_VARIABLE, TEXT, Asking, Failed, odds_question
from armillary.inspect.judge_cache import Value

A = TypeVar("A", bound=Value)

#: Bytes of a reply that are read at most, and seconds that are waited at most because a server asked for it.
MAX_BYTES, MAX_WAIT = 1 << 20, 60.0
#: What no other attempt would change, and what the caller can do about it.
_REFUSALS = {401: "the key is refused", 403: "the key may not use it", 404: "there is no such address or model"}
_AGAIN = (408, 409, 425, 429)


class _Retry(Exception):
    """A failure that may pass; `wait` is how long the server asked to wait."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.wait = reason, wait


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
        max_tokens: of an answer.
        logprobs: ask for log probabilities of one-token answers, which not every server tells.
        options: further fields of the request, such as {"seed": 0}.
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
        self._was_reached = False

    def answers(self, prompts: Sequence[str]) -> Iterator[str | Failed]:
        return self._all(prompts, TEXT, {"max_tokens": self.max_tokens}, _text)

    def odds(self, prompts: Sequence[str], yes: str, no: str) -> Iterator[float | Failed]:
        more = {"max_tokens": 1, "logprobs": True, "top_logprobs": 20}
        return self._all(prompts, odds_question(yes, no), more, lambda choice: _odds(choice, yes, no))

    def _all(
        self, prompts: Sequence[str], question: str, more: Mapping[str, Any], read: Callable[[Mapping[str, Any]], A | Failed]
    ) -> Iterator[A | Failed]:
        """What is read from the first choice of each reply, in the order of the prompts; kept as it comes, whatever the others become."""

        def one(prompt: str) -> A | Failed:
            reply = self._reply(prompt, more)
            answer = reply if isinstance(reply, Failed) else read(reply)
            self.keep(prompt, question, answer)
            return answer

        pool = ThreadPoolExecutor(max_workers=max(1, self.parallel))
        try:
            yield from pool.map(one, prompts)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _reply(self, prompt: str, more: Mapping[str, Any]) -> Mapping[str, Any] | Failed:
        """One question, asked again while that may help."""
        body = {"model": self.model, "messages": [{"role": "user", "content": prompt}], "temperature": 0, **more, **self.options}
        reason = ""
        for attempt in range(self.retries + 1):
            try:
                return self._post(json.dumps(body).encode())
            except _Retry as error:
                reason = error.reason
                if attempt < self.retries:
                    time.sleep(min(MAX_WAIT, max(self.pause * 2**attempt, error.wait or 0.0)))
        if not self._was_reached and reason == "no connection":
            raise InputError(f"no judge can be reached at '{self.url}'; is the server running, and the URL right?")
        return Failed(reason)

    def _post(self, body: bytes) -> Mapping[str, Any] | Failed:
        headers = {"Content-Type": "application/json"}
        if key := _key(self.key_variable):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url, body, headers)
        try:
            with urllib.request.build_opener(_NoRedirects).open(request, timeout=self.timeout) as reply:
                self._was_reached = True
                return _choice(reply.read(MAX_BYTES))
        except urllib.error.HTTPError as error:
            return self._refused(error)
        except TimeoutError:
            raise _Retry("timed out") from None
        except urllib.error.URLError as error:
            raise _Retry("timed out" if isinstance(error.reason, TimeoutError) else "no connection") from None
        except (OSError, HTTPException):
            raise _Retry("the connection broke") from None

    def _refused(self, error: urllib.error.HTTPError) -> Failed:
        """What an HTTP error means; its text is not repeated, as it may hold the key."""
        error.close()
        self._was_reached = True
        if error.code in _REFUSALS:
            set_or_not = "is set" if self.key_variable in os.environ else "is not set"
            what = f"'{self.url}' answers {error.code} for model {self.model!r}: {_REFUSALS[error.code]}"
            raise InputError(f"{what}; mind the URL, the model, and the key in {self.key_variable}, which {set_or_not}")
        if error.code in _AGAIN or error.code >= 500:
            raise _Retry(f"HTTP {error.code}", _seconds(error.headers.get("Retry-After")))
        return Failed(f"HTTP {error.code}")


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


def _seconds(told: str | None) -> float | None:
    return float(told) if told is not None and re.fullmatch(r"\d+(\.\d+)?", told.strip()) else None


def _choice(reply: bytes) -> Mapping[str, Any]:
    """The first choice of a reply."""
    try:
        found = json.loads(reply)["choices"][0]
        if isinstance(found["message"], dict):
            return dict(found)
    except (ValueError, KeyError, IndexError, TypeError):
        pass
    raise _Retry("a reply that cannot be read")


def _text(choice: Mapping[str, Any]) -> str | Failed:
    message = choice["message"]
    if message.get("refusal") or choice.get("finish_reason") == "content_filter":
        return Failed("refused")
    text = message.get("content")
    return text.strip() if isinstance(text, str) and text.strip() else Failed("an empty answer")


def _odds(choice: Mapping[str, Any], yes: str, no: str) -> float | Failed:
    """From the log probabilities of the likeliest first tokens; an answer that is not among them has at most the least of theirs."""
    try:
        top = [(str(one["token"]).strip().lower(), float(one["logprob"])) for one in choice["logprobs"]["content"][0]["top_logprobs"]]
    except (KeyError, IndexError, TypeError, ValueError):
        return Failed("no log probabilities in the reply")
    least = min((value for _, value in top), default=math.nan)
    sums = [sum(math.exp(value) for token, value in top if token == answer.lower()) for answer in (yes, no)]
    if not any(sums):
        return Failed(f"neither {yes!r} nor {no!r} among the likeliest answers")
    first, second = (math.log(total) if total else least for total in sums)
    return round(first - second, DIGITS)
