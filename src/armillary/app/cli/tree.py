"""armillary tree FIT: which features share neurons, and how they are put together to fewer and fewer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from armillary.app.cli.options import Command, Several
from armillary.app.cli.screen import Screen

if TYPE_CHECKING:
    from armillary.core.decomposition import Decomposition
    from armillary.core.tree import FeatureTree


@click.command("tree", cls=Command, short_help="A tree of features that share neurons, or a hierarchy of them.")
@click.argument("fit")
@click.option("--out", cls=Several, help="Files to write: .html, .json, .graphml or .nwk. They must not exist.")
@click.option("--within", type=click.FloatRange(0, 1, min_open=True), default=0.95, show_default=True, help="Distance up to which to join.")
@click.option("--levels", cls=Several, type=int, help="Sizes of the levels of a hierarchy, such as 200 100 50, in place of the tree.")
@click.option("--acts", help="Activations the hierarchy explains.  [default: those the fit was made from]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of each level's beginning.")
def command(screen: Screen, fit: str, *, out: tuple[str, ...], within: float, levels: tuple[int, ...], acts: str | None, seed: int) -> None:
    """Join the features of FIT that share neurons, from the bottom up; with --levels, factorise them to fewer and fewer."""
    from armillary.core import artifact
    from armillary.core.tree import by_overlap
    from armillary.core.tree_files import as_json, writers

    for path in out:
        artifact.new_file(path, "a tree", writers())
    loaded = artifact.load(fit)
    tree = _hierarchy(Path(fit), loaded, levels, acts, seed) if levels else by_overlap(loaded.dictionary, within=within)
    for path in out:
        tree.save(path)
    screen.answer({"out": list(out), "statistics": tree.statistics(), "tree": as_json(tree)}, tree, *out)


def _hierarchy(path: Path, fit: Decomposition, levels: tuple[int, ...], acts: str | None, seed: int) -> FeatureTree:
    from armillary.app import subjects
    from armillary.methods.snmf.hierarchy import hierarchy

    rows = subjects.own_rows(subjects.open_store(path, fit, acts), fit)
    return hierarchy(fit, rows, levels, seed=seed)
