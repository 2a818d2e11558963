"""What judges answered, on disk: one JSON line per answer, looked up by a hash of all that it depends on.

    {"key": sha256 of (judge, model, prompt, settings), "prompt_sha256": ..., "question": "text", "answer": "names of cities"}

A line is written whole, by one call, and to the disk as soon as the answer is there: an interruption costs no answer that was paid for.
A last line that was cut short all the same is left out and written again. Failures are never kept, so that they are asked again.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from armillary.core.artifact import writing
from armillary.errors import CorruptFileError, InputError

#: What a judge said: a text, or log odds.
Value = str | float


def key_of(**parts: Any) -> str:
    """A hash of all that an answer depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class JudgeCache:
    """Answers by key, in memory and in a file that is appended to, by any thread.

    Args:
        path: a .jsonl file; it is made when the first answer is kept.

    Raises:
        CorruptFileError: a line is JSON, but no answer, or the file is none of answers.
        InputError: the path is a folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            raise InputError(f"judge cache '{self.path}' is a folder; name a file, such as '{self.path / 'judge.jsonl'}'")
        self._known: dict[str, Value] = {record["key"]: record["answer"] for record in records(self.path) if "key" in record}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: str) -> Value | None:
        return self._known.get(key)

    def put(self, key: str, prompt: str, question: str, answer: Value) -> None:
        """Keep an answer; one that is there already stays."""
        line = json.dumps({"key": key, "prompt_sha256": sha256(prompt), "question": question, "answer": answer}) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock, writing(self.path):
            if key not in self._known:
                _append(self.path, line.encode())
                self._known[key] = answer


def _append(path: Path, line: bytes) -> None:
    """Add a line by one write; one that was cut short before it is ended first, so that it spoils no other."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        is_cut = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        os.write(descriptor, (b"\n" if is_cut else b"") + line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def records(path: Path) -> Iterator[Mapping[str, Any]]:
    """The records of a file of answers, none where there is no file; lines that a crash cut short are left out.

    Raises:
        CorruptFileError: a line is JSON, but no answer, or the file is no text.
    """
    if not path.is_file():
        return
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # a text may hold other line ends, as it may in JSON
    except UnicodeDecodeError:
        raise CorruptFileError(f"'{path}' is no file of a judge's answers: it is not UTF-8 text") from None
    unread = 0
    for number, line in enumerate(lines, 1):
        try:
            found = json.loads(line) if line.strip() else None
        except ValueError:
            unread += 1
            continue
        if found is not None:
            yield _checked(found, path, number)
    n_lines = sum(bool(line.strip()) for line in lines)
    if unread > 1 and unread == n_lines:
        raise CorruptFileError(f"'{path}' is no file of a judge's answers: none of its {n_lines} lines is JSON")


def _checked(found: Any, path: Path, number: int) -> Mapping[str, Any]:
    is_answer = isinstance(found, dict) and isinstance(found.get("answer"), str | int | float) and not isinstance(found["answer"], bool)
    if not is_answer or not any(name in found for name in ("key", "prompt", "prompt_sha256")):
        wanted = '{"prompt": "...", "answer": "..."}'
        raise CorruptFileError(f"line {number} of '{path}' is no answer of a judge; each line is a JSON object such as {wanted}")
    return dict(found)
