"""Progress of long work: a bar with rate and time left on a terminal, a line every ten seconds in a log, nothing when switched off."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

Mode = Literal["auto", "plain", "off"]
#: "auto" draws a bar where stderr is a terminal and is silent elsewhere; "plain" writes log lines; the command line sets it.
MODE: ContextVar[Mode] = ContextVar("progress_mode", default="auto")
SECONDS_BETWEEN_LINES = 10.0
#: When the last line was written, whichever work it was about.
_written: ContextVar[float] = ContextVar("progress_written", default=0.0)


@dataclass
class Bar:
    """One running piece of work; `advance` is cheap enough for an inner loop."""

    title: str
    total: float | None
    unit: str
    done: float = 0
    first: float = 0
    note: str = ""
    began: float = field(default_factory=time.monotonic)
    _drawn: float = field(default_factory=time.monotonic)
    _task: Any = None
    _live: Any = None

    def advance(self, n: float = 1, note: str = "") -> None:
        """Add `n` finished units; `note` is shown behind the numbers."""
        self.done += n
        self.note = note or self.note
        if self._live is not None:
            self._live.update(self._task, completed=self.done, note=self.note, rate=self.rate())
        elif MODE.get() == "plain" and time.monotonic() - self._drawn > SECONDS_BETWEEN_LINES:
            self._drawn = time.monotonic()
            _write(str(self))

    def rate(self) -> str:
        """Units per second so far, e.g. "8,100 tokens/s"."""
        seconds = max(time.monotonic() - self.began, 1e-9)
        return f"{_short((self.done - self.first) / seconds)} {self.unit}/s"

    def __str__(self) -> str:
        seconds = time.monotonic() - self.began
        of = "" if self.total is None else f" of {_short(self.total)}"
        new = self.done - self.first
        left = f", {duration(seconds * max(0.0, self.total - self.done) / new)} left" if self.total and new else ""
        return f"{self.title}: {_short(self.done)}{of} {self.unit}, {self.rate()}{left}{f', {self.note}' if self.note else ''}"


#: The innermost piece of work that is under way.
_running: ContextVar[Bar | None] = ContextVar("progress_running", default=None)


@contextmanager
def progress(title: str, *, total: float | None, unit: str = "steps", done: float = 0) -> Iterator[Bar]:
    """A bar for a piece of work of `total` units, of which `done` were finished in an earlier run."""
    bar = Bar(title, total, unit, done, first=done)
    before = _running.set(bar)
    try:
        yield from _shown(bar)
    finally:
        _running.reset(before)


def tell(note: str) -> None:
    """Show where a long step of the running piece of work is, behind its numbers."""
    bar = _running.get()
    if bar is not None:
        bar.advance(0, note)


def _shown(bar: Bar) -> Iterator[Bar]:
    if MODE.get() == "auto" and sys.stderr.isatty():
        with _rich_bar() as live:
            bar._live, bar._task = live, live.add_task(bar.title, total=bar.total, completed=bar.done, note="", rate="")
            yield bar
    else:
        yield bar
        # Many short passes would fill a log: a last line is for long work, or for when nothing was heard for a while.
        if MODE.get() == "plain" and time.monotonic() - min(bar.began, _written.get()) >= SECONDS_BETWEEN_LINES:
            _write(f"{bar.title}: {_short(bar.done)} {bar.unit} in {duration(time.monotonic() - bar.began)}")


def _write(line: str) -> None:
    _written.set(time.monotonic())
    sys.stderr.write(f"{line}\n")


def _rich_bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(), TextColumn("[dim]{task.fields[note]}"), console=Console(stderr=True), transient=True,
    )  # fmt: skip


def duration(seconds: float) -> str:
    """Seconds as "8 s", "3 min 20 s" or "2 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.2f}"
