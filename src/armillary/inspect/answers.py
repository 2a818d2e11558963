"""What a judge's answer says: a label, a yes or a no, or one of some digits. What says none of these is None.

Models that reason write their reasoning in front of the answer, between <think> and </think> or the like; it is no part of the answer.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

#: Longer answers than this are no labels.
LONGEST = 300

_TAG = r"(?:think|thinking|thought|reasoning)[>\]]"
#: Reasoning that ended. A template may have opened it in the prompt; then the answer has its end only, on a line of its own.
_REASONING = re.compile(rf"\s*[<\[]{_TAG}.*?[<\[]/{_TAG}|.*?^[<\[]/{_TAG}[ \t]*$", re.I | re.S | re.M)
_OPENED = re.compile(rf"\s*[<\[]{_TAG}", re.I)
#: What is behind a quotation mark is spoken about: a label may be about apologies.
_REFUSAL = re.compile(
    r"(?<![\"'“`*])\b(?:i can(?:no|')t|i won't|i(?: am|'m) (?:sorry|unable|not able)|sorry, (?:but|i)"
    r"|as an? (?:ai|(?:large )?language model)|cannot (?:help|assist|answer))\b",
    re.I,
)
_NO_LABEL = re.compile(r"|unclear(\s*[-–—:;,.(].*)?|none|null|n/a|na|nothing|unknown|trash|nan|.*\bnothing in common\b.*", re.I)
#: What comes in front of a label: "Phrase:", "Sure! Here is the phrase:".
_LEAD = re.compile(
    r"[*_\s]*(?:(?:sure|certainly|of course|okay)\b[^:]*|here(?:'s| is)\b[^:]*|(?:the )?(?:short )?(?:phrase|label|answer)(?: is)?)"
    r"[*_\s]*:[*_\s]*",
    re.I,
)
_ANSWER = re.compile(r"[*_]*answer[*_]*:[*_]*", re.I)
#: Answers of one word that are known to be whole, though the tokens were spent with it.
_WHOLE = ("yes", "no", "0", "1", "2")
_QUOTES = ("**", "``", '""', "''", "“”", "‘’", "__")


def spoken(answer: str) -> str | None:
    """An answer without the reasoning in front of it; None where that did not end."""
    if ended := _REASONING.match(answer):
        return answer[ended.end() :].strip()
    return None if _OPENED.match(answer) else answer.strip()


def unbroken(answer: str) -> str | None:
    """An answer that broke off, without its reasoning, if its complete lines or a lone verdict say something; else None.

    Its last line, which is cut, stays only where nothing is read from it.
    """
    said, complete = spoken(answer) or "", spoken(answer.rpartition("\n")[0]) or ""
    if not _offered(_lines(complete)):
        return said if verdict(said, _WHOLE) else None
    read, read_without = ((_phrase(text), verdict(text, _WHOLE)) for text in (said, complete))
    return said if read == read_without else complete


def first_line(said: str) -> str:
    """The first line that is more than an introduction, else the first; of what a model wrote that does not know when to end."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return next((line for line in lines if not _is_lead(line)), (lines or [""])[0])


def verdict(answer: str | None, allowed: Collection[str]) -> str | None:
    """Which of some answers was given: it has a line to itself, and no other of them has one. None for anything else."""
    lines = () if answer is None else (spoken(answer) or "").splitlines()
    words = {_bare(_ANSWER.sub("", _bare(line))).rstrip("!").lower() for line in lines}
    found = words & set(allowed)
    return found.pop() if len(found) == 1 else None


def parse_yes_no(answer: str | None) -> bool | None:
    """True for yes, False for no, None for anything else: a line that says more is no answer."""
    word = verdict(answer, ("yes", "no"))
    return None if word is None else word == "yes"


def parse_label(answer: str | None) -> tuple[str | None, str]:
    """(label, "") or (None, why there is none) from what a judge said."""
    if answer is None:
        return None, "the judge gave no answer"
    if (said := spoken(answer)) is None:
        return None, "the judge's reasoning did not come to an end"
    if _REFUSAL.search(said.replace("’", "'")):
        return None, "the judge refused"
    text = _phrase(said)
    if _NO_LABEL.fullmatch(text):
        return None, "the judge found nothing in common" if text else "the judge gave no label"
    if len(text) > LONGEST:
        return None, f"the judge's answer of {len(text):,} characters is no label"
    return text, ""


def _phrase(said: str) -> str:
    """The last line that is said to be the label, else the first that is no introduction to it."""
    lines = _lines(said)
    return _offered(lines) or next((line for line in lines if not _is_lead(line)), "")


def _lines(said: str) -> list[str]:
    """The lines that hold words, bare."""
    return [bare for line in said.splitlines() if (bare := _bare(line)) and not bare.startswith("```")]


def _offered(lines: Sequence[str]) -> str:
    """The last line that is said to be the label, else the first that announces nothing, or ""."""
    led = [bare for line in lines if (found := _LEAD.match(line)) and (bare := _bare(line[found.end() :]))]
    plain = [line for line in lines if not line.endswith(":")]
    return (led[-1:] or plain[:1] or [""])[0]


def _is_lead(line: str) -> bool:
    """Whether a line introduces a label and holds none."""
    return _LEAD.fullmatch(_bare(line)) is not None


def _bare(line: str) -> str:
    """A line without the marks around all of it, the dash of a list, and a full stop."""
    text = re.sub(r"^[-•]\s+", "", line.strip()).rstrip(".").rstrip()
    while len(text) > 1 and text[0] + text[-1] in _QUOTES and (text[0] == "*" or text[0] not in text[1:-1]):
        text = text[1:-1].strip().rstrip(".").rstrip()
    return text
