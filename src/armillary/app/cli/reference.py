"""docs/reference/cli.md, made from the commands themselves: `python -m armillary.app.cli.reference > docs/reference/cli.md`."""

from __future__ import annotations

from collections.abc import Iterator

import click

from armillary.app.cli import program
from armillary.app.cli.options import Family

HEADER = """# The command line

Made by `python -m armillary.app.cli.reference > docs/reference/cli.md`; a test keeps it current. `python -m armillary` is the same command.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | the machine's fault or ours: one line, and the path of a log with the traceback |
| 2 | your input: one line that names the value and the nearest fix; nothing is written |
| 130 | interrupted: what is done is kept |

Results go to stdout; remarks, progress and errors to stderr. With `--json` stdout holds one JSON object, also when a command fails
(`{"ok": false, "error": ..., "message": ..., "exit_code": ...}`). With `--config FILE` options are read from a YAML file whose keys are
the options' names (`n-features: 400`; lists for options that take several values); what is typed wins.
`ARMILLARY_DEBUG=1` shows tracebacks.
"""


def markdown() -> str:
    """The whole page."""
    return "\n".join([HEADER, *_sections(program, click.Context(program, info_name="armillary", terminal_width=100))])


def _sections(command: click.Command, ctx: click.Context) -> Iterator[str]:
    yield f"{'#' * (ctx.command_path.count(' ') + 2)} {ctx.command_path}\n\n```text\n{command.get_help(ctx)}\n```\n"
    if isinstance(command, Family):
        for name in command.list_commands(ctx):
            inner = command.get_command(ctx, name)
            assert inner is not None
            yield from _sections(inner, click.Context(inner, info_name=name, parent=ctx, terminal_width=100))


if __name__ == "__main__":
    print(markdown(), end="")
