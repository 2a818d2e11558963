"""The boundary: what every exception becomes, on stderr, as JSON and as an exit code."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path
from typing import Any

import click
import pytest
import torch

from armillary import errors
from armillary.app.cli.errors import guarded


def raising(error: BaseException) -> Any:
    def program() -> None:
        raise error

    return program


@pytest.mark.parametrize(
    "kind",
    [
        errors.InputError, errors.UnknownNameError, errors.ShapeError, errors.TooFewRowsError, errors.NonFiniteError, errors.TextError,
        errors.CapabilityError, errors.MissingExtraError, errors.OutputExistsError, errors.MismatchError,
    ],
)  # fmt: skip
def test_the_users_input_is_one_line_and_exit_code_2(kind: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(raising(kind("k is 900,\n at most 512")), []) == 2
    seen = capsys.readouterr()
    assert seen.err == "error: k is 900, at most 512\n"
    assert seen.out == ""


@pytest.mark.parametrize("kind", [errors.CorruptFileError, errors.DiskFullError, errors.OutOfMemoryError])
def test_the_machines_fault_names_the_log_and_is_exit_code_1(kind: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(raising(kind("shard 3 is damaged")), ["verify", "x"]) == 1
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    match = re.fullmatch(r"error: shard 3 is damaged \(log: (.+)\)\n", line)
    assert match
    log = Path(match[1]).read_text()
    assert "armillary verify x" in log and "Traceback" in log


def test_an_unforeseen_error_is_ours_and_has_its_traceback_in_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(raising(ZeroDivisionError("division by zero")), []) == 1
    line = capsys.readouterr().err
    assert line.startswith("error: unexpected ZeroDivisionError: division by zero") and line.count("\n") == 1
    assert "ZeroDivisionError" in Path(line.split()[-1]).read_text()


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARMILLARY_DEBUG", "1")
    assert guarded(raising(errors.InputError("no")), []) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: not enough memory: you tried to allocate 8000000 bytes."),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_too_little_memory(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(raising(error), []) == 1
    assert capsys.readouterr().err.startswith("error: not enough memory")


def test_a_full_disk_that_nobody_translated(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(raising(OSError(errno.ENOSPC, "No space left on device", "runs/x")), []) == 1
    assert "the disk is full: 'runs/x'" in capsys.readouterr().err


def test_a_path_that_may_not_be_written_is_the_users(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(raising(PermissionError(errno.EACCES, "Permission denied", "/x/y")), []) == 2
    assert capsys.readouterr().err == "error: '/x/y' cannot be used: permission denied; name another path\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_interrupted(error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(raising(error), []) == 130
    assert capsys.readouterr().err == "interrupted: nothing was written\n"


def test_interrupted_with_a_hint_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(raising(KeyboardInterrupt("go on with --out runs/x")), []) == 130
    assert capsys.readouterr().err == "interrupted: go on with --out runs/x\n"


def test_json_has_one_object_on_stdout_for_errors_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(raising(errors.TextError("text is empty")), ["harvest", "--json"]) == 2
    seen = capsys.readouterr()
    assert json.loads(seen.out) == {"ok": False, "error": "TextError", "message": "text is empty", "exit_code": 2}
    assert seen.err == "error: text is empty\n"


def test_clicks_own_messages_read_like_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(raising(click.UsageError("Missing argument 'MODEL'.")), []) == 2
    assert capsys.readouterr().err == "error: missing argument 'MODEL'\n"


def test_success_and_help_are_0() -> None:
    assert guarded(lambda: None, []) == 0
    assert guarded(raising(click.exceptions.Exit(0)), []) == 0
