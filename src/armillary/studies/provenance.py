"""Provenance of a report: what a study was asked of, and how."""

from __future__ import annotations

from typing import Any

from armillary.core.config import Config
from armillary.core.provenance import of_rows, versions
from armillary.core.rows import Rows
from armillary.core.study import Subject


def of_study(name: str, subject: Subject, rows: Rows, config: Config) -> dict[str, Any]:
    """The study's name and settings, the records of the fit and of the rows, and the versions that could change a number."""
    return {
        "study": name,
        "subject": dict(subject.fit().provenance),
        "rows": of_rows(rows),
        "settings": config.model_dump(mode="json"),
        "versions": versions(),
    }
