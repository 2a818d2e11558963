"""armillary agree FIT FIT...: do fits of the same rows, such as those of several seeds, find the same features?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from armillary.app.cli.options import Command
from armillary.app.cli.screen import Screen

if TYPE_CHECKING:
    from armillary.core.decomposition import Decomposition
    from armillary.core.report import Report


@click.command("agree", cls=Command, short_help="Whether fits, such as those of several seeds, find the same features.")
@click.argument("fits", nargs=-1, required=True)
@click.option("--acts", help="Activations to compare regions on.  [default: the store the fits were made from, there what was held out]")
@click.option("--out", help="Report to write: .html, .json or .md. It must not exist.")
def command(screen: Screen, fits: tuple[str, ...], acts: str | None, out: str | None) -> None:
    """Match the features of the first of FITS one to one with those of each other, and count which are found by all.

    Fits with regions are also compared by how they cut the rows up, and by the subspaces of their regions.
    """
    from armillary.core import artifact
    from armillary.core.report import writers
    from armillary.core.selection import agreement
    from armillary.inspect.agreement import has_regions

    if out is not None:
        artifact.new_file(out, "a report", writers())
    loaded = [artifact.load(path) for path in fits]
    report = agreement(loaded, title=f"{fits[0]} and {', '.join(fits[1:])}").report
    if len(set(fits)) > 1 and all(has_regions(fit) for fit in loaded):
        report = _with_regions(report, dict(zip(fits, loaded, strict=True)), acts, screen)
    if out is not None:
        report.save(out)
    screen.answer({"out": out, "report": report.to_json()}, report, *([out] if out else []))


def _with_regions(report: Report, fits: Mapping[str, Decomposition], acts: str | None, screen: Screen) -> Report:
    """The report with what the regions of the first fit and of each other have in common, where their rows can be had."""
    from dataclasses import replace

    from armillary.app.subjects import subjects
    from armillary.errors import InputError
    from armillary.inspect.agreement import overview, region_agreement

    try:
        rows = subjects(list(fits)[:1], {"rows"}, acts=acts)[0].require_rows()
    except InputError as error:
        if acts is not None:
            raise
        screen.remark(f"note: regions are not compared by their rows, because {error}")
        return report
    (name, first), *others = fits.items()
    pairs = [(name, theirs, region_agreement(first, other, rows)) for theirs, other in others]
    notes = dict.fromkeys(note for _, _, one in pairs for note in one.notes)
    tables = {"agreement": overview(pairs), **report.tables}
    if len(pairs) > 1:
        return replace(report, tables=tables, notes=[*report.notes, *notes])
    only = pairs[0][2]
    estimates, tables = {**report.estimates, **only.estimates}, {**tables, **only.tables}
    return replace(report, estimates=estimates, tables=tables, notes=[*report.notes, *notes])
