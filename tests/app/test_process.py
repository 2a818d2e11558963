"""The command as a process: how fast and how light its help is, closed pipes, interruption, too little memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from armillary.core import artifact
from armillary.core.progress import Bar

Run = Any
HEAVY = {"torch", "transformers", "numpy", "scipy", "sklearn", "pydantic", "plotly", "rich", "yaml", "fsspec", "safetensors"}
#: Prints what `--help` imported, as the last line.
PROBE = (
    "import sys; from armillary.app.cli import main; code = main(['--help']); print(code, *sorted({m.split('.')[0] for m in sys.modules}))"
)


def python(*arguments: object, **settings: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False, **settings)


def test_help_imports_nothing_heavy() -> None:
    done = python("-c", PROBE)
    assert done.returncode == 0, done.stderr
    modules = set(done.stdout.splitlines()[-1].split())
    assert modules & HEAVY == set()


def test_help_names_every_command() -> None:
    text = python("-m", "armillary", "--help").stdout
    assert [name for name in ("demo", "harvest", "fit", "study", "inspect", "plan", "verify") if f"  {name} " not in text] == []
    assert python("-m", "armillary").stdout == text


def test_the_version() -> None:
    from armillary import __version__

    assert python("-m", "armillary", "--version").stdout == f"armillary {__version__}\n"


@pytest.mark.parametrize(("given", "found"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_sleep_while_they_wait_unless_someone_says_otherwise(given: dict[str, str], found: str) -> None:
    code = "import os, sys; from armillary.app.cli import main; sys.argv[1:] = ['--version']; main(); print(os.environ['OMP_WAIT_POLICY'])"
    clean = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    assert python("-c", code, env={**clean, **given}).stdout.splitlines()[-1] == found


def test_a_reader_that_leaves_is_no_error() -> None:
    process = subprocess.Popen([sys.executable, "-m", "armillary", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.wait(timeout=120) == 0
    assert process.stderr.read() == b""
    process.stderr.close()


def test_one_line_on_stderr_and_no_warning_of_other_libraries() -> None:
    done = python("-m", "armillary", "inspect", "no/such/fit")
    assert done.returncode == 2
    assert done.stdout == "" and done.stderr.count("\n") == 1 and done.stderr.startswith("error: no artifact at 'no/such/fit'")


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_fit_goes_on_to_the_same_bits(
    kind: signal.Signals, run: Run, acts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [
        "fit",
        "topk-sae",
        acts,
        "--site",
        "resid_post.1",
        "--n-features",
        16,
        "--k",
        2,
        "--n-steps",
        40,
        "--batch-size",
        256,
        "--out",
    ]
    steps = 0

    def signalled(bar: Bar, n: float = 1, note: str = "") -> None:
        nonlocal steps
        steps += 1
        if steps == 17:
            signal.raise_signal(kind)

    with monkeypatch.context() as patch:
        patch.setattr(Bar, "advance", signalled)
        stopped = run(*command, tmp_path / "a")
    assert (stopped.code, stopped.out) == (130, "")
    assert stopped.err.endswith("interrupted: what is done is kept; the same command goes on from there\n")
    assert len(list(tmp_path.glob(".a.*.checkpoint"))) == 1
    assert not (tmp_path / "a").exists()
    assert run(*command, tmp_path / "a").code == run(*command, tmp_path / "b").code == 0
    resumed, straight = artifact.load(tmp_path / "a"), artifact.load(tmp_path / "b")
    assert torch.equal(resumed.dictionary.atoms, straight.dictionary.atoms)
    assert list(tmp_path.glob(".a.*")) == []


def test_too_little_memory_is_one_line_and_exit_code_1(run: Run, acts: Path, tmp_path: Path) -> None:
    answer = run(
        "fit", "topk-sae", acts, "--site", "resid_post.1", "--out", tmp_path / "fit", "--n-features", 10**12, "--k", 1, "--n-steps", 1
    )
    assert answer.code == 1
    assert answer.err.splitlines()[-1].startswith("error: not enough memory") and "log: " in answer.err
    assert not (tmp_path / "fit").exists()
