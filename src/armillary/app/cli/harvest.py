"""armillary harvest MODEL --site ... --text ... --out ...: activations of a text on disk."""

from __future__ import annotations

from typing import Any

import click

from armillary.app.cli.models import model_options, opened
from armillary.app.cli.options import Command, Several
from armillary.app.cli.screen import Screen

SITE_HELP = "Place in the model: kind.layer such as mlp_act.6 or resid_post.-1, other tools' names, or path:MODULE. Several may be given."
TEXT_HELP = "Files (.txt, .jsonl, .parquet, .gz, .zst), folders, URLs, datasets:NAME, or - for stdin."


@click.command("harvest", cls=Command, resumes=True, short_help="Run text through a model and keep activations.")
@click.argument("model")
@click.option("--site", cls=Several, required=True, help=SITE_HELP)
@click.option("--text", cls=Several, required=True, help=TEXT_HELP)
@click.option("--out", required=True, help="Folder to write; an interrupted harvest of the same settings goes on.")
@click.option("--tokens", "--n-tokens", "n_tokens", type=int, help="Stop after so many rows.  [default: all text]")
@click.option("--dtype", default="bf16", show_default=True, help="Precision of the stored rows: bf16, fp32, fp16 or int8.")
@click.option("--context", type=int, help="Tokens of a window at most.  [default: the model's, at most 512]")
@click.option("--stride", type=int, help="Tokens between the windows of a long document.  [default: no overlap]")
@click.option(
    "--exclude-special/--include-special", default=True, help="Whether to leave out tokens the tokenizer added.  [default: leave out]"
)
@click.option("--exclude-first", type=int, default=0, show_default=True, help="Leave out the first so many positions of a window.")
@click.option("--batch-tokens", type=int, default=4096, show_default=True, help="Tokens of one forward pass.")
@click.option("--shard-rows", type=int, help="Rows of a shard; an interruption loses one at most.  [default: about 31 MiB]")
@click.option("--on-error", default="stop", show_default=True, help="Texts that are empty or not UTF-8: stop, skip or replace.")
@click.option("--text-field", default="text", show_default=True, help="Field of .jsonl and .parquet that holds the text.")
@click.option("--resume/--no-resume", default=True, help="Whether to go on with an interrupted harvest.  [default: resume]")
@model_options
def command(screen: Screen, model: str, site: tuple[str, ...], text: tuple[str, ...], out: str, **settings: Any) -> None:
    """Run the text through MODEL (a name on the Hugging Face hub, a folder, arm-small or arm-tiny) and keep activations."""
    from armillary.core.texts import TextFiles
    from armillary.lm.harvest import harvest

    lm = opened(model, settings)
    files = TextFiles(text, on_error=settings["on_error"], text_field=settings.pop("text_field"))
    store = harvest(lm, files, list(site), out=out, **settings)
    for name, count in files.errors.counts().items():
        if count:
            screen.remark(f"note: {count:,} texts {name}; the first: {files.errors.first}")
    facts = {"out": out, "n_rows": store.n_rows, "sites": list(map(str, store.sites)), "skipped": store.manifest.skipped}
    screen.answer(facts | {"model": store.manifest.model.model_dump(), "policy": store.manifest.policy}, store, out)
