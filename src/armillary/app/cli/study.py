"""armillary study NAME FITS...: questions asked of fits. The options of a study are made from its settings."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from armillary import studies
from armillary.app.cli import judging
from armillary.app.cli.options import Command, Registry, given, of_config
from armillary.app.cli.screen import Screen
from armillary.app.cli.summaries import help_text

if TYPE_CHECKING:
    from armillary.core.study import Subject

command = Registry(
    "study",
    "study",
    studies.STUDIES,
    lambda name: _command(name, studies.load(name)),
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
    if "task" in study.needs:
        params.append(click.Option(["--task"], required=True, help="Prompts and pairs: a task's name, or a file or folder that holds one."))
    takes = inspect.signature(study.run).parameters
    if "judge" in takes:
        params += judging.options()
    if "encoder" in takes:
        params.append(click.Option(["--encoder"], help="Model that embeds texts, best one made for sentences: a name or a folder."))
    named = {param.name for param in params}

    @click.pass_context
    def run(ctx: click.Context, /, **options: Any) -> None:
        config = study.Config(**given(ctx, study.Config.model_fields))
        _run(study, config, **{key: options[key] for key in options if key in {*named, "screen"}})

    settings = [param for param in of_config(study.Config) if param.name not in named]
    return Command(name, params=[*params, *settings], callback=run, help=help_text(study.__doc__))


def _run(
    study: Any,
    config: Any,
    *,
    screen: Screen,
    fits: tuple[str, ...],
    acts: str | None,
    model: str | None,
    out: str | None,
    task: str | None = None,
    encoder: str | None = None,
    **judge: Any,
) -> None:
    from armillary.app.subjects import subjects
    from armillary.core.artifact import new_file
    from armillary.core.report import writers

    if out is not None:
        new_file(out, "a report", writers())
    given_to = subjects(fits, study.needs, study.accepts, acts=acts, model=model, remark=screen.remark)
    if task is not None:
        from armillary.app.tasks import load_task

        loaded = load_task(task, config.seed)
        given_to = [replace(subject, task=loaded) for subject in given_to]
    with _others(screen, fits[0], given_to[0], encoder, judge) as others:
        report = study.run(given_to, config=config, **others)
    if out is not None:
        report.save(out)
    screen.answer({"out": out, "report": report.to_json()}, report, *([out] if out else []))


@contextmanager
def _others(screen: Screen, fit: str, subject: Subject, encoder: str | None, told: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The judge and the encoder of a study that takes them; in the end it is said what the judge did."""
    found: dict[str, Any] = {}
    if encoder is not None:
        from armillary.app.subjects import model_name
        from armillary.lm.model import LanguageModel

        found["encoder"] = LanguageModel(model_name(encoder))
    judge = judging.opened(told, fit, lambda: subject.require_model(logits=True)) if told else None
    if judge is None:
        yield found
        return
    try:
        yield {**found, "judge": judge}
    except KeyboardInterrupt:
        kept = judging.kept_in(told, fit)
        raise KeyboardInterrupt(f"the judge's answers so far are kept in '{kept}'; nothing else was written") from None
    screen.remark(f"{judge.name}: {judge.tally.describe()}")
