"""Files: a comparison as a page, as Markdown and as JSON, in a folder."""

from __future__ import annotations

import json
from pathlib import Path

from armillary.core.artifact import write_atomic
from armillary.core.comparison import Comparison
from armillary.core.comparison_view import writers
from armillary.errors import OutputExistsError

NAME = "comparison"


def save(comparison: Comparison, folder: Path) -> list[Path]:
    """Write all forms, the page first. What is there of the same comparison is replaced.

    Raises:
        OutputExistsError: the folder holds another comparison.
    """
    folder.mkdir(parents=True, exist_ok=True)
    refuse_another(comparison, folder)
    pages = [folder / f"{NAME}{ending}" for ending in writers()]
    for page in pages:
        write_atomic(page, writers()[page.suffix](comparison).encode())
    return pages


def refuse_another(comparison: Comparison, folder: Path) -> None:
    """Raise where a folder holds a comparison of other methods or settings."""
    there = folder / f"{NAME}.json"
    if not there.exists():
        return
    told = json.loads(there.read_text())
    if (told["methods"], told["provenance"]) != (list(comparison.methods), comparison.to_json()["provenance"]):
        raise OutputExistsError(f"'{there}' is of another comparison ({', '.join(told['methods'])}); choose another --out")
