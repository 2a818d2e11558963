"""The boundary between exceptions and exit codes.

    0      done
    2      the user's input: one line on stderr, nothing written
    1      the machine's or our fault: one line, and the traceback in a log file
    130    interrupted: what is done is kept

With ARMILLARY_DEBUG=1 the traceback is shown as well.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import click

from armillary.errors import ArmillaryError, DiskFullError, InputError, OutOfMemoryError, unknown

DONE, FAULT, INTERRUPTED = 0, 1, 130
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PATH_AT_FAULT = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EROFS)
_NO_MEMORY = ("not enough memory", "out of memory", "alloc_cpu", "can't allocate memory", "cannot allocate memory")


def guarded(program: Callable[[], object], arguments: Sequence[str]) -> int:
    """Run `program` and turn whatever it raises into one line and an exit code."""
    try:
        program()
        sys.stdout.flush()
    except click.exceptions.Exit as end:
        return end.exit_code
    except BrokenPipeError:
        return _reader_left()
    except (KeyboardInterrupt, click.Abort) as error:
        return _answer("Interrupted", f"interrupted: {str(error) or 'nothing was written'}", INTERRUPTED, arguments)
    except Exception as error:
        return _fail(translated(error), error, arguments)
    return DONE


def translated(error: Exception) -> ArmillaryError | None:
    """The error of ours that says what happened; None where it is a fault nobody foresaw."""
    if isinstance(error, ArmillaryError):
        return error
    if isinstance(error, click.NoSuchOption):
        return unknown("option", error.option_name, _option_names(error.ctx))
    if isinstance(error, click.ClickException):
        return InputError(_sentence(error.format_message()))
    if isinstance(error, MemoryError) or _is_out_of_memory(error):
        detail = f" ({_one_line(str(error))[:200]})" if str(error) else ""
        return OutOfMemoryError(f"not enough memory{detail}; ask for smaller batches, fewer features or fewer tokens")
    if isinstance(error, OSError):
        return _of_system(error)
    return None


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _NO_MEMORY)


def _of_system(error: OSError) -> ArmillaryError | None:
    if error.errno in _FULL:
        where = error.filename or "the output"
        return DiskFullError(f"the disk is full: '{where}' could not be written; what was finished before is intact")
    if error.errno in _PATH_AT_FAULT:
        return InputError(f"'{error.filename}' cannot be used: {(error.strerror or str(error)).lower()}; name another path")
    return None


def _fail(known: ArmillaryError | None, error: Exception, arguments: Sequence[str]) -> int:
    if os.environ.get("ARMILLARY_DEBUG"):
        traceback.print_exception(error)
    if isinstance(known, InputError):
        return _answer(type(known).__name__, str(known), known.exit_code, arguments)
    log = _write_log(error, arguments)
    if known is not None:
        return _answer(type(known).__name__, f"{known} (log: {log})", known.exit_code, arguments)
    what = f"unexpected {type(error).__name__}: {error}. This is a fault of armillary; please report it with the log {log}"
    return _answer(type(error).__name__, what, FAULT, arguments)


def _answer(kind: str, message: str, exit_code: int, arguments: Sequence[str]) -> int:
    """One line on stderr; with --json also one object on stdout."""
    line = _one_line(message)
    try:
        if "--json" in arguments:
            print(json.dumps({"ok": False, "error": kind, "message": line, "exit_code": exit_code}), flush=True)
        print(line if exit_code == INTERRUPTED else f"error: {line}", file=sys.stderr, flush=True)
    except BrokenPipeError:
        _reader_left()
    return exit_code


def _write_log(error: Exception, arguments: Sequence[str]) -> str:
    """Write the traceback to a file of its own; its path, or why there is none."""
    header = f"armillary {' '.join(arguments)}\nPython {platform.python_version()} on {platform.platform()}\n\n"
    try:
        handle, path = tempfile.mkstemp(prefix="armillary-", suffix=".log", text=True)
        with os.fdopen(handle, "w", errors="replace") as file:
            file.write(header + "".join(traceback.format_exception(error)))
    except OSError as problem:
        return f"none, {problem.strerror}"
    return path


def _reader_left() -> int:
    """Whoever read our output has closed it (`| head`): that is no error. Later flushes go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return DONE


def _option_names(context: click.Context | None) -> list[str]:
    params: Sequence[Any] = context.command.get_params(context) if context is not None else ()
    return [name for param in params if isinstance(param, click.Option) for name in param.opts if name.startswith("--")]


def _sentence(message: str) -> str:
    """click's message in our manner: no capital, no full stop at the end."""
    text = _one_line(message).rstrip(".")
    return text[:1].lower() + text[1:]


def _one_line(message: str) -> str:
    return " ".join(message.split())
