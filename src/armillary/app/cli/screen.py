"""Screen: where a command writes. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from armillary.core.progress import MODE, Mode


@dataclass(frozen=True)
class Screen:
    """How a command answers.

    Args:
        as_json: one JSON object on stdout and nothing else there.
        is_quiet: no progress and no remarks on stderr.
    """

    as_json: bool = False
    is_quiet: bool = False

    def remark(self, line: str) -> None:
        """One line on stderr for the person who waits."""
        if not self.is_quiet and is_first_rank():
            print(line, file=sys.stderr, flush=True)

    def answer(self, data: Mapping[str, Any], *shown: Any) -> None:
        """The command's result: `data` as JSON where that was asked for, else texts and rich renderables one below the other.

        Of several ranks the first one speaks.
        """
        if not is_first_rank():
            return
        if self.as_json:
            from armillary.core.report import plain

            print(json.dumps({"ok": True, **plain(data)}))
            return
        for part in shown:
            if isinstance(part, str):
                print(part)
            else:
                _draw(part)

    def start(self) -> None:
        """Switch progress to what suits stderr: a bar on a terminal, lines in a log, nothing when quiet."""
        mode: Mode = "off" if self.is_quiet or not is_first_rank() else ("auto" if sys.stderr.isatty() else "plain")
        MODE.set(mode)


def is_first_rank() -> bool:
    """Whether this process is the first of those that torchrun started, or alone; known before torch is imported."""
    return os.environ.get("RANK", "0") == "0"


def _draw(renderable: Any) -> None:
    from rich.console import Console

    console = Console()
    # Not a terminal: nothing is cut off to fit a width that nobody has.
    (console if console.is_terminal else Console(width=140)).print(renderable)
