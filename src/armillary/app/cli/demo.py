"""armillary demo: from a model and a text to one page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from armillary.app.cli.harvest import SITE_HELP, TEXT_HELP
from armillary.app.cli.options import Command, Several, given
from armillary.app.cli.screen import Screen

if TYPE_CHECKING:
    from armillary.app.demo import Result


@click.command("demo", cls=Command, short_help="From a model and a text to one page: harvest, fit, measure, look.")
@click.option("--model", help="A name on the Hugging Face hub, a folder, arm-small or arm-tiny.  [default: arm-small]")
@click.option("--text", cls=Several, help=f"{TEXT_HELP}  [default: the standard library and a small world of facts]")
@click.option("--out", help="Run folder; an unfinished run of the same settings goes on.  [default: a new runs/demo-<n>]")
@click.option("--site", cls=Several, help=f"{SITE_HELP}  [default: resid_post and mlp_act of the middle layer]")
@click.option("--tokens", "--n-tokens", "tokens", type=int, help="Tokens to read.  [default: 100,000, fewer for large models]")
@click.option("--seed", type=int, help="Same seed, same bits.  [default: 0]")
@click.option("--on-error", help="Texts that are empty or not UTF-8: stop, skip or replace.  [default: stop]")
@click.option("--text-field", help="Field of .jsonl and .parquet that holds the text.  [default: text]")
@click.pass_context
def command(ctx: click.Context, /, screen: Screen, **_: Any) -> None:
    """Harvest two sites of a model, fit PCA, k-means and a TopK SAE at each, measure how faithful they are, and write one page that shows
    it and a few features. The last line of stdout is the page's path."""
    from armillary.app import demo

    result = demo.run(demo.Settings(**given(ctx, demo.Settings.model_fields)), say=screen.remark)
    estimates = {site: {name: value.to_json() for name, value in report.estimates.items()} for site, report in result.reports.items()}
    facts = {"report": str(result.report), "out": str(result.folder), "seconds": result.seconds, "warnings": list(result.warnings)}
    notes = [f"note: {warning}" for warning in result.warnings]
    done = f"done in {result.seconds:.1f} seconds (installation not counted)"
    screen.answer(facts | {"estimates": estimates}, _summary(result), *notes, done, str(result.report))


def _summary(result: Result) -> Any:
    """What was found, a line per fit."""
    from rich.table import Table

    from armillary.app.report_page import MEASURES
    from armillary.core.report import number

    table = Table("site", "method", *MEASURES, box=None, pad_edge=False)
    for site, report in result.reports.items():
        for method in report.tables["subjects"]["subject"]:
            values = [report.estimates[f"{method}: {name}"].value for name, _ in MEASURES.values()]
            table.add_row(site, str(method), *map(number, values))
    return table
