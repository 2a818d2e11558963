"""Files: a comparison as a page, as Markdown and as JSON, in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from armillary.core.artifact import write_atomic
from armillary.core.comparison import Comparison
from armillary.core.comparison_view import writers
from armillary.core.report import plain
from armillary.errors import InputError, OutputExistsError

NAME = "comparison"


def save(comparison: Comparison, folder: Path) -> list[Path]:
    """Write all forms, the page first. What is there of the same comparison is replaced.

    Raises:
        OutputExistsError: the folder holds another comparison.
    """
    folder.mkdir(parents=True, exist_ok=True)
    refuse_another(comparison.provenance, folder)
    pages = [folder / f"{NAME}{ending}" for ending in writers()]
    for page in pages:
        write_atomic(page, writers()[page.suffix](comparison).encode())
    return pages


def refuse_another(record: Mapping[str, Any], folder: Path) -> None:
    """Raise where a folder holds a comparison of other fits, rows or settings than a record tells.

    Raises:
        OutputExistsError: it does, and what is there is not replaced.
        InputError: what is there is no comparison.
    """
    there = folder / f"{NAME}.json"
    if not there.exists():
        return
    try:
        told = json.loads(there.read_text())
        methods, before = ", ".join(told["methods"]), dict(told["provenance"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"'{there}' is no comparison ({type(error).__name__}: {error}); remove it, or choose another --out") from error
    now = plain(record)
    if before == now:
        return
    others = [name for name in {**now, **before} if before.get(name) != now.get(name)]
    raise OutputExistsError(f"'{there}' is of another comparison ({methods}), with other {' and '.join(others)}; choose another --out")
