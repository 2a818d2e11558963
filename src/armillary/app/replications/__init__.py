"""Replications: a paper's experiment on a model of one's own, by one command.

    armillary replicate semi-nmf --model gpt2 --out runs/weekdays

A replication is a module with `Settings`, whose fields are its options, and `run(settings, say=...) -> Result`. Those in `RESUMED` go on
where they were when they are asked for again.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from armillary.errors import unknown

#: Name of a paper's experiment -> its module.
REPLICATIONS: dict[str, str] = {
    "comparison": "armillary.app.replications.comparison",
    "semi-nmf": "armillary.app.replications.weekdays",
}

#: Replications that keep what is done when they are interrupted.
RESUMED = frozenset({"comparison"})

#: Told each step in a line.
Say = Callable[[str], None]


@dataclass(frozen=True)
class Result:
    """What a replication leaves behind.

    Args:
        folder: everything it made.
        report: the page in it.
        shown: what the terminal shows, one below the other.
        facts: the same as plain JSON.
    """

    folder: Path
    report: Path
    shown: tuple[Any, ...]
    facts: dict[str, Any]


def load(name: str) -> Any:
    """The module of a replication.

    Raises:
        UnknownNameError: there is none; the message holds the nearest ones.
    """
    if name not in REPLICATIONS:
        raise unknown("replication", name, REPLICATIONS)
    return importlib.import_module(REPLICATIONS[name])
