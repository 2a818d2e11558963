"""How a question is put to a model of this process: what stands around it, and how its answer begins.

    plain    the question alone; a base model goes on with " yes", and with more after it
    chat     the marks of turns that the tokenizer's own chat template puts around it; a chat model answers "yes" or "Yes", and ends

Letters: B prompts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from armillary.core.model import Model
from armillary.core.prompted import beginnings
from armillary.core.tokens import Tokens
from armillary.errors import InputError

PLAIN = "{prompt}"
#: Stands in for the question while a template is filled in.
_MARK = "\ufffc"
#: Some templates tell the date; with today's no answer could be found again in the cache tomorrow.
_DATE = "01 Jan 2025"
#: A template that makes the model reason first ends so.
_OPENED = re.compile(r"<think>\s*\Z")


@dataclass(frozen=True)
class Turn:
    """A question's surroundings.

    Args:
        template: a text with "{prompt}".
        is_chat: it is a chat template filled in, which holds all special tokens that there are to be.

    Raises:
        InputError: a template without "{prompt}".
    """

    template: str = PLAIN
    is_chat: bool = False

    def __post_init__(self) -> None:
        if PLAIN not in self.template:
            raise InputError(f"a judge's template holds {{prompt}}, got {self.template!r}")

    @staticmethod
    def of(model: Model, template: str | None = None) -> Turn:
        """The template given, else the chat template of the model's tokenizer, else none."""
        if template is not None:
            return Turn(template)
        found = chat_template(getattr(model, "tokenizer", None), model.name)
        return Turn() if found is None else Turn(found, is_chat=True)

    def around(self, prompt: str) -> str:
        """The text that is given to the model."""
        return self.template.replace(PLAIN, prompt)

    @cached_property
    def reasoning(self) -> str:
        """The beginning of reasoning that the template ends with, or ""."""
        found = _OPENED.search(self.template)
        return "" if found is None else found.group()

    def spellings(self, answer: str) -> list[str]:
        """Each way to go on with an answer; reasoning that was to come first is ended."""
        ended = "\n</think>\n\n" if self.reasoning else ""
        return [ended + one for one in (answer, answer.capitalize())] if self.is_chat else [f"{ended} {answer}"]

    def tokens(self, model: Model, texts: Sequence[str]) -> Tokens:
        """B sequences to go on from: nothing at their end that tokenizers put there, and of a chat nothing at all that is not in it."""
        return _without_added(model.tokenize(list(texts))) if self.is_chat else beginnings(model, texts)


def chat_template(tokenizer: Any, name: str) -> str | None:
    """The chat template of a tokenizer around "{prompt}", up to where the answer begins; None for a tokenizer without.

    Raises:
        InputError: a template that cannot be filled in with one question.
    """
    if not getattr(tokenizer, "chat_template", None):
        return None
    asked = [{"role": "user", "content": _MARK}]
    told = {"enable_thinking": False, "date_string": _DATE}  # templates that know no such thing leave it alone
    try:
        text = str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True, **told))
    except Exception as error:  # a template raises whatever its author chose
        raise InputError(f"the chat template of {name!r} cannot be filled in ({error}); pass template='...{{prompt}}...'") from None
    if text.count(_MARK) != 1:
        raise InputError(f"the chat template of {name!r} does not hold the question once; pass template='...{{prompt}}...'")
    return text.replace(_MARK, PLAIN)


def _without_added(tokens: Tokens) -> Tokens:
    """Sequences without the special tokens that the tokenizer put around them."""
    kept = ~tokens.is_special
    starts = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)[tokens.starts]
    position = np.arange(starts[-1]) - np.repeat(starts[:-1], np.diff(starts))
    names = ("ids", "document", "span", "is_special", "is_row")
    return replace(tokens, starts=starts, position=position, **{name: getattr(tokens, name)[kept] for name in names})
