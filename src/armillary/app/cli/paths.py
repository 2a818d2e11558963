"""Paths a person typed: which one was probably meant, and where the parts of a run lie."""

from __future__ import annotations

from pathlib import Path

from armillary.errors import InputError, nearest


def near(path: Path) -> str:
    """ " (did you mean 'runs/x'?)" where something beside `path` is called nearly so, else ""."""
    siblings = [entry.name for entry in path.parent.iterdir() if entry != path] if path.parent.is_dir() else []
    close = nearest(path.name, siblings, n=1)
    return f" (did you mean '{path.parent / close[0]}'?)" if close else ""


def existing(path: str, what: str) -> Path:
    """The path, which must be there.

    Raises:
        InputError: it is not; the message names the nearest sibling.
    """
    if not Path(path).exists():
        raise InputError(f"no {what} at '{path}'{near(Path(path))}")
    return Path(path)
