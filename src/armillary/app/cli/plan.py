"""armillary plan MODEL --site ... --tokens N: what a harvest will take."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from armillary.app.cli.harvest import SITE_HELP
from armillary.app.cli.models import model_options, opened
from armillary.app.cli.options import Command, Several
from armillary.app.cli.screen import Screen


@click.command("plan", cls=Command, short_help="Disk, memory and time of a harvest, before it is started.")
@click.argument("model")
@click.option("--site", cls=Several, required=True, help=SITE_HELP)
@click.option("--tokens", "--n-tokens", "n_tokens", type=int, required=True, help="Rows the harvest will have.")
@click.option("--dtype", default="bf16", show_default=True, help="Precision of the stored rows: bf16, fp32, fp16 or int8.")
@click.option("--context", type=int, help="Tokens of a window at most.  [default: the model's, at most 512]")
@click.option("--stride", type=int, help="Tokens between the windows of a long document.  [default: no overlap]")
@click.option("--shard-rows", type=int, help="Rows of a shard.  [default: about 31 MiB]")
@click.option("--batch-tokens", type=int, default=4096, show_default=True, help="Tokens of one forward pass.")
@click.option("--out", default=".", show_default=True, help="Where the harvest will be written.")
@model_options
def command(screen: Screen, model: str, site: tuple[str, ...], **settings: Any) -> None:
    """Measure MODEL for a second and say what a harvest of so many tokens will take."""
    from armillary.lm.plan import plan

    lm = opened(model, settings)
    found = plan(lm, list(site), **settings)
    screen.answer(asdict(found) | {"fits": found.fits, "shortages": found.shortages}, found)
