"""armillary compare FIT FIT...: studies of several fits in one table, with what can be told apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from armillary.app.cli.options import Command, Several
from armillary.app.cli.screen import Screen

if TYPE_CHECKING:
    from armillary.app.comparing.run import Asked
    from armillary.core.study import Subject

#: Tasks of the localization study where none are named.
TASKS = ("recall", "mcqa", "city")


@click.command("compare", cls=Command, resumes=True, short_help="Studies of several fits in one table, with what can be told apart.")
@click.argument("fits", nargs=-1, required=True)
@click.option("--study", cls=Several, help="Studies to ask.  [default: all of a comparison's]")
@click.option("--task", cls=Several, help=f"Tasks of the localization study: names, files or folders.  [default: {' '.join(TASKS)}]")
@click.option(
    "--budget", type=click.Choice(["small", "full"]), default="small", show_default=True, help="How much of everything is measured."
)
@click.option("--acts", help="Activations to measure on.  [default: the store the fits were made from, there what was held out]")
@click.option("--model", help="Model to run.  [default: the one the fits were made from]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of all studies.")
@click.option("--plan", "only_plan", is_flag=True, help="Say what it will take, and stop.")
@click.option("--out", help="Folder of the table and of what was measured; a run that was stopped goes on there.")
def command(screen: Screen, fits: tuple[str, ...], *, out: str | None, only_plan: bool, **asked: Any) -> None:
    """Ask the same studies of all FITS, on the same activations, and put every number beside the others: with its interval, grey where
    it cannot be told from chance or from the next method. FITS that differ in their seed alone count as one method."""
    from armillary.app.comparing import plans
    from armillary.app.comparing.files import refuse_another, save
    from armillary.app.comparing.run import compare, record_of
    from armillary.errors import InputError

    if out is None and not only_plan:
        raise InputError("a comparison keeps what it measures: name a folder with --out, or ask for --plan alone")
    studies, subjects = _asked(screen, fits, **asked)
    expected = plans.lines(plans.costs(studies, subjects), plans.speed_of(subjects))
    if only_plan:
        screen.answer({"plan": expected}, *expected)
        return
    folder = Path(str(out))
    refuse_another(record_of(studies, subjects), folder)
    for line in expected:
        screen.remark(line)
    found = compare(studies, subjects, folder=folder / "measured", title=f"{len(subjects)} fits compared", say=screen.remark)
    pages = save(found, folder)
    screen.answer({"out": str(folder), "comparison": found.to_json()}, found, str(pages[0]))


def _asked(
    screen: Screen,
    fits: Sequence[str],
    *,
    study: Sequence[str],
    task: Sequence[str],
    budget: Any,
    acts: str | None,
    model: str | None,
    seed: int,
) -> tuple[list[Asked], list[Subject]]:
    """The studies and the fits with what these need."""
    from armillary import studies
    from armillary.app.comparing import plans
    from armillary.app.subjects import subjects
    from armillary.app.tasks import load_task

    names = study or tuple(plans.SHOWN)
    needs = {need for name in names for need in studies.load(name).needs}
    accepts = {need for name in names for need in studies.load(name).accepts} - needs
    tasks = [load_task(name, seed) for name in task or TASKS] if "localization" in names else []
    found = subjects(fits, needs, accepts, acts=acts, model=model, remark=screen.remark)
    return plans.plan(names, tasks, budget, seed=seed), found
