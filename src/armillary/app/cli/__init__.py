"""The command `armillary`. Each command is a file of this folder; nothing heavy is imported before a command runs.

    harvest   text -> activations on disk             study    questions asked of fits
    fit       activations -> a decomposition          inspect  what one feature stands for
    convert   another tool's autoencoder, and back    verify   checksums of a folder
    agree     the same features by other seeds?       tree     features that share neurons
    plan      disk, memory and time before a run      demo     all of it, from a model and a text to one page
    draw      regions and tokens as pictures          replicate a paper's experiment on one's own model
    steer     what is written with a feature up or down      label    a few words for each feature
    compare   several fits and studies in one table

A command is a `click.Command` named `command` in a module of its own name.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from armillary import __version__
from armillary.app.cli.errors import guarded
from armillary.app.cli.options import Family

COMMANDS = (
    *("demo", "harvest", "fit", "study", "compare", "inspect", "label", "steer"),
    *("agree", "tree", "draw", "replicate", "convert", "plan", "verify"),
)


class Armillary(Family):
    """The commands, imported one by one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name.startswith("-"):
            return None
        module = importlib.import_module(f"armillary.app.cli.{self.find(cmd_name, COMMANDS)}")
        command: click.Command = module.command
        return command


def _show_version(ctx: click.Context, _: click.Parameter, is_asked: bool) -> None:
    if is_asked:
        click.echo(f"armillary {__version__}")
        ctx.exit()


program = Armillary(
    "armillary",
    subcommand_metavar="COMMAND ...",
    help="""Take a language model's activations apart and understand the parts.

    Begin with `armillary demo`. Every command shows its options with --help; every option can stand in a YAML file (--config).""",
    params=[click.Option(["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version.")],
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code (see `errors`). `arguments` are those of the process if None."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:
        _keep_libraries_quiet()
        _wait_asleep()

    def run() -> Any:
        with program.make_context("armillary", list(given)) as context:
            return program.invoke(context)

    with _terminated_as_interrupted():
        return guarded(run, given)


def _keep_libraries_quiet() -> None:
    """Other libraries' warnings would stand between a command's one line and its reader."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not sys.warnoptions and not os.environ.get("ARMILLARY_DEBUG"):
        import warnings

        from armillary.errors import ArmillaryWarning

        warnings.simplefilter("ignore")
        warnings.simplefilter("always", ArmillaryWarning)
        warnings.showwarning = _show_warning  # type: ignore[assignment]  # it takes six arguments, of which one is of use


def _show_warning(message: Warning | str, *_: Any) -> None:
    """Ours in one line, as errors are."""
    from armillary.app.cli.screen import is_first_rank

    if is_first_rank():
        print(f"note: {message}", file=sys.stderr, flush=True)


def _wait_asleep() -> None:
    """Let torch's threads sleep while they wait for each other, which has to be said before torch is loaded.

    They spin by default, and when another program has one of the cores, whoever spins takes the time the other thread needs: fitting a
    sparse autoencoder on two shared cores took 29 s instead of 2.7.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does: what is done is kept, and the exit code is 130."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread, which alone may do this
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
