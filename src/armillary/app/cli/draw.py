"""armillary draw map|region|token: pictures of a mixture's regions, and of how fits take a token apart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from armillary.app.cli.options import Command, Family, Several
from armillary.app.cli.screen import Screen

if TYPE_CHECKING:
    from torch import Tensor

    from armillary.core.activations import StoredRows
    from armillary.core.decomposition import Decomposition
    from armillary.core.html import Content
    from armillary.core.tokens import Tokens

OUT = "Files to write: .html or .json. They must not exist."
ACTS = "Activations to look in.  [default: those the fit was made from]"
#: Tokens shown around a token: before and after.
WINDOW = (24, 8)


class Pictures(Family):
    """The kinds of picture."""

    what = "picture"

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return None if cmd_name.startswith("-") else super().get_command(ctx, self.find(cmd_name, self.commands))


command = Pictures(
    "draw",
    short_help="Regions of a mixture, or a token taken apart, as a picture.",
    help="Draw the regions of a mixture (map), the tokens of one of them (region), or what fits add up a token from (token).",
    subcommand_metavar="PICTURE FIT... [OPTIONS]",
)


@command.command("map", cls=Command, short_help="All regions of a mixture: weight, breadth, overlap.")
@click.argument("fit")
@click.option("--out", cls=Several, required=True, help=OUT)
@click.option("--acts", help="Activations with the text that names regions.  [default: those the fit was made from, if they are there]")
@click.option("--links", type=click.IntRange(0), default=2, show_default=True, help="Lines of a region to those that overlap most with it.")
@click.option("--drawn", type=click.IntRange(1), default=32, show_default=True, help="Members of a region that are drawn for its tokens.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the drawn members.")
def draw_map(screen: Screen, fit: str, *, out: tuple[str, ...], acts: str | None, links: int, drawn: int, seed: int) -> None:
    """Draw every region of FIT in the plane of the centroids' first two principal axes, as large as its weight and coloured by its
    breadth, with lines between regions that overlap."""
    from armillary.core import artifact
    from armillary.inspect.region_figures import region_map

    _check(out)
    loaded = artifact.load(fit)
    rows = _rows_if_there(screen, Path(fit), loaded, acts)
    figure = region_map(loaded, rows=rows, n_links=links, n_drawn=drawn, seed=seed)
    lead = "A point is a region: larger with its weight, lighter with its breadth, joined to those that overlap most with it."
    facts = {"fit": fit, "decomposition": repr(loaded), "seed": seed}
    _write(screen, figure, out, title=f"Regions of {Path(fit).name}", lead=lead, facts=facts)


@command.command("region", cls=Command, short_help="One region's tokens at their places inside it.")
@click.argument("fit")
@click.argument("region", type=int)
@click.option("--out", cls=Several, required=True, help=OUT)
@click.option("--axes", cls=Several, type=int, default=(0, 1), show_default=True, help="Two or three of the region's loadings.")
@click.option("--acts", help=ACTS)
@click.option("--tokens", "n", type=click.IntRange(1), default=400, show_default=True, help="Members drawn from the region.")
@click.option("--neighbors", type=click.IntRange(0), default=3, show_default=True, help="Regions shown beside it, those that overlap most.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the drawn members.")
def draw_region(
    screen: Screen,
    fit: str,
    region: int,
    *,
    out: tuple[str, ...],
    axes: tuple[int, ...],
    acts: str | None,
    n: int,
    neighbors: int,
    seed: int,
) -> None:
    """Draw members of the REGION of FIT at their places along two or three of its loadings, with members of its neighbours."""
    from armillary.app import subjects
    from armillary.core import artifact
    from armillary.inspect.region_figures import region_space

    _check(out)
    loaded = artifact.load(fit)
    rows = subjects.own_rows(subjects.open_store(Path(fit), loaded, acts), loaded)
    figure = region_space(loaded, rows, region, axes=axes, n=n, n_neighbors=neighbors, seed=seed)
    lead = "A point is a token at its place inside the region, in standard deviations; rings at 1 and 2. Hover for its text."
    facts = {"fit": fit, "decomposition": repr(loaded), "region": region, "axes": list(axes), "seed": seed}
    _write(screen, figure, out, title=f"Region {region} of {Path(fit).name}", lead=lead, facts=facts)


@command.command("token", cls=Command, short_help="What one token is added up from, by each of several fits.")
@click.argument("fits", nargs=-1, required=True)
@click.option("--out", cls=Several, required=True, help=OUT)
@click.option("--row", type=int, help="Which row of the activations.")
@click.option("--text", help="A text to run the model on, in place of a row.")
@click.option("--token", type=int, default=-1, show_default=True, help="Which token of the text, from 0; below 0 from its end.")
@click.option("--acts", help=ACTS)
@click.option("--model", help="Model that reads the text.  [default: the one the fits were made from]")
@click.option("--steps", type=click.IntRange(1), default=16, show_default=True, help="Contributions shown one by one.")
def draw_token(
    screen: Screen,
    fits: tuple[str, ...],
    *,
    out: tuple[str, ...],
    row: int | None,
    text: str | None,
    token: int,
    acts: str | None,
    model: str | None,
    steps: int,
) -> None:
    """Draw what one token's activation is added up from by each of FITS: contribution by contribution, and what is left after each."""
    from armillary.core import artifact
    from armillary.inspect.region_figures import waterfall

    if (row is None) == (text is None):
        raise click.UsageError("give either --row, a row of the activations, or --text, a text to run the model on")
    _check(out)
    loaded = {Path(path): artifact.load(path) for path in fits}
    _check_sites(loaded)
    x, lead = _of_row(loaded, row, acts) if row is not None else _of_text(loaded, str(text), token, model)
    names = [path.name for path in loaded]
    named = {path.name if names.count(path.name) == 1 else str(path): fit for path, fit in loaded.items()}
    facts = {"fits": list(fits)} | ({"row": row} if row is not None else {"text": text, "token": token})
    _write(screen, waterfall(named, x, n_steps=steps), out, title=f"A token by {', '.join(named)}", lead=lead, facts=facts)


