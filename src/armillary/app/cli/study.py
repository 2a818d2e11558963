"""armillary study NAME FITS...: questions asked of fits. The options of a study are made from its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from armillary import studies
from armillary.app.cli.options import Command, Family, given, of_config
from armillary.app.cli.screen import Screen
from armillary.app.cli.summaries import first_sentence, help_text
from armillary.errors import InputError

#: Endings of a report's file.
REPORTS = (".html", ".json", ".md")


class Studies(Family):
    """One command per study of `armillary.studies.STUDIES`."""

    what = "study"

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(studies.STUDIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name.startswith("-"):
            return None
        name = self.find(cmd_name, studies.STUDIES)
        return _command(name, studies.load(name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of studies, without importing one."""
        with formatter.section("Studies"):
            formatter.write_dl([(name, first_sentence(studies.STUDIES[name])) for name in self.list_commands(ctx)])


command = Studies(
    "study",
    short_help="Ask a question of one or several fits.",
    help="Ask the question NAME of the fits in FITS. `armillary study NAME --help` lists a study's own options.",
    subcommand_metavar="NAME FITS... [OPTIONS]",
)


def _command(name: str, study: Any) -> click.Command:
    params: list[click.Parameter] = [
        click.Argument(["fits"], nargs=-1, required=True),
        click.Option(["--acts"], help="Activations to measure on.  [default: the store the fit was made from, there what was held out]"),
        click.Option(["--model"], help="Model to run.  [default: the one the fit was made from]"),
        click.Option(["--out"], help="Report to write: .html, .json or .md. It must not exist."),
    ]

    @click.pass_context
    def run(ctx: click.Context, /, **options: Any) -> None:
        config = study.Config(**given(ctx, study.Config.model_fields))
        _run(study, config, **{key: options[key] for key in options if key not in study.Config.model_fields})

    return Command(name, params=[*params, *of_config(study.Config)], callback=run, help=help_text(study.__doc__))


def _run(study: Any, config: Any, *, screen: Screen, fits: tuple[str, ...], acts: str | None, model: str | None, out: str | None) -> None:
    from armillary.app.subjects import subjects

    if out is not None:
        _check_target(Path(out))
    given_to = subjects(fits, study.needs, study.accepts, acts=acts, model=model, remark=screen.remark)
    report = study.run(given_to, config=config)
    if out is not None:
        report.save(out)
    screen.answer({"out": out, "report": report.to_json()}, report, *([out] if out else []))


def _check_target(path: Path) -> None:
    """Refuse what `Report.save` would refuse, before the work is done."""
    from armillary.core.artifact import refuse_existing

    if path.suffix not in REPORTS:
        raise InputError(f"a report is written as {', '.join(REPORTS)}, got '{path.name}'; try '{path.with_suffix('.html').name}'")
    refuse_existing(path)
