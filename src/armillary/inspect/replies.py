"""Replies of servers that speak chat completions: the first choice's words or log probabilities, or why there are none.

Servers differ in how they say that something went wrong: by the status, by an error object behind a status of 200, by how an answer
finished. What they say in words is never repeated, as it may hold the key.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from armillary.inspect.answers import spoken, unbroken
from armillary.inspect.asking import CUT_OFF, DIGITS, Failed

#: In front of a word some tokenizers write their mark of a space.
_SPACES = " \t\n▁Ġ"
#: What an answer may have at most where those that are told leave it nothing: their probabilities are rounded.
_LEAST_LEFT = 1e-9
#: The status of an account that is empty, which some servers say by 429 as if it would pass.
NO_CREDIT = 402


class Again(Exception):
    """A failure that may pass; `wait` is for how many seconds the server asked."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.wait = reason, wait


@dataclass(frozen=True)
class Fault:
    """What a server says is wrong.

    Args:
        status: as of HTTP; 0 where an error comes without one.
        field: of the request, that the server does not take; "" where it names none.
    """

    status: int
    field: str = ""


def fault(status: int, reply: bytes) -> Fault | None:
    """What is wrong, by the status, or by an error object behind a good one; None where nothing is."""
    try:
        error = json.loads(reply).get("error")
    except (ValueError, AttributeError):
        error = None
    is_good = 200 <= status < 300
    if is_good and not error:
        return None
    told = error if isinstance(error, dict) else {}
    code = str(told.get("code"))
    if is_good:
        status = int(code) if re.fullmatch(r"[3-5]\d\d", code) else 0
    return Fault(NO_CREDIT if code == "insufficient_quota" else status, str(told.get("param") or ""))


def seconds(told: str | None) -> float | None:
    """How long a Retry-After asks to wait: a number, or the date until when."""
    if told is None or re.fullmatch(r"\d+(\.\d+)?", told.strip()):
        return None if told is None else float(told)
    try:
        return max(0.0, parsedate_to_datetime(told).timestamp() - time.time())
    except ValueError:
        return None


def choice(reply: bytes) -> Mapping[str, Any]:
    """The first choice of a reply.

    Raises:
        Again: there is none, or it broke off.
    """
    try:
        found = json.loads(reply)["choices"][0]
        message = found["message"]
    except (ValueError, KeyError, IndexError, TypeError):
        raise Again("a reply that cannot be read") from None
    if not isinstance(message, dict):
        raise Again("a reply that cannot be read")
    if found.get("error") or found.get("finish_reason") == "error":
        raise Again("the answer broke off")
    return dict(found)


def text(choice: Mapping[str, Any]) -> str | Failed:
    """The words of an answer, without its reasoning. A line that was cut off in the middle is no answer; those before it may be."""
    message, finish = choice["message"], choice.get("finish_reason")
    if message.get("refusal") or finish == "content_filter":
        return Failed("refused")
    content = _content(message.get("content"))
    words = unbroken(content) if finish == "length" else spoken(content)
    if words:
        return words
    return Failed(CUT_OFF if words is None or finish == "length" else "an empty answer")


def _content(told: Any) -> str:
    """A message's text, which some servers give in parts, of which reasoning is one."""
    if isinstance(told, list):
        return "".join(_content(part.get("text")) for part in told if isinstance(part, dict))
    return told if isinstance(told, str) else ""


def odds(choice: Mapping[str, Any], yes: str, no: str) -> float | Failed:
    """From the log probabilities of the likeliest first tokens; an answer that is not among them has at most the least of theirs.

    Where nothing but the other answer is told, it has at most what that leaves, too.
    """
    try:
        told = choice["logprobs"]["content"][0]["top_logprobs"]
        every = [(str(one["token"]).strip(_SPACES).lower(), float(one["logprob"])) for one in told]
    except (KeyError, IndexError, TypeError, ValueError):
        return Failed("no log probabilities in the reply")
    top = [(token, value) for token, value in every if math.isfinite(value)]
    least = min((value for _, value in top), default=math.nan)
    if len({token for token, _ in top}) == 1:
        least = min(least, math.log(max(1 - sum(math.exp(value) for _, value in top), _LEAST_LEFT)))
    sums = [sum(math.exp(value) for token, value in top if token == answer.lower()) for answer in (yes, no)]
    if not any(sums):
        return Failed(f"neither {yes!r} nor {no!r} among the likeliest answers")
    first, second = (math.log(total) if total else least for total in sums)
    return round(first - second, DIGITS)
