"""armillary replicate PAPER: a paper's experiment on a model of one's own. The options are made from its settings."""

from __future__ import annotations

from typing import Any

import click

from armillary.app import replications
from armillary.app.cli.options import Command, Family, given, of_config
from armillary.app.cli.screen import Screen
from armillary.app.cli.summaries import first_sentence, help_text


class Papers(Family):
    """One command per entry of `armillary.app.replications.REPLICATIONS`."""

    what = "replication"

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(replications.REPLICATIONS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name.startswith("-"):
            return None
        return _command(replications.load(self.find(cmd_name, replications.REPLICATIONS)), cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of papers, without importing one."""
        with formatter.section("Papers"):
            formatter.write_dl([(name, first_sentence(replications.REPLICATIONS[name])) for name in self.list_commands(ctx)])


command = Papers(
    "replicate",
    short_help="A paper's experiment on a model of one's own.",
    help="Repeat an experiment of PAPER. `armillary replicate PAPER --help` lists its options.",
    subcommand_metavar="PAPER [OPTIONS]",
)


def _command(module: Any, name: str) -> click.Command:
    @click.pass_context
    def run(ctx: click.Context, /, screen: Screen, **_: Any) -> None:
        result = module.run(module.Settings(**given(ctx, module.Settings.model_fields)), say=screen.remark)
        screen.answer(result.facts, *result.shown, str(result.report))

    return Command(name, params=of_config(module.Settings), callback=run, help=help_text(module.__doc__))
