"""armillary convert PATH --out FOLDER: an autoencoder from one tool's files to another's."""

from __future__ import annotations

from pathlib import Path

import click

from armillary.app.cli.options import Command, typed
from armillary.app.cli.screen import Screen
from armillary.errors import InputError


@click.command("convert", cls=Command, short_help="An autoencoder from one tool's files to another's.")
@click.argument("path")
@click.option("--out", required=True, help="Folder to write; it must not exist or be empty.")
@click.option("--to", "to", default="armillary", show_default=True, help="armillary, saelens, dictionary_learning or sparsify.")
@click.option("--from", "source", default=None, help="The tool that wrote PATH; by default found out.")
@click.option("--hint", "hints", multiple=True, metavar="NAME=VALUE", help="What PATH does not say, such as layer=3 or k=50.")
def command(screen: Screen, path: str, *, out: str, to: str, source: str | None, hints: tuple[str, ...]) -> None:
    """Read the autoencoder at PATH and write it for another tool.

    PATH is a folder or file of SAELens, dictionary_learning, sparsify, Gemma Scope, Llama Scope, circuit-tracer, OpenAI, Goodfire, Qwen
    Scope or armillary, or hf://owner/repository/folder, which is fetched from the Hub.
    """
    from armillary.core import artifact
    from armillary.methods import formats

    artifact.refuse_existing(Path(out))
    is_ours = source == "armillary" or (source is None and (Path(path) / artifact.MANIFEST).is_file())
    if is_ours and hints:
        raise InputError(f"'{path}' is a folder of armillary's, which says everything itself; leave out --hint {hints[0]}")
    fit = artifact.load(path) if is_ours else formats.load(path, source, hints=_parsed(hints))
    if to == "armillary":
        fit.save(out)
    else:
        formats.save(fit, out, to)
    screen.answer({"out": out, "to": to, "n_features": fit.n_features, "provenance": dict(fit.provenance)}, f"{fit!r}\n{out}")


def _parsed(hints: tuple[str, ...]) -> dict[str, object]:
    """NAME=VALUE as keyword arguments.

    Raises:
        InputError: one has no "=".
    """
    pairs = [hint.partition("=") for hint in hints]
    wrong = next((hint for hint, (_, equals, _) in zip(hints, pairs, strict=True) if not equals), None)
    if wrong is not None:
        raise InputError(f"--hint {wrong!r} is not NAME=VALUE, such as layer=3")
    return {name: typed(value) for name, _, value in pairs}
