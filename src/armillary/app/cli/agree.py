"""armillary agree FIT FIT...: do fits of the same rows, such as those of several seeds, find the same features?"""

from __future__ import annotations

import click

from armillary.app.cli.options import Command
from armillary.app.cli.screen import Screen


@click.command("agree", cls=Command, short_help="Whether fits, such as those of several seeds, find the same features.")
@click.argument("fits", nargs=-1, required=True)
@click.option("--out", help="Report to write: .html, .json or .md. It must not exist.")
def command(screen: Screen, fits: tuple[str, ...], out: str | None) -> None:
    """Match the features of the first of FITS one to one with those of each other, and count which are found by all."""
    from armillary.core import artifact
    from armillary.core.report import writers
    from armillary.core.selection import agreement

    if out is not None:
        artifact.new_file(out, "a report", writers())
    report = agreement([artifact.load(path) for path in fits], title=f"{fits[0]} and {', '.join(fits[1:])}").report
    if out is not None:
        report.save(out)
    screen.answer({"out": out, "report": report.to_json()}, report, *([out] if out else []))
