"""armillary replicate PAPER: a paper's experiment on a model of one's own. The options are made from its settings."""

from __future__ import annotations

from typing import Any

import click

from armillary.app import replications
from armillary.app.cli.options import Command, Registry, given, of_config
from armillary.app.cli.screen import Screen
from armillary.app.cli.summaries import help_text

command = Registry(
    "replicate",
    "replication",
    replications.REPLICATIONS,
    lambda name: _command(replications.load(name), name),
    short_help="A paper's experiment on a model of one's own.",
    help="Repeat an experiment of PAPER. `armillary replicate PAPER --help` lists its options.",
    subcommand_metavar="PAPER [OPTIONS]",
)


def _command(module: Any, name: str) -> click.Command:
    @click.pass_context
    def run(ctx: click.Context, /, screen: Screen, **_: Any) -> None:
        result = module.run(module.Settings(**given(ctx, module.Settings.model_fields)), say=screen.remark)
        screen.answer(result.facts, *result.shown, str(result.report))

    told = {"params": of_config(module.Settings), "callback": run, "help": help_text(module.__doc__)}
    return Command(name, resumes=name in replications.RESUMED, **told)