# ---------------------------------------------------------------- what is drawn


def _of_row(fits: Mapping[Path, Decomposition], row: int, acts: str | None) -> tuple[Tensor, Content]:
    """A row of the activations, and its text."""
    import numpy as np

    from armillary.app import subjects
    from armillary.core.columns import columns_for
    from armillary.errors import InputError

    path, fit = next(iter(fits.items()))
    rows = subjects.own_rows(subjects.open_store(path, fit, acts), fit)
    if not 0 <= row < rows.n_rows:
        raise InputError(f"row {row} is out of range: there are {rows.n_rows:,} (0 to {rows.n_rows - 1})")
    x = rows.read(np.array([row]))[0, columns_for(fit, rows.layout)[0]]
    return x.float(), _lead(rows.tokens, row)


def _of_text(fits: Mapping[Path, Decomposition], text: str, token: int, model: str | None) -> tuple[Tensor, Content]:
    """A token of a text that the model reads, and the text."""
    from dataclasses import replace

    import numpy as np

    from armillary.app import subjects
    from armillary.errors import InputError

    fit = next(iter(fits.values()))
    if fit.site is None:
        raise InputError(f"{fit!r} does not name the one site it reads, so a text gives it nothing; name a --row of its activations")
    lm = subjects.open_model(fits, model)
    tokens = lm.tokenize([text])
    own = np.flatnonzero(~tokens.is_special)
    if not -len(own) <= token < len(own):
        raise InputError(f"token {token} is out of range: the text has {len(own)} (0 to {len(own) - 1}, or -1 for the last)")
    x = lm.capture(tokens, [fit.site])[fit.site][0, int(own[token])]
    return x.float().cpu(), _lead(replace(tokens, is_row=~tokens.is_special), int(np.arange(len(own))[token]))


def _lead(tokens: Tokens, row: int) -> Content:
    """The token in bold in its text."""
    from armillary.core.html import join, tag

    here = int(tokens.rows[row])
    around = tokens.window_tokens(row, *WINDOW)
    return join(*(tag("strong", tokens.text(i)) if i == here else tokens.text(i) for i in around))


def _check_sites(fits: Mapping[Path, Decomposition]) -> None:
    """All fits have to read the same place."""
    from armillary.errors import MismatchError

    (first, one), *others = fits.items()
    for path, fit in others:
        if fit.inputs != one.inputs:
            raise MismatchError(f"'{path}' ({fit!r}) reads another place than '{first}' ({one!r}); draw them one at a time")


def _rows_if_there(screen: Screen, path: Path, fit: Decomposition, acts: str | None) -> StoredRows | None:
    """The fit's rows; None, and a remark, where nobody named them and they are gone."""
    from armillary.app import subjects
    from armillary.errors import InputError

    try:
        return subjects.own_rows(subjects.open_store(path, fit, acts), fit)
    except InputError as error:
        if acts is not None:
            raise
        screen.remark(f"note: regions are shown without tokens, because {error}")
        return None


# ---------------------------------------------------------------- files


def _check(out: tuple[str, ...]) -> None:
    from armillary.core.artifact import new_file
    from armillary.inspect.drawing import ENDINGS

    for path in out:
        new_file(path, "a figure", ENDINGS)


def _write(screen: Screen, figure: dict[str, Any], out: tuple[str, ...], *, title: str, lead: Content, facts: Mapping[str, Any]) -> None:
    from armillary.inspect.region_figures import save

    for path in out:
        save(figure, path, title=title, lead=lead, facts=facts)
    screen.answer({"out": list(out), "figure": figure}, *out)
