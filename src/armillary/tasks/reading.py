"""Reading files of other people strictly: what is missing or malformed is said with its file, its line and its field."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from armillary.errors import CorruptFileError, InputError, missing_extra, nearest

Value = TypeVar("Value")


def text_of(path: Path) -> str:
    """A file's text.

    Raises:
        InputError: there is none, or it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"'{path}' does not exist{_close(path)}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}' is not UTF-8 (byte {error.start}); convert it") from None
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {error.strerror}") from None


def _close(path: Path) -> str:
    names = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
    close = nearest(path.name, names, n=1)
    return f"; the nearest there is '{close[0]}'" if close else ""


def json_of(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        InputError: no such file, or no JSON (with the line).
    """
    return _parsed(text_of(path), f"'{path}'")


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where} is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None


def checked(kind: type[Value] | TypeAdapter[Value], value: object, where: str) -> Value:
    """A value as a pydantic type, nothing converted.

    Raises:
        InputError: the first field that is wrong.
    """
    adapter = kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)
    try:
        return adapter.validate_json(json.dumps(value, default=str), strict=True)  # where a JSON array may be a tuple
    except ValidationError as error:
        raise InputError(f"{where}, {_problem(error)}") from None


def _problem(error: ValidationError) -> str:
    """The first problem; a name that is not known says more than the one it leaves missing."""
    problems = error.errors()
    problem = next((one for one in problems if one["type"] == "extra_forbidden"), problems[0])
    field = _named(problem["loc"])
    if problem["type"] == "extra_forbidden":
        missing = [str(one["loc"][-1]) for one in problems if one["type"] == "missing" and one["loc"][:-1] == problem["loc"][:-1]]
        return f"field {field} is not known" + (f"; {' and '.join(missing)} is missing there" if missing else "")
    if problem["type"] == "missing":
        return f"field {field} is missing"
    return f"field {field}: {problem['msg'].replace('Input should', 'should')}, got {problem['input']!r:.80}"


def _named(loc: Iterable[int | str]) -> str:
    """train[3].base"""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".") or "(all of it)"


def rows_of(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(Where, row) of a .jsonl or .parquet file.

    Raises:
        InputError: no such file, a line that is no JSON object.
        CorruptFileError: a damaged parquet file.
        MissingExtraError: parquet without pyarrow.
    """
    if path.suffix == ".parquet":
        return _parquet(path)
    return _lines(path)


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text_of(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"'{path}', line {number}"
        row = _parsed(line, where)
        if not isinstance(row, dict):
            raise InputError(f"{where} must be a JSON object, got {line.strip()[:60]!r}")
        yield where, row


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import pyarrow.parquet as pq
        from pyarrow import ArrowInvalid
    except ImportError:
        raise missing_extra("pyarrow", "parquet", "reading .parquet files") from None
    try:
        table = pq.ParquetFile(path)
    except ArrowInvalid as error:
        raise CorruptFileError(f"'{path}' is not a whole parquet file ({error}); fetch it again") from None
    number = 0
    for batch in table.iter_batches(batch_size=256):
        for row in batch.to_pylist():
            number += 1
            yield f"'{path}', row {number}", row


def counterfactuals(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of one of MIB's rows that hold a source, in their order."""
    return {name: value for name, value in row.items() if name.endswith("_counterfactual") and value is not None}


class Strict(BaseModel):
    """A record whose fields are all known."""

    model_config = {"extra": "forbid", "frozen": True}


class Loose(BaseModel):
    """A record of which some fields are read and others left alone."""

    model_config = {"extra": "ignore", "frozen": True}
